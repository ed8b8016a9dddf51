# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The ground truth table: clips, trainings, packing, ranks, regrets, what it says."""

from __future__ import annotations

import statistics
from dataclasses import asdict

import numpy as np
import pytest
import torch

from benchmarks.clips import MotionClips, read_manifest
from benchmarks.ground_truth import load
from benchmarks.ground_truth.recipe import Classifier, Recipe
from benchmarks.ground_truth.table import GroundTruth, Network, all_indices
from benchmarks.ground_truth.train import (
    LOG,
    Loader,
    make_table,
    train_table,
    write_table,
)
from benchmarks.jobs import JobLog
from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.search_space import SearchSpace

CANDIDATES = ["mb_t1_k3_e1", "mb_t3_k3_e2"]
STAGE = dict(out_channels=8, num_layers=1, spatial_stride=2, candidates=CANDIDATES)
SPACE = dict(name="two", stem=dict(channels=8), head_channels=8, stages=[STAGE])
RECIPE = Recipe(size=16, train_clips=32, epochs=1)


def test_view_is_consecutive_frames():
    # Clip n holds the value 20 n + f in frame f.
    values = 20 * torch.arange(3)[:, None] + torch.arange(12)
    frames = values.to(torch.uint8)[:, :, None, None, None].expand(-1, -1, 4, 4, 3)
    clips = MotionClips(frames.contiguous(), torch.arange(3), clip_len=8)
    middle = clips.views([1])
    assert middle.shape == (1, 3, 8, 4, 4)
    assert middle[0, 0, :, 0, 0].tolist() == list(range(22, 30))
    drawn = clips.views([0, 2, 0], seeds=[0, 4, 6])
    assert [v[0, 0, 0, 0].item() for v in drawn] == [0, 44, 1]


@pytest.fixture(scope="module")
def trained(motion_clips, tmp_path_factory) -> tuple[Loader, JobLog]:
    """Both networks trained with two seeds: what builds their clips, and the log."""
    folder = tmp_path_factory.mktemp("trained")
    settings = dict(
        space=SearchSpace.from_config(SPACE).to_config(),
        clips=read_manifest(motion_clips),
        recipe=asdict(RECIPE),
        val_clips=16,
        views_per_training=RECIPE.views,
    )
    loader = Loader(SPACE, RECIPE, motion_clips, folder)
    log = JobLog(folder, LOG, settings)
    assert train_table(loader, log, seeds=[0, 1]) == 0
    return loader, log


def test_killed_training_goes_on(trained, tmp_path):
    loader, whole = trained
    log = JobLog(tmp_path, LOG, whole.settings)
    assert train_table(loader, log, seeds=[0, 1], limit=1) == 3
    with log.path.open("a") as stream:
        stream.write('{"blocks": "mb_t1_k3')  # killed while it wrote
    again = JobLog(tmp_path, LOG, whole.settings)
    assert len(again.records) == 1
    assert train_table(loader, again, seeds=[0, 1]) == 0

    def results(log):
        return [(r["blocks"], r["seed"], r["accuracy"], r["loss"]) for r in log.records]

    assert results(again) == results(whole)
    with pytest.raises(ValueError, match=r"val_clips: expected 1, got 16.*--work-dir"):
        JobLog(tmp_path, LOG, dict(whole.settings, val_clips=1))


def test_packed_table_holds_the_trainings(trained, tmp_path):
    _, log = trained
    path = tmp_path / "two.json.xz"
    assert write_table(make_table(log), path) == path.stat().st_size
    table = load(path)
    assert table.is_complete and len(table) == 2 and table.seeds == (0, 1)
    for record in log.records:
        indices = (CANDIDATES.index(record["blocks"]),)
        assert table[indices].accuracies[record["seed"]] == record["accuracy"]
        assert record["accuracy"] * 16 == int(record["accuracy"] * 16)
        # Two clips of each class.
        recalls = table[indices].recalls[record["seed"]]
        assert len(recalls) == 8 and set(recalls) <= {0, 0.5, 1}
        assert statistics.fmean(recalls) == record["accuracy"]
    for indices, network in table.items():
        model = Classifier(table.space, indices, num_classes=8)
        assert network.params == sum(p.numel() for p in model.parameters())
        cost = network_cost(
            table.space.skeleton, network.blocks, (3, 6, 16, 16), num_classes=8
        )
        assert network.macs == cost.macs


@pytest.fixture(scope="module")
def synthetic(trained) -> GroundTruth:
    """All networks of a space of four layers, with random accuracies and costs."""
    space = dict(SPACE, stages=SPACE["stages"] * 4)
    settings = dict(trained[1].settings, space=space)
    generator = np.random.default_rng(0)
    built = SearchSpace.from_config(space)
    networks = []
    for indices in all_indices(built):
        blocks = built.genotype(indices).blocks
        first_seed = generator.integers(1, 200) / 256
        accuracies = (first_seed, first_seed + generator.integers(0, 40) / 256)
        macs = int(generator.integers(1000, 2000))
        networks.append(Network(indices, blocks, accuracies, macs, 100))
    return GroundTruth(settings, [0, 1], networks)


def test_rank_and_regret_by_hand(synthetic):
    means = {i: sum(n.accuracies) / 2 for i, n in synthetic.items()}
    budget = statistics.median_low(n.macs for n in synthetic.values())
    for max_macs in (None, budget):
        kept = [i for i in means if not max_macs or synthetic[i].macs <= max_macs]
        best = max(means[i] for i in kept)
        assert synthetic.best(max_macs).accuracy == best
        for i in kept:
            assert synthetic.regret(i, max_macs) == pytest.approx(best - means[i])
            better = sum(means[j] > means[i] for j in kept)
            assert synthetic.rank(i, max_macs) == better + 1
