# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The one recipe for trainings on real clips."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from real_lists import numbered_clips
from torch import nn

from benchmarks import real_training
from benchmarks.real_data import RealClips
from benchmarks.real_training import (
    MAX_NORM,
    Network,
    Setting,
    learning_rate,
    measure,
    moving_average,
    train,
    use_channels_last,
)
from pvnas_mmaction.profiling.timing import Clock


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


class SpyClips(RealClips):
    """Two classes of two clips, and what is asked of them."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        frames = torch.randint(256, (4, 6, 36, 36, 3), generator=generator).byte()
        super().__init__(frames, torch.tensor([0, 1, 0, 1]), clip_len=4, crop=32)
        self.asked: list[tuple[list[int], list[int] | None]] = []

    def views(self, indices, seeds=None):
        self.asked.append((list(indices), seeds and list(seeds)))
        return super().views(indices, seeds)


def test_every_epoch_is_drawn_anew_and_alike_for_every_network():
    setting = Setting(frames=4, crop=32, epochs=4, batch_size=2)
    asked = []
    for name, seed in (("X3D-S", 0), ("TSM-MobileNetV2", 0), ("X3D-S", 1)):
        clips, test = SpyClips(), SpyClips()
        train(name, 2, clips, test, setting, 0.01, seed)
        asked.append(clips.asked)
        # One view of each, the middle one.
        assert test.asked == [([0, 1, 2, 3], None)]
    assert asked[0] == asked[1] != asked[2]
    batches = [indices for indices, _ in asked[0]]
    orders = [a + b for a, b in zip(batches[::2], batches[1::2], strict=True)]
    assert len(orders) == 4
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert len(set(map(tuple, orders))) > 1
    assert len({seed for _, seeds in asked[0] for seed in seeds}) == 4 * 4


def test_every_step_follows_the_setting(monkeypatch):
    optimizers, norms, rates, cleared = [], [], [], []
    sgd, clip = torch.optim.SGD, nn.utils.clip_grad_norm_

    class Sgd(sgd):
        def __init__(self, parameters, **settings):
            optimizers.append(settings)
            super().__init__(parameters, **settings)

        def step(self, closure=None):
            [group] = self.param_groups
            # As short as asked for.
            parts = [p.grad.norm() for p in group["params"] if p.grad is not None]
            assert torch.stack(parts).norm() <= 0.1 * (1 + 1e-4)
            rates.append(group["lr"])
            return super().step(closure)

        def zero_grad(self, set_to_none=True):
            cleared.append(len(rates))
            super().zero_grad(set_to_none)

    def clipped(parameters, norm):
        norms.append(norm)
        return clip(parameters, 0.1)

    monkeypatch.setattr(torch.optim, "SGD", Sgd)
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", clipped)
    setting = Setting(
        frames=4, crop=32, epochs=3, batch_size=2, momentum=0.8, weight_decay=0.03
    )
    train("X3D-S", 2, SpyClips(), SpyClips(), setting, 0.01, 0)
    assert optimizers == [dict(lr=0.01, momentum=0.8, weight_decay=0.03)]
    assert norms == [MAX_NORM] * 6
    assert cleared == [*range(6)]
    assert rates == [learning_rate(setting, 0.01, step, 6) for step in range(6)]


def test_latency_is_that_of_one_thread(monkeypatch):
    threads = []

    class SpyClock(Clock):
        def mark(self):
            threads.append(torch.get_num_threads())
            super().mark()

    monkeypatch.setattr(real_training, "Clock", SpyClock)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        cost = measure("X3D-S", 2, Setting(frames=4, crop=32), runs=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(threads) == {1} and cost["latency_ms"] > 0


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
