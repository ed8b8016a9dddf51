"""Motion clips, decoded once and held in memory.

Networks this small train faster than a video is decoded. The clips of a folder that
``tools/make_motion_clips.py`` made are read once as uint8; a view is ``clip_len``
consecutive frames of a clip, from a random frame in training and from the middle
otherwise.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from pvnas_mmaction.datasets import VideoFrames
from pvnas_mmaction.space.checks import wrong
from pvnas_mmaction.space.genotype import replacing

# As in configs/pvnas/_base_/models.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
# The class of each motion clip played backwards.
OPPOSITES = (1, 0, 3, 2, 5, 4, 7, 6)


def normalise(views: Tensor) -> Tensor:
    """Views of 0 to 255 as a network takes them: float32, mean 0, deviation 1.

    Shape: (N, 3, T, H, W) -> the same.
    """
    mean = torch.tensor(MEAN, device=views.device).view(1, 3, 1, 1, 1)
    std = torch.tensor(STD, device=views.device).view(1, 3, 1, 1, 1)
    return (views.float() - mean) / std


class MotionClips:
    """Clips in memory.

    Args:
        frames: (N, F, H, W, 3), uint8, red first.
        labels: (N,), class ids.
        clip_len: Frames of a view. Default 8.

    Raises:
        ValueError: A clip has fewer frames than a view.
    """

    def __init__(self, frames: Tensor, labels: Tensor, clip_len: int = 8) -> None:
        if frames.shape[1] < clip_len:
            expected = f"{clip_len} frames or more, the length of a view"
            raise wrong("clips", expected, str(frames.shape[1]))
        self.frames = frames
        self.labels = labels
        self.clip_len = clip_len

    @classmethod
    def read(
        cls,
        folder: str | Path,
        split: str,
        size: int | None = None,
        clip_len: int = 8,
        limit: int | None = None,
        cache: str | Path | None = None,
    ) -> MotionClips:
        """Decode one split of a folder of motion clips.

        Args:
            folder: What ``tools/make_motion_clips.py`` wrote.
            split: ``"train"`` or ``"val"``.
            size: Height and width in pixels; other clips are resized (bilinear).
                Default None: as they are.
            clip_len: Frames of a view. Default 8.
            limit: Only the first so many clips; classes take turns in the list, so
                that every class stays as frequent. Default None: all.
            cache: Folder for a copy of what was decoded, which later calls map instead
                of decoding again. Default None: no copy.

        Raises:
            FileNotFoundError: There is no such folder, list or video.
            ValueError: Fewer clips than asked for.
        """
        folder = Path(folder)
        listed = [
            line.rsplit(maxsplit=1)
            for line in (folder / f"{split}.txt").read_text().splitlines()
            if line.strip()
        ]
        if limit is not None and len(listed) < limit:
            name = f"{folder.name}/{split}.txt"
            raise wrong(name, f"{limit} clips or more", str(len(listed)))
        listed = listed[:limit]
        labels = torch.tensor([int(label) for _, label in listed])
        names = [name for name, _ in listed]
        if cache is None:
            return cls(torch.from_numpy(_decode(folder, names, size)), labels, clip_len)
        identity = json.dumps([read_manifest(folder), split, size, names])
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        path = Path(cache) / f"clips_{split}_{digest}.npy"
        if not path.exists():
            with replacing(path) as partial, partial.open("wb") as stream:
                np.save(stream, _decode(folder, names, size))
        # Mapped copy-on-write: processes share the pages, and none can change them.
        return cls(torch.from_numpy(np.load(path, mmap_mode="c")), labels, clip_len)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return int(self.labels.max()) + 1

    def to(self, device: str | torch.device) -> MotionClips:
        """The clips on a device."""
        return MotionClips(
            self.frames.to(device), self.labels.to(device), self.clip_len
        )

    def views(
        self, indices: Sequence[int], seeds: Sequence[int] | None = None
    ) -> Tensor:
        """Views of some clips, uint8.

        Args:
            indices: Which clips, N of them.
            seeds: One for each clip, that says at which frame its view starts. Default
                None: in the middle.

        Returns:
            (N, 3, T, H, W), in channels-last layout.
        """
        spare = self.frames.shape[1] - self.clip_len
        starts = (
            np.full(len(indices), spare // 2)
            if seeds is None
            else np.asarray(seeds, dtype=np.int64) % (spare + 1)
        )
        times = torch.from_numpy(starts)[:, None] + torch.arange(self.clip_len)
        rows = torch.as_tensor(np.asarray(indices, dtype=np.int64))[:, None]
        device = self.frames.device
        return self.frames[rows.to(device), times.to(device)].permute(0, 4, 1, 2, 3)

    def training_batches(
        self, batch_size: int, seed: int, epoch: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised random views of all clips, shuffled, and their labels.

        Batches follow from (seed, epoch) alone; the last incomplete one is left out.
        """
        generator = np.random.default_rng((seed, epoch))
        order = generator.permutation(len(self))
        seeds = generator.integers(0, 2**32, len(self))
        for start in range(0, len(self) - batch_size + 1, batch_size):
            part = slice(start, start + batch_size)
            chosen = torch.from_numpy(order[part]).to(self.labels.device)
            yield normalise(self.views(order[part], seeds[part])), self.labels[chosen]

    def validation_batches(
        self, batch_size: int = 64
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised middle views of all clips in order, and their labels."""
        for start in range(0, len(self), batch_size):
            part = range(start, min(start + batch_size, len(self)))
            yield normalise(self.views(part)), self.labels[part.start : part.stop]


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """What a folder of motion clips was rendered with.

    Raises:
        FileNotFoundError: It is no folder of motion clips; says how to make one.
    """
    path = Path(folder) / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; make the clips with tools/make_motion_clips.py"
        )
    return json.loads(path.read_text())


def _decode(folder: Path, names: Sequence[str], size: int | None) -> np.ndarray:
    clips: list[np.ndarray] = []
    for name in names:
        reader = VideoFrames(str(folder / name))
        frames = reader.read(range(len(reader)))
        if size is not None and frames[0].shape[:2] != (size, size):
            frames = [cv2.resize(frame, (size, size)) for frame in frames]
        clips.append(np.stack(frames))
    return np.stack(clips)
