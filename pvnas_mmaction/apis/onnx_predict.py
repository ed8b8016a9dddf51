#!/usr/bin/env python
"""Classes of videos, by an exported network.

This file runs without the package: it needs Python, numpy, OpenCV and onnxruntime.
Frames are read by PyAV where that is installed, as in training; OpenCV's differ by a
level here and there.

    python onnx_predict.py FOLDER VIDEO... [--window 2] [--out FILE.csv]

FOLDER holds ``model.onnx``, ``preprocessing.json`` and ``labels.txt``, as ``pvnas fit``
writes them. VIDEO is a file, or a folder of files.
"""

import argparse
import csv
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

try:
    # The file that training reads by, without the package, which imports PyTorch.
    _FILE = Path(__file__).resolve().parent.parent / "datasets" / "presented_frames.py"
    _SPEC = importlib.util.spec_from_file_location("presented_frames", _FILE)
    presented = importlib.util.module_from_spec(_SPEC)
    _SPEC.loader.exec_module(presented)
except (ImportError, OSError):
    presented = None

SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv",
            ".flv", ".3gp", ".ts", ".mts", ".ogv", ".gif"}  # fmt: skip
BATCH_SIZE = 8
# Normalised clips (N, C, T, H, W), float32 -> class scores (N, num_classes).
Network = Callable[[np.ndarray], np.ndarray]


@dataclass
class Deployed:
    """A network that runs, its class names, and how a clip is made for it: ``frames``,
    ``sampling`` ("uniform", or frames from one to the next), ``steps`` ([["resize",
    [w, h], keep_ratio] or ["center_crop", [w, h]], ...]), ``mean`` and ``std`` (by
    channel, RGB, of levels from 0 to 255)."""

    network: Network
    labels: list[str]
    preprocessing: dict[str, Any]


def load_exported(path: str) -> Deployed:
    """Read what ``pvnas fit`` wrote: a folder, or the ONNX file in it."""
    import onnxruntime

    file = Path(path, "model.onnx") if Path(path).is_dir() else Path(path)
    for needed in (file, *(file.with_name(n) for n in DESCRIPTION)):
        if not needed.is_file():
            raise FileNotFoundError(f"{needed}: expected a file of an export, got none")
    try:
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(str(file), providers=providers)
    except Exception as error:  # its errors have no common class
        raise ValueError(f"{file}: expected an ONNX network, got {error}") from error

    def network(clips: np.ndarray) -> np.ndarray:
        return session.run(["logits"], {"clips": clips})[0]

    return Deployed(network, *read_description(file.parent))


DESCRIPTION = ("labels.txt", "preprocessing.json")


def read_description(folder: Path) -> tuple[list[str], dict[str, Any]]:
    texts = [(folder / name).read_text(encoding="utf-8") for name in DESCRIPTION]
    return texts[0].splitlines(), json.loads(texts[1])


def count_frames(path: str) -> tuple[int, float]:
    """Number of frames, and of frames per second (0: unknown)."""
    if presented is None:
        capture = cv2.VideoCapture(path)
        return sum(iter(capture.grab, False)), capture.get(cv2.CAP_PROP_FPS)
    with presented.opened(path) as (container, stream):
        number = sum(1 for _ in presented.decode(container, stream))
        return number, float(stream.average_rate or 0)


