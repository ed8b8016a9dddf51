# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Clips in memory, as networks of the ground truth table are trained on them."""

from __future__ import annotations

import pytest
import torch

from benchmarks.clips import MotionClips


def numbered_clips(num_frames: int) -> MotionClips:
    """Clip n holds the value 20 n + f in frame f."""
    values = 20 * torch.arange(3)[:, None] + torch.arange(num_frames)
    frames = values.to(torch.uint8)[:, :, None, None, None].expand(-1, -1, 4, 4, 3)
    return MotionClips(frames.contiguous(), torch.arange(3), clip_len=8)


def test_view_is_consecutive_frames():
    clips = numbered_clips(12)
    middle = clips.views([1])
    assert middle.shape == (1, 3, 8, 4, 4)
    assert middle[0, 0, :, 0, 0].tolist() == list(range(22, 30))
    drawn = clips.views([0, 2, 0], seeds=[0, 4, 6])
    assert [v[0, 0, 0, 0].item() for v in drawn] == [0, 44, 1]


def test_too_short_clips():
    with pytest.raises(ValueError, match=r"clips: expected 8 frames or more.* got 7"):
        numbered_clips(7)


def test_cache_gives_the_same_clips(motion_clips, tmp_path):
    plain = MotionClips.read(motion_clips, "val", size=16)
    for _ in range(2):
        cached = MotionClips.read(motion_clips, "val", size=16, cache=tmp_path)
        assert torch.equal(cached.frames, plain.frames)
    assert plain.frames.shape == (16, 8, 16, 16, 3)
    assert sorted(plain.labels.tolist()) == sorted([*range(8)] * 2)
