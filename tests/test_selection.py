"""Which networks are derived, judged and chosen; the archive and its file."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy.stats import norm
from searching import INPUT_SHAPE, NUM_CLASSES, SPACE

from pvnas_mmaction.search.archive import Archive, ArchiveEntry
from pvnas_mmaction.search.derive import Budget
from pvnas_mmaction.search.diversity import mean_pairwise_hamming
from pvnas_mmaction.search.selection import Selection, choose
from pvnas_mmaction.space.cost_table import CostTable, cost_tables
from pvnas_mmaction.space.search_space import SearchSpace

TOY = SearchSpace.from_config(SPACE)
TABLES = cost_tables(TOY, INPUT_SHAPE, NUM_CLASSES)
NETWORKS = list(itertools.product(*(range(len(row)) for row in TOY.candidates)))
FACTS = dict(step=9, diversity=0.5, planned_diversity=0.4)


def log_probs(seed: int = 0) -> list[list[float]]:
    generator = np.random.default_rng(seed)
    rows = [generator.normal(size=len(row)) for row in TOY.candidates]
    return [(row - np.log(np.exp(row).sum())).tolist() for row in rows]


def likeliest(rows, number: int = 3) -> list[tuple[int, ...]]:
    """The most probable networks, by trying all."""

    def log_prob(network: tuple[int, ...]) -> float:
        return sum(row[i] for row, i in zip(rows, network, strict=True))

    return sorted(NETWORKS, key=log_prob, reverse=True)[:number]


def make_selection(accuracies: list[float], **settings) -> tuple[Selection, list]:
    """A selection that is told accuracies in turn, and what it judges."""
    judged, left = [], iter(accuracies)

    def judge(network: tuple[int, ...]) -> float:
        judged.append(network)
        return next(left)

    settings = {"num_ranked": 3, "num_clips": 100, **settings}
    return Selection(TOY, TABLES, judge=judge, **settings), judged


def blocks(network: tuple[int, ...]) -> tuple[str, ...]:
    return TOY.genotype(network).blocks


# the choice among networks


def test_choice_is_the_most_probable_by_bayes():
    """Priors p and the Gaussian's densities, multiplied and compared as they are."""
    generator = np.random.default_rng(0)
    seen = set()
    for _ in range(50):
        p = generator.dirichlet(np.ones(5))
        accuracies = generator.binomial(400, 0.8 + 0.02 * generator.random(5)) / 400
        error = math.sqrt(accuracies.max() * (1 - accuracies.max()) / 400)
        posterior = p * norm.pdf(accuracies, accuracies.max(), error)
        found = choose(list(accuracies), list(np.log(p)), [1] * 5, 400, 1.0)
        assert found == posterior.argmax()
        seen.add((found == accuracies.argmax(), found == p.argmax()))
    assert seen == set(itertools.product([True, False], repeat=2))


# whole cycles


def test_the_most_probable_are_judged_and_the_best_is_kept():
    accuracies = [0.25, 0.75, 0.5, 0.0, 0.5, 0.375, 0.625]
    selection, judged = make_selection(accuracies)
    first, second = log_probs(0), log_probs(1)
    entry = selection.finish_cycle(first, 0, **FACTS)
    assert judged == likeliest(first)
    assert (entry.blocks, entry.accuracy) == (blocks(judged[1]), 0.75)
    assert (entry.distance, entry.file) == (None, "genotypes/cycle_01.json")
    assert (entry.step, entry.diversity, entry.planned_diversity) == (9, 0.5, 0.4)
    assert entry.costs == {kind: t.cost(judged[1]) for kind, t in TABLES.items()}
    selection.finish_cycle(second, 1, **FACTS)
    assert judged[3:] == likeliest(second)
    assert selection.archive.entries[1].blocks == blocks(judged[4])
    # The first one is judged again with the weights of the end.
    selection.finish_search(second)
    assert judged[6:] == [TOY.indices_of_blocks(entry.blocks)]
    assert [e.accuracy for e in selection.archive.entries] == [0.625, 0.5]
    assert selection.archive.final == selection.archive.entries[0]


@pytest.mark.parametrize("better", [True, False])
def test_a_search_ends_in_the_best_of_all_however_near(better):
    """Alphas that never move. Three networks a cycle, apart from the first; then the
    first genotype again, and the most probable ones that are not archived."""
    accuracies = [0.5, 0.25, 0.25, 0.375, 0.25, 0.25, 0.4375]
    accuracies += [0.75 if better else 0.375, 0.25]
    selection, judged = make_selection(accuracies)
    rows = [[-0.1, -3.0 - 0.1 * i, -5.0, -6.0] for i in range(3)]
    for cycle in range(2):
        selection.finish_cycle(rows, cycle, 0.5, **FACTS)
    first, second = selection.archive.entries
    assert first.blocks == blocks((0, 0, 0))
    assert second.distance >= 2 / 3  # half of three layers are two
    selection.finish_search(rows, 0.5)
    assert len(judged) == len(accuracies) and len(selection.archive.entries) == 2
    final = selection.archive.final
    if better:
        assert judged[7:] == likeliest(rows)[1:]
        assert (final.blocks, final.accuracy) == (blocks(judged[7]), 0.75)
        assert (final.file, final.cycle) == ("genotypes/final.json", 1)
        # One layer of three from the most probable network, which is in the archive.
        assert final.distance == pytest.approx(1 / 3)
    else:
        assert final == selection.archive.entries[0]


