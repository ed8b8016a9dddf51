# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""A folder of class folders as three lists: every clip decoded once, near-duplicates
kept on one side.

Clips of one source in training and test make a network look better than it is. Groups
come from the names, by a regular expression, or from the pictures: clips with frames
whose perceptual hashes differ in few bits are of one source.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..datasets.video_frames import VideoFrames
from ..datasets.video_list import read_video_list, video_file
from ..space.checks import wrong
from .onnx_predict import videos_in

SPLITS = {"train": 0.6, "val": 0.2, "test": 0.2}
# One for each list, and one more for each half of the training list in a search.
FEWEST = 5
NUM_HASHED = 3
# Bits of 64 in which the hashes of two frames of one source differ at most. With 10,
# one in 10,000 pairs of tennis clips from two scenes is taken for one source; where all
# clips look alike, as depth maps do, it has to be less.
NEAR = (10, 6, 3, 0)
LARGEST = 0.2
EXPECTED = "a folder with a folder of videos for each class"
Track = Callable[[Iterable[Any], int], Iterable[Any]]


@dataclass(frozen=True)
class Clip:
    """A file of a class folder.

    Args:
        path: From the folder of class folders on, with ``/``.
        label: Class id.
        size: Bytes, and with ``modified``, in nanoseconds, what tells a file as it is.
        frames: Number of frames; 0 where it can't be read.
        fps: Frames per second by the container.
        height: Pixels.
        width: Pixels.
        hashes: Perceptual hashes of some frames, as numbers.
        fault: Why it can't be read.
        group: What the clips of one source share.
    """

    path: str
    label: int
    size: int
    modified: int
    frames: int = 0
    fps: float = 0.0
    height: int = 0
    width: int = 0
    hashes: tuple[int, ...] = ()
    fault: str = ""
    group: str = ""


def find_clips(folder: Path) -> tuple[list[str], list[Clip]]:
    """Class names, sorted, and the video files of each class folder, not yet read.

    Raises:
        ValueError: There is no class folder with videos, or one alone.
    """
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
    clips = []
    for label, files in enumerate(found.values()):
        for file in files:
            state, path = file.stat(), file.relative_to(folder).as_posix()
            clips.append(Clip(path, label, state.st_size, state.st_mtime_ns))
    return list(found), clips


def read_lists(
    folder: Path, files: Sequence[str]
) -> tuple[list[str], dict[str, list[Clip]]]:
    """Class names, and the clips of lists of ``path class_id`` lines, not yet read.

    Args:
        folder: What the paths start from.
        files: Lists to train, to validate and to test; without the last one, every
            second clip of each class to validate is one to test. Names are the lines of
            ``classes.txt`` next to the first, else the class ids.
    """
    if len(files) not in (2, 3):
        raise wrong("--lists", "TRAIN VAL [TEST]", f"{len(files)} lists")
    lists: dict[str, list[Clip]] = {}
    for split, file in zip(SPLITS, files, strict=False):
        lists[split] = []
        for path, (label,) in read_video_list(str(file), f"--lists ({split})"):
            whole = folder / video_file(path)
            state = whole.stat() if whole.is_file() else None
            found = (state.st_size, state.st_mtime_ns) if state else (0, 0)
            lists[split].append(Clip(video_file(path), label, *found))
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
    classes = Path(files[0]).with_name("classes.txt")
    names = classes.read_text("utf-8").splitlines() if classes.is_file() else []
    return names or [str(label) for label in range(number)], lists


def read_clips(
    folder: Path, clips: Sequence[Clip], known: Iterable[dict], track: Track
) -> list[Clip]:
    """Decode clips once, in parallel.

    Args:
        folder: What their paths start from.
        clips: The clips.
        known: What an earlier call gave, as dicts: files that are still the same are
            not decoded again.
        track: Wrapped around the results, with their number, to show progress.
    """
    done = {(clip["path"], clip["size"], clip["modified"]): clip for clip in known}

    def read(clip: Clip) -> Clip:
        before = done.get((clip.path, clip.size, clip.modified))
        if before is not None:
            return replace(from_dict(before), label=clip.label, group="")
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
        return list(track(pool.map(read, clips), len(clips)))


