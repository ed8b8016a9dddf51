# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""What the ground truth table says: ranks, regrets, correlations, the summary."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from ground_truth_runs import SPACE

from benchmarks.ground_truth.summary import (
    compare,
    draw,
    regret_of_one_training,
    seed_correlations,
    summarise,
)
from benchmarks.ground_truth.table import GroundTruth, Network, all_indices
from benchmarks.ground_truth.train import LOG, best_networks, make_table, train_table
from benchmarks.jobs import JobLog
from pvnas_mmaction.space.search_space import SearchSpace


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
    with pytest.raises(ValueError, match="max_macs: found 1, expected"):
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


def test_regret_of_one_training_by_hand(synthetic):
    first, second = np.array([n.accuracies for n in synthetic.values()]).T
    assert regret_of_one_training(synthetic) == {
        0: pytest.approx(second.max() - second[first.argmax()]),
        1: pytest.approx(first.max() - first[second.argmax()]),
    }


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
    assert regret_of_one_training(table) == regret_of_one_training(synthetic)
    best = synthetic.best().indices
    assert table[best].accuracy == pytest.approx(
        (sum(synthetic[best].accuracies) + 0.25) / 3
    )
    others = [i for i in table if i != best]
    assert all(table[i].accuracy == synthetic[i].accuracy for i in others)
    assert dict(table.unrefined) == dict(synthetic.unrefined)
    assert table.unrefined.seeds == (0, 1)
    assert all(
        network.accuracies == synthetic[i].accuracies
        for i, network in table.unrefined.items()
    )
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
        with pytest.raises(ValueError, match=f"best: found {count}, expected 1 to 2"):
            best_networks(own, [7], count)


def test_summary_by_first_layer_and_class_by_hand(synthetic):
    def known(network):
        """Recall of each class and seed; class 7 is known to the second half alone."""
        late = network.indices[0] == 1
        row = (0.5,) * 7 + (1.0 if late else 0.25,)
        # By the other seed as many of its clips, and those of another class more.
        other = (0.5, 0.9, *row[2:])
        return replace(network, recalls=(row, other))

    table = GroundTruth(
        synthetic.settings, [0, 1], [known(n) for n in synthetic.values()]
    )
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
    names = table.settings["clips"]["classes"]
    of_best = 1.0 if ranked[0][0] == 1 else 0.25
    assert f"{names[0]}: mean recall 0.5000, above 0.75 in 0 networks" in text
    assert (
        f"{names[7]}: mean recall 0.6250, above 0.75 in 8 networks, of the best "
        f"{of_best:.4f}"
    ) in text
    # Pairs of one network differ by 0.2 where the second class does by 0.4.
    deviation = math.sqrt(0.2**2 / 2)
    assert (
        f"pair          {names[0]}, {names[1]}: mean 0.6000, one training +- "
        f"{deviation:.4f}"
    ) in text
    assert (
        f"pair          {names[6]}, {names[7]}: mean 0.5625, one training +- 0.0000"
    ) in text
    assert text.count("pair  ") == 4
    assert "recall" not in summarise(synthetic)
    assert "pair" not in summarise(synthetic)


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


def test_tables_are_compared_by_the_networks_in_both(synthetic):
    rows = sorted(synthetic.values(), key=lambda n: n.accuracy)
    # The three worst, in another order: ranks 1, 3, 2.
    accuracies = [0.1, 0.3, 0.2]
    others = [
        replace(network, accuracies=(accuracy, accuracy))
        for network, accuracy in zip(rows[:3], accuracies, strict=True)
    ]
    other = GroundTruth(synthetic.settings, [0, 1], others)
    own = [network.accuracy for network in rows[:3]]
    text = compare(synthetic, other)
    assert text.startswith(
        f"in both       3 networks: mean {statistics.fmean(own):.4f}, there 0.2000; "
    )
    better = sum(a > b for a, b in zip(own, accuracies, strict=True))
    assert f"; {better} are better here, {3 - better} there; " in text
    assert text.endswith("Spearman of the means 0.5000")
    with pytest.raises(ValueError, match="found 2 networks in both"):
        compare(synthetic, GroundTruth(synthetic.settings, [0, 1], others[:2]))
