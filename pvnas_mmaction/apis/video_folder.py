"""A folder of class folders, or lists, as clips: every one decoded once."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..datasets.video_frames import VideoFrames
from ..datasets.video_list import read_video_list, video_file
from ..report.predictions import names_next_to
from ..space.checks import wrong
from .onnx_predict import videos_in

# One for each list, and one more for each half of the training list in a search.
FEWEST = 5
NUM_HASHED = 3
SPLITS = ("train", "val", "test")
EXPECTED = "a folder with a folder of videos for each class"
Track = Callable[..., Iterable[Any]]


@dataclass(frozen=True)
class Clip:
    """A video, its path below VIDEOS, and what a scan found: hashes of some frames, why
    it can't be read; clips of one source share a ``group``."""

    path: str
    label: int
    frames: int = 0
    fps: float = 0.0
    height: int = 0
    width: int = 0
    hashes: tuple[int, ...] = ()
    fault: str = ""
    group: str = ""


def find_clips(folder: Path) -> tuple[list[str], list[Clip]]:
    """Class names, sorted, and videos of two class folders or more, not yet read."""
    found: dict[str, list[Path]] = {}
    empty = []
    for inner in sorted(folder.iterdir()):
        if inner.is_dir() and not inner.name.startswith("."):
            if files := videos_in(inner):
                found[inner.name] = files
            else:
                empty.append(inner.name)
    if len(found) < 2:
        expected = f"{EXPECTED}, two classes or more"
        one = f"videos of one class in {folder}"
        raise wrong("VIDEOS", expected, one if found else f"no videos in {folder}/*/")
    if empty:
        print(f"warning: folders without videos are left out: {', '.join(empty)}")
    return list(found), [
        Clip(file.relative_to(folder).as_posix(), label)
        for label, files in enumerate(found.values())
        for file in files
    ]


def read_lists(
    folder: Path, files: Sequence[str]
) -> tuple[list[str], dict[str, list[Clip]]]:
    """Class names (of ``classes.txt`` next to the first list, else the class ids), and
    the clips of lists, not yet read. Of two lists, every second clip of each class to
    validate is one to test."""
    if len(files) not in (2, 3):
        raise wrong("--lists", "TRAIN VAL [TEST]", f"{len(files)} lists")
    lists: dict[str, list[Clip]] = {}
    for split, file in zip(SPLITS, files, strict=False):
        lists[split] = []
        for path, label in read_video_list(str(file), f"--lists ({split})"):
            lists[split].append(Clip(video_file(path), label))
    if len(files) == 2:
        ordered = sorted(lists["val"], key=lambda clip: clip.label)
        lists["val"], lists["test"] = ordered[::2], ordered[1::2]
    number = 1 + max(clip.label for clips in lists.values() for clip in clips)
    if number < 2:
        raise wrong("--lists", "two classes or more", "class 0 alone")
    trained = {clip.path for clip in lists["train"]}
    for split in ("val", "test"):
        if common := sum(clip.path in trained for clip in lists[split]):
            text = f"{common} clips of the {split} list are trained on"
            print(f"warning: --lists: {text}")
    names = names_next_to(Path(files[0]))
    return names or [str(label) for label in range(number)], lists


def read_clips(folder: Path, clips: Sequence[Clip], track: Track) -> list[Clip]:
    """Decode clips once, in parallel; ``track`` shows progress."""

    def read(clip: Clip) -> Clip:
        # A list is UTF-8 text with a path in each line.
        lines = clip.path.encode(errors="replace").decode().splitlines()
        if (path := "?".join(lines).strip()) != clip.path:
            fault = "its name can't stand in a list of files; rename it"
            return replace(clip, path=path, fault=fault)
        try:
            video = VideoFrames(str(folder / clip.path))
            shares = np.linspace(0, 1, NUM_HASHED + 2)[1:-1]
            images = video.read([int(share * (len(video) - 1)) for share in shares])
        except (OSError, ValueError) as error:
            return replace(clip, fault=str(error))
        height, width = images[0].shape[:2]
        return replace(
            clip, frames=len(video), fps=video.fps, height=height, width=width,
            hashes=tuple(map(perceptual_hash, images)),
        )  # fmt: skip

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(track(pool.map(read, clips), total=len(clips)))


def perceptual_hash(image: np.ndarray) -> int:
    """64 bits: which of the lowest spatial frequencies of an image (H, W, 3) are above
    their median (pHash, Zauner, 2010)."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[:8, :8].ravel()
    return int.from_bytes(np.packbits(low > np.median(low[1:])).tobytes(), "big")


def describe(clips: Sequence[Clip], num_classes: int) -> str:
    lines = [f"  {clip.path}: {clip.fault}" for clip in clips if clip.fault]
    if lines:
        title = f"{len(lines)} of {len(clips)} clips can't be read, set aside:"
        lines.insert(0, title)
    if good := [clip for clip in clips if not clip.fault]:
        times = sorted(clip.frames / (clip.fps or 25) for clip in good)
        sizes = Counter(f"{clip.width}x{clip.height}" for clip in good).most_common(3)
        lines.append(
            f"{len(good)} clips of {num_classes} classes; shortest {times[0]:.1f} s, "
            f"median {times[len(times) // 2]:.1f} s, longest {times[-1]:.1f} s; "
            + ", ".join(f"{number} of {size}" for size, number in sizes)
        )
    return "\n".join(lines)


def check_clips(names: Sequence[str], clips: Sequence[Clip]) -> None:
    counts = Counter(clip.label for clip in clips if not clip.fault)
    label = min(range(len(names)), key=lambda i: counts[i])
    if not counts:
        first = clips[0]
        got = f"none of {len(clips)}, such as {first.path}: {first.fault}"
        raise wrong("VIDEOS", "clips that can be read", got)
    if counts[label] < FEWEST:
        expected = f"{FEWEST} clips or more of each class that can be read"
        hint = "add clips, or move the folder elsewhere"
        got = f"{counts[label]} of {names[label]!r}"
        faults = [clip.fault for clip in clips if clip.label == label and clip.fault]
        got += f" ({len(faults)} set aside: {faults[0]})" if faults else ""
        raise wrong("VIDEOS", expected, got, hint)