def test_without_judging_the_most_probable_is_archived():
    selection = Selection(TOY, TABLES, num_ranked=3)
    rows = log_probs()
    entry = selection.finish_cycle(rows, 0, **FACTS)
    assert (entry.blocks, entry.accuracy) == (blocks(likeliest(rows)[0]), None)
    selection.finish_search(rows, 0.5)
    assert selection.archive.final is None
    assert selection.archive.best() == entry


@pytest.mark.parametrize("kind", ["flops", "params"])
def test_a_budget_binds_all_that_are_ranked(kind):
    table = TABLES[kind]
    limit = sorted(map(table.cost, NETWORKS))[20]
    selection, judged = make_selection([0.5] * 9, budget=Budget(table, limit))
    rows = log_probs()
    selection.finish_cycle(rows, 0, 0.5, **FACTS)
    selection.finish_cycle(rows, 1, 0.5, **FACTS)
    assert all(table.cost(network) <= limit for network in judged)
    within = [n for n in likeliest(rows, 99) if table.cost(n) <= limit]
    assert judged[:3] == within[:3]
    assert selection.table is table


# the archive

A = ("mb_t1_k3_e2", "mb_t3_k3_e2", "skip", "ts_t3_k3_e4")
B = ("mb_t1_k3_e2", "mb_t3_k5_e2", "skip", "ts_t3_k5_e4")
C = ("mb_t3_k3_e2", "mb_t3_k5_e2", "skip", "ts_t3_k3_e4")


def entry(blocks=A, cycle=0, accuracy=0.5, distance=None, **changes) -> ArchiveEntry:
    values = dict(
        cycle=cycle,
        step=100 * (cycle + 1),
        blocks=blocks,
        costs=dict(flops=1_234_567, params=89_012),
        accuracy=accuracy,
        distance=distance,
        diversity=0.1 + 0.2,
        planned_diversity=0.25,
        file=f"genotypes/cycle_{cycle + 1:02d}.json",
    )
    return ArchiveEntry(**{**values, **changes})


def test_distance_from_the_archive_is_rounded_up_and_gives_way():
    stage = dict(out_channels=8, num_layers=3, candidates=["mb_t{1,3}_k3_e1"])
    space = SearchSpace.from_config(
        dict(name="three", stem=dict(channels=8), head_channels=8, stages=[stage])
    )
    table = CostTable("flops", "MACs", 0, [[0, 1], [1, 2], [0, 1]])
    rows, first = [[-0.1, -3.0], [-0.2, -2.0], [-0.3, -1.0]], (0, 0, 0)

    def derived(number, found, share, budget=None) -> list[tuple[int, ...]]:
        selection = Selection(space, dict(flops=table), budget, num_ranked=number)
        selection.archive.entries = [entry(space.blocks(network)) for network in found]
        return selection.derive(rows, share)

    assert derived(1, [], 0.5) == [first]
    assert derived(1, [first], 0.0) == [first]
    assert derived(1, [first], 1 / 3) == [(0, 0, 1)]
    assert derived(1, [first], 0.34) == [(0, 1, 1)]
    assert derived(1, [first], 1.0) == [(1, 1, 1)]
    # Nothing is that far from both.
    assert derived(2, [first, (1, 1, 1)], 1.0) == [first, (0, 0, 1)]
    assert derived(2, [first], 0.1, Budget(table, 1)) == [first]


def full_archive() -> Archive:
    archive = Archive()
    found = [(A, 0.5), (B, 0.75), (A, None), (C, 0.75)]
    for cycle, (blocks, accuracy) in enumerate(found):
        distance = archive.distance(blocks)
        archive.entries.append(entry(blocks, cycle, accuracy, distance))
    return archive


def test_distance_to_the_nearest_entry_by_hand():
    archive = full_archive()
    assert [e.distance for e in archive.entries] == [None, 0.5, 0.0, 0.5]
    assert archive.distance(A) == 0
    assert archive.distance(("x", *A[1:])) == 0.25
    assert Archive().distance(A) is None
    # Pairs: AB 2, AA 0, AC 2, BA 2, BC 2, AC 2, of 4 layers each.
    found = [e.blocks for e in archive.entries]
    assert mean_pairwise_hamming(found) == pytest.approx(10 / 4 / 6)
    assert len(archive.entries) == 4


def test_best_is_the_most_accurate_then_the_cheapest_then_the_earliest():
    assert full_archive().best().blocks == B
    cheap = entry(C, 2, 0.5, costs=dict(flops=7))
    ties = [entry(A, 0, 0.5), cheap, entry(B, 3, 0.5, costs=dict(flops=7))]
    assert Archive(ties).best() == cheap
    assert Archive([*ties, entry(B, 4, 0.75)]).best().cycle == 4
    assert Archive([entry(A, 0, None), entry(B, 1, 0.0)]).best().blocks == B
    assert Archive([entry(A, 0, None), entry(B, 1, None)]).best().blocks == B
    assert Archive().best() is None


def test_file_gives_the_archive_back(tmp_path):
    archive, path = full_archive(), tmp_path / "archive.json"
    path.write_text(json.dumps(archive.to_dict()))
    assert Archive.load(path).entries == archive.entries
    data = json.loads(path.read_text())
    assert data["entries"][1]["blocks"] == list(B)
