# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Lists of small folders of real clips, and clips that are their numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks.real_data import RealClips

LISTS = dict(
    fold1_train="c.mp4 0\nd.mp4 1\ne.mp4 1\n",
    fold1_val="a.mp4 0\nb.mp4 1\n",
    fold2_train="a.mp4 0\nb.mp4 1\ne.mp4 1\n",
    fold2_val="c.mp4 0\nd.mp4 1\n",
)


FOUR_FOLDS = {
    f"fold{fold}_{part}": "".join(f"{name}.mp4 0\n" for name in names)
    for fold, (train_names, val_names) in enumerate(
        [("qrs", "p"), ("prs", "q"), ("pqs", "r"), ("pqr", "s")], start=1
    )
    for part, names in (("train", train_names), ("val", val_names))
}


def write_lists(folder: Path, **changes: str) -> Path:
    (folder / "classes.txt").write_text("push\npull\n")
    for name, text in {**LISTS, **changes}.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def numbered_clips(clip_len: int = 2, crop: int = 4) -> RealClips:
    """One clip of six frames of 4x8; a pixel says frame and column."""
    time, column = np.mgrid[0:6, 0:8]
    frames = np.broadcast_to((10 * time + column)[:, None, :, None], (6, 4, 8, 3))
    return RealClips(
        torch.from_numpy(frames.astype(np.uint8))[None],
        torch.tensor([0]),
        clip_len,
        crop,
    )
