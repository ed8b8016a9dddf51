# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The ground truth table: packing, reading, ranks, regrets, and what it says."""

from __future__ import annotations

import lzma
import math
import statistics

import numpy as np
import pytest
from ground_truth_runs import SPACE

from benchmarks.ground_truth import load
from benchmarks.ground_truth.recipe import Classifier
from benchmarks.ground_truth.summary import (
    draw,
    summarise,
)
from benchmarks.ground_truth.table import GroundTruth, Network, all_indices
from benchmarks.ground_truth.train import (
    make_table,
    write_table,
)
from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.search_space import SearchSpace


def test_packed_table_holds_the_trainings(trained_table, tmp_path):
    _, log = trained_table
    path = tmp_path / "two.json.xz"
    assert write_table(make_table(log), path) == path.stat().st_size
    table = load(path)
    assert table.is_complete and len(table) == 2 and table.seeds == (0, 1)
    for record in log.records:
        indices = (SPACE["stages"][0]["candidates"].index(record["blocks"]),)
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


def test_file_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train\.py train, then pack"):
        load(tmp_path / "none.json.xz")
    path = tmp_path / "bad.json.xz"
    for content in (b"text", lzma.compress(b"no json"), lzma.compress(b"{}")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.json\.xz: "):
            load(path)


# -- what it says ---


@pytest.fixture(scope="module")
def synthetic(trained_table) -> GroundTruth:
    """All networks of a space of four layers, with random accuracies and costs."""
    space = dict(SPACE, stages=SPACE["stages"] * 4)
    settings = dict(trained_table[1].settings, space=space)
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


def test_summary_and_plot(synthetic, tmp_path):
    text = summarise(synthetic)
    assert "networks      16 of 16 (complete), seeds [0, 1]" in text
    assert f"{synthetic.best().accuracy:.4f}" in text
    first, second = np.array([n.accuracies for n in synthetic.values()]).T
    assert f", mean {((first + second) / 2).mean():.4f}, worst " in text
    deviation = math.sqrt(np.mean((first - second) ** 2) / 2)
    assert f"one training  +- {deviation:.4f}\n" in text
    draw(synthetic, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
