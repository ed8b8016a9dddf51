# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Trainings of the ground truth table: recipe, order and resuming."""

from __future__ import annotations

import pytest
import torch
from ground_truth_runs import RECIPE, settings_of

from benchmarks.ground_truth.recipe import (
    Classifier,
    Recipe,
    train_network,
    weighted_cross_entropy,
)
from benchmarks.ground_truth.train import LOG, train_table
from benchmarks.jobs import JobLog


def test_learning_rates():
    recipe = Recipe(train_clips=160, epochs=2, batch_size=16, warmup=0.2, cooldown=0.25)
    rates = [recipe.rate(step) for step in range(recipe.steps)]
    expected = [step / 5 for step in range(1, 5)] + [1] * 11
    expected += [k / 5 for k in (5, 4, 3, 2, 1)]
    assert rates == pytest.approx(expected)
    # Every clip of the two passes forwards and backwards.
    assert recipe.views == 2 * 2 * 160


def test_cross_entropy_is_that_of_the_pair_and_of_the_sign():
    logits = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(64) % 8
    # Classes 2k and 2k + 1 are a motion and its opposite.
    p = logits.softmax(dim=1).view(64, 4, 2)
    rows, pair, sign = torch.arange(64), labels // 2, labels % 2
    of_pair = -p.sum(dim=2)[rows, pair].log()
    of_sign = -(p[rows, pair, sign] / p.sum(dim=2)[rows, pair]).log()
    for weight in (0.5, 1.0, 4.0):
        found = weighted_cross_entropy(logits, labels, weight)
        assert float(found) == pytest.approx(
            float((of_pair + weight * of_sign).mean()), rel=1e-5
        )


def test_every_clip_is_seen_forwards_and_backwards(trained_table, monkeypatch):
    state, seen = trained_table[0](), []
    forward = Classifier.forward

    def forward_seen(self, x):
        if self.training:
            seen.append(x)
        return forward(self, x)

    monkeypatch.setattr(Classifier, "forward", forward_seen)
    train_network(state.space, (0,), state.train, state.val, RECIPE, seed=0)
    assert sum(len(x) for x in seen) == RECIPE.views == 64
    for x in seen:
        clips, backwards = x.chunk(2)
        assert torch.equal(backwards, clips.flip(2))
        assert not torch.equal(backwards, clips)


def test_killed_training_goes_on(trained_table, motion_clips, tmp_path):
    loader, whole = trained_table
    log = JobLog(tmp_path, LOG, settings_of(motion_clips))
    assert train_table(loader, log, seeds=[0, 1], limit=1) == 3
    with log.path.open("a") as stream:
        stream.write('{"blocks": "mb_t1_k3')  # killed while it wrote
    again = JobLog(tmp_path, LOG, settings_of(motion_clips))
    assert len(again.records) == 1
    assert train_table(loader, again, seeds=[0, 1]) == 0

    def results(log):
        return [(r["blocks"], r["seed"], r["accuracy"], r["loss"]) for r in log.records]

    assert results(again) == results(whole)
    assert results(JobLog(tmp_path, LOG)) == results(whole)
