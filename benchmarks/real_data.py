# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""A folder of real clips in folds, decoded once and held in memory.

The folder holds ``classes.txt`` (one name per line) and, for each fold from 1 up,
``foldN_train.txt`` and ``foldN_val.txt`` (``path class_id`` per line, paths from the
folder). Nothing of it is written anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.clips import decode, resize

MIN_AREA = 0.4
RATIOS = (3 / 4, 4 / 3)


class Split(NamedTuple):
    """Clips as rows of :class:`RealClips`.

    Args:
        train: To train on.
        val: To test on: other scenes.
    """

    train: tuple[int, ...]
    val: tuple[int, ...]


@dataclass(frozen=True)
class Fold:
    """A split of all clips, and splits of its training part.

    Args:
        whole: To train and to test.
        inner: What is tuned or searched is judged by these, so that the clips to test
            on stay unseen. One for each other fold, the next one first: what that fold
            tests on is held out of the training part.
    """

    whole: Split
    inner: tuple[Split, ...]


def read_folds(folder: str | Path) -> tuple[list[str], dict[str, int], list[Fold]]:
    """The lists of a data folder.

    Returns:
        Class names, the class id of each clip by its path, and the folds; rows of a
        fold count in the order of the second.

    Raises:
        FileNotFoundError: A list is missing.
        ValueError: A line does not parse, a clip is in both lists of a fold or has two
            classes, or a list of an inner split would be empty.
    """
    folder = Path(folder)
    names = (folder / "classes.txt").read_text().split()
    lists: list[tuple[list[str], list[str]]] = []
    labels: dict[str, int] = {}
    while (folder / f"fold{len(lists) + 1}_train.txt").is_file():
        number = len(lists) + 1
        pair = tuple(
            _read_list(folder / f"fold{number}_{part}.txt", labels, len(names))
            for part in ("train", "val")
        )
        shared = set(pair[0]) & set(pair[1])
        if shared:
            raise ValueError(
                f"{folder.name}: fold {number}: found {sorted(shared)[0]!r} in both "
                "lists, expected every clip in one"
            )
        lists.append((pair[0], pair[1]))
    if len(lists) < 2:
        raise FileNotFoundError(
            f"{folder}: found {len(lists)} folds, expected fold1_train.txt, "
            "fold1_val.txt, fold2_train.txt and so on"
        )
    rows = {path: row for row, path in enumerate(labels)}
    folds = []
    for number, (train, val) in enumerate(lists):
        inner = []
        for distance in range(1, len(lists)):
            other = (number + distance) % len(lists)
            held_out = set(lists[other][1])
            kept = [path for path in train if path not in held_out]
            judged_by = [path for path in train if path in held_out]
            if not kept or not judged_by:
                raise ValueError(
                    f"{folder.name}: fold {number + 1}: found {len(judged_by)} "
                    f"training clips that fold {other + 1} tests on, expected some of "
                    "them, and some others"
                )
            inner.append(_split(rows, kept, judged_by))
        folds.append(Fold(_split(rows, train, val), tuple(inner)))
    return names, labels, folds


def _split(rows: Mapping[str, int], train: Sequence[str], val: Sequence[str]) -> Split:
    return Split(tuple(rows[path] for path in train), tuple(rows[path] for path in val))


def _read_list(path: Path, labels: dict[str, int], num_classes: int) -> list[str]:
    clips = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        name, _, text = line.strip().rpartition(" ")
        label = int(text) if text.isdecimal() else -1
        if not name or not 0 <= label < num_classes:
            raise ValueError(
                f"{path.name}: line {number}: found {line!r}, expected a path and a "
                f"class id from 0 to {num_classes - 1}"
            )
        if labels.setdefault(name, label) != label:
            raise ValueError(
                f"{path.name}: line {number}: found class {label} for {name!r}, "
                f"expected {labels[name]} as in another list"
            )
        clips.append(name)
    return clips


