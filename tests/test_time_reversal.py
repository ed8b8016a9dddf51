"""Time reversal: pairs in a batch, through MMAction2's preprocessor and a step."""

import copy

import pytest
import torch
from mmaction.registry import MODELS
from mmaction.structures import ActionDataSample

from pvnas_mmaction.models.time_reversal import TimeReversalBlending

SWAP = [1, 0, 2]  # the last class looks the same backwards


def clips(count: int = 3) -> torch.Tensor:
    return torch.arange(count * 2 * 4 * 3 * 3.0).view(count, 2, 4, 3, 3)


@pytest.mark.parametrize("training", [True, False])
def test_preprocessor_doubles_training_batches_alone(training: bool) -> None:
    settings = dict(type="ActionDataPreprocessor", mean=[1.0, 2.0], std=[2.0, 4.0])
    settings["format_shape"] = "NCTHW"
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


@pytest.mark.parametrize(
    ("opposites", "place", "got"), [([1, 2, 0], 0, 1), ([0, 3], 1, 3)]
)
def test_opposites_that_are_none(opposites: list[int], place: int, got: int) -> None:
    message = rf"opposites\[{place}\]: expected a class whose own .* {place}, got {got}"
    with pytest.raises(ValueError, match=message):
        TimeReversalBlending(opposites)