def perceptual_hash(image: np.ndarray) -> int:
    """64 bits: which of the lowest spatial frequencies of an image (H, W, 3) are above
    their median (pHash, Zauner, 2010)."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[:8, :8].ravel()
    return int.from_bytes(np.packbits(low > np.median(low[1:])).tobytes(), "big")


def describe(clips: Sequence[Clip], num_classes: int) -> str:
    """Number, lengths and sizes of the clips, and a table of those set aside."""
    lines = [f"  {clip.path}: {clip.fault}" for clip in clips if clip.fault]
    if lines:
        title = f"{len(lines)} of {len(clips)} clips can't be read, set aside:"
        lines.insert(0, title)
    good = [clip for clip in clips if not clip.fault]
    first: dict[Any, Clip] = {}
    for clip in good:
        other = first.setdefault((clip.size, clip.hashes), clip)
        if other.label != clip.label:
            text = "look the same, and are of two classes"
            lines.append(f"warning: {other.path} and {clip.path} {text}")
    if good:
        times = sorted(clip.frames / (clip.fps or 25) for clip in good)
        sizes = Counter(f"{clip.width}x{clip.height}" for clip in good).most_common(3)
        lines.append(
            f"{len(good)} clips of {num_classes} classes; shortest {times[0]:.1f} s, "
            f"median {times[len(times) // 2]:.1f} s, longest {times[-1]:.1f} s; "
            + ", ".join(f"{number} of {size}" for size, number in sizes)
        )
    return "\n".join(lines)


def check_clips(names: Sequence[str], clips: Sequence[Clip]) -> None:
    """Check that each class has clips for all lists.

    Raises:
        ValueError: One has too few that can be read; names it.
    """
    counts = Counter(clip.label for clip in clips if not clip.fault)
    label = min(range(len(names)), key=lambda i: counts[i])
    if not counts:
        first = clips[0]
        got = f"none of {len(clips)}, such as {first.path}: {first.fault}"
        raise wrong("VIDEOS", "clips that can be read", got)
    if counts[label] < FEWEST:
        expected = f"{FEWEST} clips or more of each class that can be read"
        hint = "add clips, or move the folder elsewhere"
        raise wrong("VIDEOS", expected, f"{counts[label]} of {names[label]!r}", hint)


def group_clips(
    clips: Sequence[Clip], pattern: str | None, near: int = NEAR[0]
) -> list[Clip]:
    """Give clips of one source one group.

    Args:
        clips: Readable clips.
        pattern: Regular expression, searched in the path: its first group, or all that
            it matches, is the source. None: by near-duplicate frames.
        near: Bits in which the hashes of such frames differ at most. Default 10.

    Raises:
        ValueError: The pattern is none, or does not match a path.
    """
    if pattern is not None:
        try:
            found = [re.search(pattern, clip.path) for clip in clips]
        except re.error as error:
            expected = "a regular expression"
            raise wrong("--group-regex", expected, f"{pattern!r}: {error}") from error
        sources = [match and match[min(1, match.re.groups)] for match in found]
        if None in sources:
            path = clips[sources.index(None)].path
            got = f"no match in {path}"
            raise wrong("--group-regex", "one that matches every path", got)
        pairs = zip(clips, sources, strict=True)
        return [replace(clip, group=str(source)) for clip, source in pairs]
    roots = list(range(len(clips)))

    def root(i: int) -> int:
        while roots[i] != i:
            roots[i] = i = roots[roots[i]]
        return i

    bits = np.array([clip.hashes for clip in clips], np.uint64)
    for i in range(len(clips)):
        differing = bits[i][:, None, None] ^ bits[None, i + 1 :]
        octets = differing.view(np.uint8).reshape(*differing.shape, 8)
        distances = np.unpackbits(octets, -1).sum(-1).min(axis=(0, 2))
        for j in np.flatnonzero(distances <= near):
            roots[root(i + 1 + int(j))] = root(i)
    return [replace(clip, group=clips[root(i)].path) for i, clip in enumerate(clips)]


def split_clips(clips: Sequence[Clip], seed: int) -> dict[str, list[Clip]]:
    """Train, validation and test clips: the shares of :data:`SPLITS` of each class, and
    no group on two sides.

    Groups go, the largest first, to the list that lacks most of their classes.

    Args:
        clips: With their groups.
        seed: Of the order among groups of one size.

    Returns:
        The clips of each list, in their order; a list lacks a class where the groups
        leave no other way.
    """
    members: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        members[clip.group].append(clip)
    groups = [members[name] for name in sorted(members)]
    random.Random(seed).shuffle(groups)
    groups.sort(key=len, reverse=True)
    totals = Counter(clip.label for clip in clips)
    room = {
        split: {label: max(share * count, 1.0) for label, count in totals.items()}
        for split, share in SPLITS.items()
    }
    chosen: dict[str, str] = {}
    for group in groups:
        counts = Counter(clip.label for clip in group)

        def gain(split: str, counts: Counter = counts) -> float:
            return sum(
                count * room[split][label] / (SPLITS[split] * totals[label])
                for label, count in counts.items()
            )

        best = max(SPLITS, key=gain)
        chosen[group[0].group] = best
        for label, count in counts.items():
            room[best][label] -= count
    return {s: [c for c in clips if chosen[c.group] == s] for s in SPLITS}


def lacking(lists: dict[str, list[Clip]]) -> str | None:
    """The first list that lacks a class, or, of two training clips, one; None where all
    have what a search needs."""
    labels = {clip.label for clips in lists.values() for clip in clips}
    for split, clips in lists.items():
        counts = Counter(clip.label for clip in clips)
        if any(counts[label] < (2 if split == "train" else 1) for label in labels):
            return split
    return None


def from_dict(data: dict[str, Any]) -> Clip:
    """A clip out of its fields; further keys don't count."""
    own = {field.name: data[field.name] for field in fields(Clip)}
    return Clip(**{**own, "hashes": tuple(own["hashes"])})