class RealClips:
    """Clips in memory, with the augmentation that every network gets.

    A training view: the clip is cut into as many equal parts as a view has frames, and
    one frame of each is drawn; one crop for all of them, of 0.4 to 1 times the area and
    a side ratio of 3/4 to 4/3. Else the middle frame of each part and the largest
    square in the middle. No flip: a mirror may turn one class into another.

    With ``background_mixing``, a training view is (1 - s) v + s b: v the view as above,
    b the same crop of one frame of any of these clips, the same in all frames of the
    view, and s uniform on [0, background_mixing]. A still picture adds nothing that
    moves, so that what moves tells more than the scene does (after Wang et al., 2021,
    arXiv 2009.05769, who add a frame of the clip itself).

    Args:
        frames: (N, S, h, w, 3), uint8: S frames of each clip at even distances.
        labels: (N,), class ids.
        clip_len: Frames of a view.
        crop: Height and width of a view in pixels.
        background_mixing: Highest share of a still frame in a training view, 0 to
            below 1. Default 0: none is mixed in.

    Raises:
        ValueError: Fewer frames are stored than a view has, or no such share.
    """

    def __init__(
        self,
        frames: Tensor,
        labels: Tensor,
        clip_len: int,
        crop: int,
        background_mixing: float = 0.0,
    ) -> None:
        if not 0 <= background_mixing < 1:
            raise ValueError(
                f"background_mixing: found {background_mixing}, expected 0 to below 1, "
                "the highest share of a still frame in a training view"
            )
        if frames.shape[1] < clip_len:
            raise ValueError(
                f"stored_frames: found {frames.shape[1]}, expected {clip_len} or more, "
                "the frames of a view"
            )
        self.frames = frames
        self.labels = labels
        self.clip_len = clip_len
        self.crop = crop
        self.background_mixing = background_mixing

    @classmethod
    def read(
        cls,
        folder: str | Path,
        labels: dict[str, int],
        clip_len: int,
        crop: int,
        stored_frames: int,
        background_mixing: float = 0.0,
    ) -> RealClips:
        """Decode clips: ``stored_frames`` frames of each at even distances, resized to
        8/7 of the crop in height, and to one common width.

        Args:
            folder: Where paths start.
            labels: Class id of each clip by its path.
            clip_len: Frames of a view.
            crop: Height and width of a view in pixels.
            stored_frames: Frames kept of each clip.
            background_mixing: As of the class. Default 0.

        Raises:
            FileNotFoundError: A video is missing.
        """
        clips: list[np.ndarray] = []
        height, width = round(crop * 8 / 7), 0
        for name in labels:
            path = Path(folder) / name
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such file, though it is in a list")
            video = decode(path)
            # The middle of each of so many equal parts.
            positions = (np.arange(stored_frames) + 0.5) * len(video) / stored_frames
            video = video[positions.astype(int)]
            width = width or round(height * video.shape[2] / video.shape[1])
            clips.append(resize(video, height, width))
        frames = torch.from_numpy(np.stack(clips))
        classes = torch.tensor(list(labels.values()))
        return cls(frames, classes, clip_len, crop, background_mixing)

    def to(self, device: str | torch.device) -> RealClips:
        """The clips on a device."""
        return self._with(self.frames.to(device), self.labels.to(device))

    def select(self, rows: Sequence[int]) -> RealClips:
        """Some of the clips, in the order given."""
        chosen = torch.as_tensor(rows, device=self.labels.device)
        return self._with(self.frames[chosen], self.labels[chosen])

    def _with(self, frames: Tensor, labels: Tensor) -> RealClips:
        """Other clips with the same views."""
        return RealClips(
            frames, labels, self.clip_len, self.crop, self.background_mixing
        )

    def __len__(self) -> int:
        return len(self.labels)

    def views(
        self, indices: Sequence[int], seeds: Sequence[int] | None = None
    ) -> Tensor:
        """Views of some clips, float32, 0 to 255.

        Args:
            indices: Which clips, N of them.
            seeds: One for each, that its augmentation follows from. Default None: the
                view that a network is tested on.

        Returns:
            (N, 3, T, crop, crop).
        """
        made = []
        for number, index in enumerate(indices):
            generator = None if seeds is None else np.random.default_rng(seeds[number])
            times = self._times(generator)
            box = self._box(generator)
            frames = self.frames[index, torch.from_numpy(times).to(self.frames.device)]
            view = self._cut(frames, box)
            if generator is not None and self.background_mixing:
                other = generator.integers(len(self))
                time = generator.integers(self.frames.shape[1])
                share = generator.uniform(0, self.background_mixing)
                still = self._cut(self.frames[other, time : time + 1], box)
                view = (1 - share) * view + share * still
            made.append(view)
        return torch.stack(made).transpose(1, 2).contiguous()

    def _cut(self, frames: Tensor, box: tuple[int, int, int, int]) -> Tensor:
        """(T, h, w, 3) -> (T, 3, crop, crop), float32: what is in a box, resized."""
        top, left, height, width = box
        part = frames[:, top : top + height, left : left + width].permute(0, 3, 1, 2)
        size = (self.crop, self.crop)
        return interpolate(part.float(), size, mode="bilinear", antialias=True)

    def _times(self, generator: np.random.Generator | None) -> np.ndarray:
        """Which frames of those stored: one of each part."""
        edges = np.arange(self.clip_len + 1) * self.frames.shape[1] // self.clip_len
        if generator is None:
            return (edges[:-1] + edges[1:] - 1) // 2
        return generator.integers(edges[:-1], edges[1:])

    def _box(self, generator: np.random.Generator | None) -> tuple[int, int, int, int]:
        """Top, left, height and width of the crop, in pixels of what is stored."""
        full_height, full_width = self.frames.shape[2:4]
        if generator is None:
            side = min(full_height, full_width)
            return (full_height - side) // 2, (full_width - side) // 2, side, side
        area = full_height * full_width * generator.uniform(MIN_AREA, 1)
        ratio = math.exp(generator.uniform(*np.log(RATIOS)))
        height = min(round(math.sqrt(area / ratio)), full_height)
        width = min(round(math.sqrt(area * ratio)), full_width)
        top = int(generator.integers(full_height - height + 1))
        left = int(generator.integers(full_width - width + 1))
        return top, left, height, width
