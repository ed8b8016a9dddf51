# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The one recipe for trainings on real clips."""

from __future__ import annotations

import math

import pytest
import torch
from real_lists import numbered_clips
from torch import nn

from benchmarks.real_training import (
    Network,
    Setting,
    learning_rate,
    train,
    use_channels_last,
)


def test_learning_rate_by_hand():
    setting = Setting(warmup=0.2)
    rates = [learning_rate(setting, 0.3, step, 10) for step in range(10)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert rates[6] == pytest.approx(0.15)
    assert rates[9] == pytest.approx(0.15 * (1 + math.cos(math.pi * 7 / 8)))


@pytest.mark.parametrize("name", ["TSM-MobileNetV2", "X3D-S"])
def test_channels_last_gives_the_same_numbers(name):
    torch.manual_seed(0)
    network = Network(name, 3, 4).eval()
    convolutions = [
        m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)
    ]
    layouts = (torch.channels_last, torch.channels_last_3d)
    assert any(
        conv.weight.is_contiguous(memory_format=layouts[conv.weight.dim() - 4])
        and not conv.weight.is_contiguous()
        for conv in convolutions
    )
    x = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        found = network(x)
        for conv in convolutions:
            conv.weight.data = conv.weight.data.contiguous()
        expected = network(x)
        use_channels_last(network)
        again = network(x)
    assert found.shape == (2, 3)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found, again, rtol=0, atol=0)


def test_a_batch_larger_than_the_clips_is_told():
    clips = numbered_clips()
    with pytest.raises(ValueError, match="batch_size: found 16, expected at most 1"):
        train("X3D-S", 2, clips, clips, Setting(), 0.1, 0)
