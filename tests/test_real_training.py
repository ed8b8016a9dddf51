# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The one recipe for trainings on real clips."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from real_lists import numbered_clips
from torch import nn

from benchmarks.real_data import RealClips
from benchmarks.real_training import (
    Network,
    Setting,
    learning_rate,
    moving_average,
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


def test_moving_average_by_hand():
    model = nn.BatchNorm1d(1)
    averaged = moving_average(model, 2)
    kept = math.exp(-1 / 2)
    expected_weight = expected_mean = None
    for step in range(4):
        model.weight.data.fill_(step)
        model.running_mean.fill_(10 * step)
        averaged.update_parameters(model)
        if expected_weight is None:  # the first step starts the average
            expected_weight, expected_mean = step, 10 * step
        else:
            expected_weight = kept * expected_weight + (1 - kept) * step
            expected_mean = kept * expected_mean + (1 - kept) * 10 * step
    assert averaged.module.weight.item() == pytest.approx(expected_weight)
    assert averaged.module.running_mean.item() == pytest.approx(expected_mean)
    assert model.weight.item() == 3


def test_an_average_over_less_than_a_step_is_told():
    message = r"averaged_epochs: found 0\.5 steps, expected 0 or enough for one"
    with pytest.raises(ValueError, match=message):
        moving_average(nn.BatchNorm1d(1), 0.5)


def test_averaging_changes_what_is_tested_and_not_the_training(monkeypatch):
    frames = torch.randint(256, (4, 6, 36, 36, 3), dtype=torch.uint8)
    clips = RealClips(frames, torch.tensor([0, 1, 0, 1]), clip_len=4, crop=32)
    tested = []

    def note(model, _):
        tested.append(model)
        return float(len(tested))

    monkeypatch.setattr("benchmarks.real_training.evaluate", note)
    setting = Setting(frames=4, crop=32, epochs=2, batch_size=2)
    plain = train("X3D-S", 2, clips, clips, setting, 0.1, 0)
    setting = dataclasses.replace(setting, averaged_epochs=1)
    averaged = train("X3D-S", 2, clips, clips, setting, 0.1, 0)
    assert (plain["accuracy"], plain["loss"]) == (1.0, averaged["loss"])
    assert "last_accuracy" not in plain
    assert (averaged["accuracy"], averaged["last_accuracy"]) == (2.0, 3.0)
    weights = [next(model.parameters()) for model in tested]
    torch.testing.assert_close(weights[0], weights[2], rtol=0, atol=0)
    assert not torch.equal(weights[1], weights[2])