def read_frames(path: str, numbers: set[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Number and upright picture (H, W, 3), uint8, red first, of some frames, in the
    order of presentation; the first frame, which says how large all are, is one."""
    wanted = {0, *numbers}
    if presented is None:
        capture = cv2.VideoCapture(path)
        for number in range(max(wanted) + 1):
            capture.grab()
            if number in wanted:
                yield number, cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)
        return
    with presented.opened(path) as source:
        frames = enumerate(presented.decode(*source))
        chosen = (frame for number, frame in frames if number in wanted)
        yield from zip(sorted(wanted), presented.show(chosen), strict=True)


def sample(total: int, start: int, preprocessing: dict[str, Any]) -> list[int]:
    """Frames of a clip out of ``total`` ones from ``start`` on, as MMAction2's
    UniformSample and SampleFrames take them in a test."""
    count, sampling = preprocessing["frames"], preprocessing["sampling"]
    if sampling == "uniform":
        segment = float(total - 1) / count
        offset = int(segment / 2)
        numbers = [int(np.round(segment * i)) + offset for i in range(count)]
    else:
        first = max(total - ((count - 1) * sampling + 1), 0) // 2
        numbers = [(first + i * sampling) % total for i in range(count)]
    return [start + number for number in numbers]


def resize_and_crop(image: np.ndarray, steps: Sequence[Sequence[Any]]) -> np.ndarray:
    """A frame (H, W, 3) of the size that the network takes."""
    for kind, (width, height), *keep_ratio in steps:
        h, w = image.shape[:2]
        if kind == "center_crop":
            left, top = (w - width) // 2, (h - height) // 2
            image = image[top : top + height, left : left + width]
            continue
        if keep_ratio[0]:
            short, long = sorted((width, height))
            short, long = (long, np.inf) if short == -1 else (short, long)
            factor = min(long / max(h, w), short / min(h, w))
            width, height = int(w * factor + 0.5), int(h * factor + 0.5)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image


def clips_of(
    path: str, preprocessing: dict[str, Any], window: float = 0, stride: float = 0
) -> Iterator[tuple[np.ndarray, tuple[float, float]]]:
    """The clips of a video, normalised, (C, T, H, W), float32, with start and end in
    seconds: one clip, or one per ``window`` of so many seconds, every ``stride``
    seconds (0: as long as a window). ValueError where no frame can be read."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: expected a video, got no file")
    try:
        total, fps = count_frames(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected a video, got {error}") from error
    if total == 0:
        raise ValueError(f"{path}: expected a video, got no frames")
    fps = fps or 25.0
    length = min(max(round(window * fps), 1), total) if window else total
    step = max(round(stride * fps), 1) if stride else length
    starts = list(range(0, total - length + 1, step))
    if starts[-1] + length < total:  # the end of the video, too
        starts.append(total - length)
    mean, std = (np.float32(preprocessing[key]) for key in ("mean", "std"))
    numbers = [sample(length, start, preprocessing) for start in starts]
    found, frames = read_frames(path, {i for row in numbers for i in row}), {}
    for start, row in zip(starts, numbers, strict=True):
        frames = {i: frame for i, frame in frames.items() if i >= start}
        while max(row) not in frames:
            number, picture = next(found)
            frames[number] = resize_and_crop(picture, preprocessing["steps"])
        clip = (np.stack([frames[i] for i in row]).astype(np.float32) - mean) / std
        times = start / fps, (start + length) / fps
        yield np.ascontiguousarray(clip.transpose(3, 0, 1, 2)), times


def predict(
    deployed: Deployed, path: str, window: float = 0, stride: float = 0
) -> list[dict[str, Any]]:
    """What a video, or each window of it, shows: ``video``, ``start`` and ``end`` in
    seconds, and ``probabilities`` by class."""
    clips = clips_of(path, deployed.preprocessing, window, stride)
    rows = []
    while batch := list(islice(clips, BATCH_SIZE)):
        scores = deployed.network(np.stack([clip for clip, _ in batch]))
        shares = np.exp(scores.astype(float) - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        rows += [
            dict(video=path, start=start, end=end, probabilities=row.tolist())
            for (_, (start, end)), row in zip(batch, shares, strict=True)
        ]
    return rows


def videos_in(folder: Path) -> list[Path]:
    """The videos in and below a folder, sorted, without hidden ones."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def find_videos(paths: Sequence[str]) -> list[str]:
    """The files among some paths, and the videos in and below the folders."""
    found = []
    for path in map(Path, paths):
        inside = videos_in(path) if path.is_dir() else [path]
        if not inside:
            raise ValueError(f"{path}: expected videos in the folder, got none")
        found += map(str, inside)
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that both runtimes have."""
    add = parser.add_argument
    add("--top-k", type=int, default=3, help="classes to name; default: 3")
    window = "predict each window of a long video; default: the video as one clip"
    add("--window", type=float, default=0, metavar="SECONDS", help=window)
    stride = "from one window to the next; default: as long as a window"
    add("--stride", type=float, default=0, metavar="SECONDS", help=stride)
    add("--out", type=Path, metavar="FILE", help="all probabilities: .json or .csv")
    add("--onnx", action="store_true", help="run model.onnx, without PyTorch")


def predict_all(
    deployed: Deployed, videos: Sequence[str], args: argparse.Namespace
) -> bool:
    """Predict, print and write; whether all videos could be read."""
    for name, seconds in dict(window=args.window, stride=args.stride).items():
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"--{name}: expected seconds, got {seconds:g}")
    if args.top_k < 1:
        raise ValueError(f"--top-k: expected 1 or more, got {args.top_k}")
    if args.out and args.out.suffix not in (".json", ".csv"):
        raise ValueError(f"--out: expected FILE.json or FILE.csv, got {args.out}")
    found, videos = [], find_videos(videos)
    for video in videos:
        try:
            rows = predict(deployed, video, args.window, args.stride)
        except (OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            continue
        for row in rows:
            pairs = zip(row["probabilities"], deployed.labels, strict=True)
            top = sorted(pairs, key=lambda pair: -pair[0])[: args.top_k]
            row["top"] = [label for _, label in top]
            shown = ", ".join(f"{label} {share:.3f}" for share, label in top)
            time = f"  {row['start']:7.2f}-{row['end']:.2f} s" if args.window else ""
            print(f"{video}{time}  {shown}", flush=True)
        found += rows
    if args.out:
        write(found, deployed.labels, args.out)
    return {row["video"] for row in found} == set(videos)


def write(rows: Sequence[dict[str, Any]], labels: list[str], path: Path) -> None:
    """Write predictions as JSON, or as CSV with a column for each class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        if path.suffix == ".json":
            content = dict(labels=labels, predictions=list(rows))
            json.dump(content, file, ensure_ascii=False, indent=1)
            return
        writer = csv.writer(file)
        writer.writerow(["video", "start", "end", "top_1", *labels])
        for row in rows:
            head = (row["video"], f"{row['start']:.3f}", f"{row['end']:.3f}")
            shares = [f"{share:.6f}" for share in row["probabilities"]]
            writer.writerow([*head, row["top"][0], *shares])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="what pvnas fit wrote, or its model.onnx")
    parser.add_argument("videos", nargs="+", metavar="VIDEO")
    add_options(parser)
    args = parser.parse_args()
    try:
        whole = predict_all(load_exported(args.folder), args.videos, args)
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"error: {error}")
    sys.exit(not whole)


if __name__ == "__main__":
    main()
