# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The ground truth table: packing, reading, ranks, regrets, and what it says."""

from __future__ import annotations

import copy
import json
import lzma
import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from ground_truth_runs import SPACE

from benchmarks.ground_truth import DEFAULT, load
from benchmarks.ground_truth.recipe import Classifier
from benchmarks.ground_truth.summary import (
    MAX_BEST,
    MIN_CORRELATION,
    MIN_GAP,
    draw,
    seed_correlations,
    summarise,
)
from benchmarks.ground_truth.table import GroundTruth, Network, all_indices
from benchmarks.ground_truth.train import (
    LOG,
    best_networks,
    make_table,
    take_over,
    train_table,
    write_table,
)
from benchmarks.jobs import JobLog
from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.search_space import SearchSpace


@pytest.fixture
def data(trained_table) -> dict:
    """The plain data of a table."""
    return copy.deepcopy(make_table(trained_table[1]).to_data())


def test_a_table_is_extended_and_not_replaced(trained_table, data, tmp_path):
    """By what holds all its trainings, made alike; else nothing is written."""
    path = tmp_path / "two.json.xz"
    whole = GroundTruth.from_data(data, "whole")
    fewer, other = copy.deepcopy(data), copy.deepcopy(data)
    del fewer["networks"][next(iter(data["networks"]))]
    write_table(GroundTruth.from_data(fewer, "fewer"), path)
    write_table(whole, path)
    there = path.read_bytes()
    other["settings"]["val_clips"] += 1
    for content, lost in ((fewer, 2), (other, 0)):
        with pytest.raises(ValueError, match=rf"with {lost} trainings.* another --out"):
            write_table(GroundTruth.from_data(content, "new"), path)
        assert path.read_bytes() == there


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


def test_table_is_extended_and_not_trained_again(trained_table, tmp_path):
    _, log = trained_table
    table = make_table(log)
    empty = JobLog(tmp_path, LOG, log.settings)
    assert take_over(empty, table) == len(log.records)
    assert take_over(empty, table) == 0
    assert make_table(empty).to_data() == dict(table.to_data(), made={})
    other = JobLog(tmp_path / "other", LOG, dict(log.settings, val_clips=1))
    assert take_over(other, table) == 0 and not other.records


def test_partial_table(data):
    data["networks"]["mb_t1_k3_e1"]["accuracies"] = [0.5, None]
    table = GroundTruth.from_data(data, "t")
    assert not table.is_complete
    assert table[(0,)].accuracy == 0.5
    del data["networks"]["mb_t1_k3_e1"]
    table = GroundTruth.from_data(data, "t")
    assert not table.is_complete
    assert table.regret((0,)) is None and table.rank((0,)) is None
    assert "PARTIAL" in summarise(table)


def test_file_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train\.py train, then pack"):
        load(tmp_path / "none.json.xz")
    path = tmp_path / "bad.json.xz"
    for content in (b"text", lzma.compress(b"no json"), lzma.compress(b"{}")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.json\.xz: "):
            load(path)


def test_table_of_the_project():
    assert DEFAULT.stat().st_size < 2**20
    table = load()
    accuracies = [network.accuracy for network in table.values()]
    assert table.is_complete and len(table.seeds) >= 2
    best = table.best().accuracy
    assert best < MAX_BEST
    assert best - statistics.median(accuracies) >= MIN_GAP
    assert json.loads(json.dumps(table.to_data())) == table.to_data()


def test_seeds_of_the_project_table_agree():
    assert min(seed_correlations(load()).values()) >= MIN_CORRELATION


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


def test_impossible_budget(synthetic):
    with pytest.raises(ValueError, match="max_macs: expected"):
        synthetic.best(max_macs=1)


def test_median_cost_is_that_of_the_space(trained_table):
    table = make_table(trained_table[1])
    cheapest = min(network.macs for network in table.values())
    assert table.median_macs() == cheapest


def test_correlation_of_seeds_is_that_of_ranks(synthetic):
    columns = np.array([n.accuracies for n in synthetic.values()])
    below = (columns[:, None] > columns[None]).sum(axis=1)
    ties = (columns[:, None] == columns[None]).sum(axis=1)
    ranks = below + (ties - 1) / 2
    expected = np.corrcoef(ranks.T)[0, 1]
    assert seed_correlations(synthetic) == {(0, 1): pytest.approx(expected)}


def refined_once(table: GroundTruth) -> GroundTruth:
    """The table with a third seed of the best network alone."""
    best = table.best()
    networks = [
        replace(n, accuracies=(*n.accuracies, 0.25 if n is best else None))
        for n in table.values()
    ]
    return GroundTruth(table.settings, [0, 1, 5], networks)


def test_further_seeds_of_the_best_change_their_means_alone(synthetic):
    table = refined_once(synthetic)
    assert table.is_complete and table.main_seeds == {0: 0, 1: 1}
    assert seed_correlations(table) == seed_correlations(synthetic)
    best = synthetic.best().indices
    assert table[best].accuracy == pytest.approx(
        (sum(synthetic[best].accuracies) + 0.25) / 3
    )
    others = [i for i in table if i != best]
    assert all(table[i].accuracy == synthetic[i].accuracy for i in others)
    text = summarise(table)
    assert "(complete), seeds [0, 1]" in text
    assert "refined       1 networks with the seeds [5] as well" in text
    assert "refined" not in summarise(synthetic)


def test_the_best_by_other_seeds_are_trained_on(trained_table, tmp_path):
    loader, log = trained_table
    first, second = SPACE["stages"][0]["candidates"]
    records = [(first, 0, 0.5), (first, 1, 0.25), (second, 0, 0.25), (second, 1, 0.625)]
    own = JobLog(tmp_path, LOG, log.settings)
    for blocks, seed, accuracy in records:
        own.append(dict(blocks=blocks, seed=seed, accuracy=accuracy))
    assert best_networks(own, [7], 1) == {second}
    assert best_networks(own, [1], 1) == {first}
    assert best_networks(own, [7], 2) == {first, second}
    assert train_table(loader, own, seeds=[7, 8], limit=1, num_best=1) == 1
    assert train_table(loader, own, seeds=[7, 8], num_best=1) == 0
    new = [(record["blocks"], record["seed"]) for record in own.records[4:]]
    assert sorted(new) == [(second, 7), (second, 8)]
    for count in (0, 3):
        with pytest.raises(ValueError, match=f"best: expected 1 to 2.* got {count}"):
            best_networks(own, [7], count)


def test_summary_by_first_layer_by_hand(synthetic):
    table = synthetic
    text = summarise(table)
    means = {i: statistics.fmean(n.accuracies) for i, n in table.items()}
    ranked = sorted(means, key=lambda i: (-means[i], table[i].macs))
    for index, block in enumerate(SPACE["stages"][0]["candidates"]):
        mine = [i for i in means if i[0] == index]
        count = sum(i[0] == index for i in ranked[:4])
        first, second = np.array([table[i].accuracies for i in mine]).T
        # The variance of two values is half of their squared difference.
        error = math.sqrt(np.mean((first - second) ** 2) / 2)
        low, high = min(means[i] for i in mine), max(means[i] for i in mine)
        assert (
            f"first layer   {block}: {count} of the best 4, accuracies {low:.4f} to "
            f"{high:.4f}, one training +- {error:.4f}, Spearman of seeds "
        ) in text
    alone = means[(0, 0, 0, 0)]
    assert (
        f"no motion     1 networks without an operation over time: mean {alone:.4f}, "
        f"best {alone:.4f}"
    ) in text


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
