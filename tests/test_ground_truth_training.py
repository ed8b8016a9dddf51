# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Trainings of the ground truth table: recipe, order and resuming."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
from ground_truth_runs import RECIPE, SPACE, settings_of

from benchmarks.clips import MotionClips
from benchmarks.ground_truth import load
from benchmarks.ground_truth.recipe import (
    Classifier,
    Recipe,
    fit,
    train_network,
    validate,
    weighted_cross_entropy,
)
from benchmarks.ground_truth.table import all_indices
from benchmarks.ground_truth.train import LOG, list_jobs, train_table
from benchmarks.jobs import JobLog
from pvnas_mmaction.engine.muon import MuonAdamW
from pvnas_mmaction.space.search_space import SearchSpace


def test_learning_rates():
    recipe = Recipe(train_clips=160, epochs=2, batch_size=16, warmup=0.2, cooldown=0.25)
    rates = [recipe.rate(step) for step in range(recipe.steps)]
    expected = [step / 5 for step in range(1, 5)] + [1] * 11
    expected += [k / 5 for k in (5, 4, 3, 2, 1)]
    assert rates == pytest.approx(expected)
    # Every clip of the two passes forwards and backwards.
    assert recipe.views == 2 * 2 * 160


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(train_clips=7), "train_clips: expected an integer of 16 or more, got 7"),
        (dict(warmup=0.5, cooldown=0.6), "warmup, cooldown: expected shares"),
    ],
)
def test_impossible_recipe(change, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**change)


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


def test_default_recipe_is_that_of_the_table():
    assert asdict(Recipe()) == load().settings["recipe"]


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


@pytest.mark.parametrize("muon", [True, False])
def test_steps_follow_the_recipe_and_batches_the_seed(trained_table, monkeypatch, muon):
    state = trained_table[0]()
    recipe = replace(
        RECIPE, epochs=2, muon=muon, muon_momentum=0.7, beta1=0.8, weight_decay=0.2
    )
    asked, groups, initial, defaults = [], [], [], []
    batches, kind = MotionClips.training_batches, type(state.train)
    optimizer = MuonAdamW if muon else torch.optim.AdamW
    step = optimizer.step

    def batches_asked(self, size, seed, epoch):
        asked.append((size, seed, epoch))
        return batches(self, size, seed, epoch)

    def step_seen(self, closure=None):
        if not groups:
            weights = [p for each in self.param_groups for p in each["params"]]
            initial.append(torch.cat([p.detach().flatten() for p in weights]))
            defaults.append(self.defaults)
        groups.append([dict(group) for group in self.param_groups])
        return step(self, closure)

    monkeypatch.setattr(kind, "training_batches", batches_asked)
    monkeypatch.setattr(optimizer, "step", step_seen)
    for seed, indices in ((0, (0,)), (3, (0,))):
        groups.clear()
        fit(state.space, indices, state.train, recipe, seed)
    assert asked == [(16, seed, epoch) for seed in (0, 3) for epoch in (0, 1)]
    assert len(groups) == recipe.steps == 4
    assert not torch.equal(*initial)
    for number, row in enumerate(groups):
        for group in row:
            by_muon = muon and group["muon"]
            peak = recipe.muon_lr if by_muon else recipe.lr
            assert group["lr"] == pytest.approx(peak * recipe.rate(number))
            assert group["weight_decay"] == 0.2
            assert by_muon or group["betas"] == (0.8, 0.99)
    assert all(each.get("muon_momentum", 0.7) == 0.7 for each in defaults)


def test_recall_of_each_class(trained_table):
    state = trained_table[0]()

    class Constant(torch.nn.Module):
        """Says class 3, but class 5 for the first clip of that."""

        def __init__(self):
            super().__init__()
            self.five = int((state.val.labels == 5).nonzero()[0])
            self.seen = 0

        def forward(self, x):
            scores = torch.zeros(len(x), 8)
            scores[:, 3] = 1
            if self.seen <= self.five < self.seen + len(x):
                scores[self.five - self.seen, 5] = 2
            self.seen += len(x)
            return scores

    accuracy, recalls = validate(Constant(), state.val)
    assert recalls == [0, 0, 0, 1, 0, 0.5, 0, 0]
    assert accuracy == 3 / 16


def test_order_is_a_fixed_shuffle():
    space = SearchSpace.from_config(dict(SPACE, stages=SPACE["stages"] * 4))
    jobs = list_jobs(space, [5, 6])
    assert jobs == list_jobs(space, [5, 6])
    assert sorted(jobs) == [(i, seed) for i in all_indices(space) for seed in (5, 6)]
    assert jobs != sorted(jobs)
    # A network's seeds follow each other, so that a partial table has pairs.
    assert all(a[0] == b[0] for a, b in zip(jobs[::2], jobs[1::2], strict=True))


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
