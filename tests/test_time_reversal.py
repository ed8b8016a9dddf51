# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Time reversal: pairs in a batch, through MMAction2's preprocessor and a step."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from mmaction.registry import MODELS
from mmaction.structures import ActionDataSample
from mmengine.config import Config

from benchmarks.clips import OPPOSITES
from pvnas_mmaction.models.time_reversal import (
    TimeReversalBlending,
    with_reversals,
)

ROOT = Path(__file__).resolve().parent.parent
SWAP = [1, 0, 2]  # the last class looks the same backwards


def clips(count: int = 3) -> torch.Tensor:
    return torch.arange(count * 2 * 4 * 3 * 3.0).view(count, 2, 4, 3, 3)


def test_reversals_come_after_the_clips() -> None:
    x = clips()
    both, labels = with_reversals(x, torch.tensor([0, 2, 1]), SWAP)
    assert labels.tolist() == [0, 2, 1, 1, 2, 0]
    assert torch.equal(both[:3], x)
    for frame in range(4):
        assert torch.equal(both[3:, :, frame], x[:, :, 3 - frame])
    assert both.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("training", [True, False])
def test_preprocessor_doubles_training_batches_alone(training: bool) -> None:
    settings = dict(
        type="ActionDataPreprocessor",
        mean=[1.0, 2.0],
        std=[2.0, 4.0],
        format_shape="NCTHW",
    )
    blending = dict(type="TimeReversalBlending", opposites=SWAP)
    preprocessor = MODELS.build(dict(settings, blending=blending))
    plain = MODELS.build(settings)
    samples = [ActionDataSample().set_gt_label(label) for label in (0, 2, 1)]
    batch = dict(inputs=list(clips().unsqueeze(1)), data_samples=samples)
    expected = plain(copy.deepcopy(batch), training=training)["inputs"]
    found = preprocessor(batch, training=training)
    labels = [int(sample.gt_label) for sample in found["data_samples"]]
    if training:
        expected = torch.cat([expected, expected.flip(3)])
        assert labels == [0, 2, 1, 1, 2, 0]
    else:
        assert labels == [0, 2, 1]
    assert torch.equal(found["inputs"], expected)
    assert [int(sample.gt_label) for sample in samples] == [0, 2, 1]


def test_frames_of_a_2d_recognizer() -> None:
    """(N, T, C, H, W): where the third axis from the end is no time."""
    blending = dict(type="TimeReversalBlending", opposites=SWAP)
    preprocessor = MODELS.build(
        dict(type="ActionDataPreprocessor", format_shape="NCHW", blending=blending)
    )
    samples = [ActionDataSample().set_gt_label(label) for label in (0, 2, 1)]
    batch = dict(inputs=list(clips().transpose(1, 2)), data_samples=samples)
    message = r"expected \(N, clips, C, T, H, W\), got \(3, 4, 2, 3, 3\); .*'NCTHW'"
    with pytest.raises(ValueError, match=message):
        preprocessor(batch, training=True)


def test_opposites_of_the_motion_clips() -> None:
    folder = ROOT / "configs/pvnas"
    for name in ("search_1xb8-6x1x1-4e", "retrain_1xb8-6x1x1-2e"):
        cfg = Config.fromfile(folder / f"pvnas-tiny_{name}_motion-clips.py")
        blending = cfg.model.data_preprocessor.blending
        assert tuple(blending.opposites) == OPPOSITES
        assert len(OPPOSITES) == cfg.num_classes


@pytest.mark.parametrize(
    ("opposites", "place", "got"),
    [([1, 2, 0], 0, 1), ([0, 3], 1, 3)],
)
def test_opposites_that_are_none(opposites: list[int], place: int, got: int) -> None:
    message = rf"opposites\[{place}\]: expected a class whose own .* {place}, got {got}"
    with pytest.raises(ValueError, match=message):
        TimeReversalBlending(opposites)
