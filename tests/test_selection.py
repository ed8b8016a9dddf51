# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Which networks a search judges, archives and ends in."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from searching import QUIET, build_search, read_json, run_search, toy_model

from pvnas_mmaction.engine.search_loop import SearchLoop
from pvnas_mmaction.search.derive import Budget, derive
from pvnas_mmaction.search.selection import derive_apart
from pvnas_mmaction.space.genotype import load_genotype


def judge_seen(
    monkeypatch: pytest.MonkeyPatch, accuracies: list[float] | None = None
) -> list[tuple]:
    """Sees every network that is judged: its indices, its accuracy, and the three most
    probable networks outside the archive at that moment, by trying all.

    Args:
        monkeypatch: Puts it in place.
        accuracies: Taken in turn in place of the measured ones. Default None.
    """
    judged, evaluate = [], SearchLoop.evaluate

    def evaluate_seen(loop, indices):
        p = loop.selection.probabilities()
        archived = {entry.blocks for entry in loop.archive.entries}
        networks = [
            network
            for network in itertools.product(*(range(len(row)) for row in p))
            if loop.space.genotype(network).blocks not in archived
        ]

        def probability(network):
            return math.prod(row[i] for row, i in zip(p, network, strict=True))

        three = sorted(networks, key=probability, reverse=True)[:3]
        accuracy = (
            evaluate(loop, indices) if accuracies is None else accuracies[len(judged)]
        )
        judged.append((tuple(indices), accuracy, three))
        return accuracy

    monkeypatch.setattr(SearchLoop, "evaluate", evaluate_seen)
    return judged


def num_outside(loop: SearchLoop) -> int:
    """How many of the most probable networks at the end are not in the archive."""
    archived = {entry.blocks for entry in loop.archive.entries}
    derived = (loop.space.genotype(found).blocks for found in loop.selection.derive())
    return sum(blocks not in archived for blocks in derived)


def test_the_three_most_probable_are_judged(tmp_path, monkeypatch):
    accuracies = [0.25, 0.75, 0.5, 0.0, 0.5, 0.375, 0.625, 0.25, 0.5, 0.375]
    judged = judge_seen(monkeypatch, accuracies)
    runner = run_search(tmp_path, train_cfg=dict(num_ranked=3), **QUIET)
    space, entries = runner.train_loop.space, runner.train_loop.archive.entries
    # At the end: the first genotype, and the three most probable unless archived.
    assert len(judged) == 7 + num_outside(runner.train_loop) and len(entries) == 2
    for cycle, winner in ((0, 1), (1, 1)):
        three = judged[3 * cycle : 3 * cycle + 3]
        assert [network for network, _, _ in three] == three[0][2]
        assert entries[cycle].blocks == space.genotype(three[winner][0]).blocks
    # The first one is judged again with the weights of the second cycle.
    assert space.genotype(judged[6][0]).blocks == entries[0].blocks
    assert [entry.accuracy for entry in entries] == [0.625, 0.5]
    written = read_json(tmp_path / "search/archive.json")["entries"]
    assert [entry["accuracy"] for entry in written] == [0.625, 0.5]
    for name in (entries[0].file, "genotype.json"):
        final = load_genotype(tmp_path / "search" / name)
        assert final.blocks == entries[0].blocks
        assert final.provenance["accuracy"] == 0.625


def test_probability_counts_as_much_as_it_is_told_to(tmp_path, monkeypatch):
    """So much weight that the most probable network is chosen whatever its accuracy; at
    the end it is compared with those of the archive."""
    accuracies = [0.25, 0.75, 0.5, 0.25, 0.5, 0.375, 0.625, 0.25, 0.25, 0.25]
    judged = judge_seen(monkeypatch, accuracies)
    options = dict(num_ranked=3, alpha_weight=1e6)
    loop = run_search(tmp_path, train_cfg=options, **QUIET).train_loop
    for cycle, entry in enumerate(loop.archive.entries):
        first = judged[3 * cycle][0]
        assert entry.blocks == loop.space.genotype(first).blocks
    most_probable = loop.space.genotype(loop.selection.derive()[0]).blocks
    assert loop.archive.final.blocks == most_probable
    final = load_genotype(tmp_path / "search" / "genotype.json")
    assert final.blocks == most_probable
    assert final.provenance["accuracy"] == loop.archive.final.accuracy


@pytest.mark.parametrize("better", [True, False])
@pytest.mark.parametrize("mode", ["cyclic", "diversity"])
def test_search_ends_in_the_best_of_all_however_near(
    tmp_path, monkeypatch, mode, better
):
    """Alphas that never move. Three networks a cycle, and the first genotype again;
    then, where the archive keeps a distance, the three most probable without one, the
    second of which is not in the archive."""
    accuracies = [0.5, 0.25, 0.25, 0.375, 0.25, 0.25, 0.4375]
    # The most probable network is in the archive and not judged again.
    accuracies += [0.75 if better else 0.375, 0.25] * (mode == "diversity")
    judged = judge_seen(monkeypatch, accuracies)
    hook = dict(type="LRDiversityHook", mode=mode, num_cycles=2, min_distance=0.5)
    runner = build_search(
        tmp_path,
        custom_hooks=[hook],
        optim_wrapper=dict(alphas=dict(optimizer=dict(lr=1e-9))),
        train_cfg=dict(num_ranked=3),
        **QUIET,
    )
    loop = runner.train_loop
    with torch.no_grad():
        for alpha in loop.supernet.alphas:
            alpha[0] = 5.0
    runner.train()
    assert len(judged) == len(accuracies)
    folder = tmp_path / "search"
    chosen = loop.archive.final
    final = load_genotype(folder / "genotype.json").blocks
    for entry in loop.archive.entries:
        found = load_genotype(folder / entry.file).provenance
        assert found["accuracy"] == entry.accuracy
    if mode == "diversity" and better:
        assert [network for network, _, _ in judged[-2:]] == loop.selection.derive()[1:]
        second = loop.space.genotype(loop.selection.derive()[1]).blocks
        assert final == chosen.blocks == second
        assert load_genotype(folder / "genotypes/final.json").blocks == final
        assert read_json(folder / "archive.json")["final"]["accuracy"] == 0.75
        # One layer of three from the most probable network, which is in the archive.
        assert chosen.distance == pytest.approx(1 / 3)
    else:
        assert chosen == loop.archive.entries[0]
        assert final == chosen.blocks
        assert not (folder / "genotypes/final.json").exists()
    assert len(loop.archive) == 2


@pytest.mark.parametrize("mode", ["cyclic", "diversity"])
def test_only_the_diversity_schedule_keeps_genotypes_apart(tmp_path, mode):
    """Alphas that never move: the same network would be found in every cycle."""
    hook = dict(type="LRDiversityHook", mode=mode, num_cycles=3, min_distance=0.5)
    runner = build_search(
        tmp_path,
        custom_hooks=[hook],
        optim_wrapper=dict(alphas=dict(optimizer=dict(lr=1e-9))),
        **QUIET,
    )
    loop = runner.train_loop
    with torch.no_grad():
        for alpha in loop.supernet.alphas:
            alpha[0] = 5.0
    runner.train()
    distances = [entry.distance for entry in loop.archive.entries]
    assert loop.archive.entries[0].blocks == loop.space.genotype((0, 0, 0)).blocks
    if mode == "cyclic":
        assert distances == [None, 0, 0]
    else:
        # Half of three layers are two.
        assert distances[0] is None
        assert all(distance >= 2 / 3 for distance in distances[1:])
    assert loop.selection.most_probable_distance() == 0


def test_probabilities_are_those_at_the_temperature(tmp_path):
    model = toy_model()
    model["backbone"]["tau"] = 0.5
    loop = build_search(tmp_path, model=model).train_loop
    with torch.no_grad():
        for alpha in loop.supernet.alphas:
            alpha.copy_(torch.arange(len(alpha)))
    p, log_p = loop.selection.probabilities(), loop.selection.log_probs()
    for row, log_row, expected in zip(
        p, log_p, loop.supernet.probabilities(), strict=True
    ):
        assert row == pytest.approx(expected.tolist())
        assert log_row == pytest.approx(expected.log().tolist(), abs=1e-6)


def test_derive_apart_rounds_up_and_gives_way():
    log_probs = [[-0.1, -3.0], [-0.2, -2.0], [-0.3, -1.0]]
    first = (0, 0, 0)
    assert derive_apart(log_probs, [], 1, [], 0.5) == [first]
    assert derive_apart(log_probs, [], 1, [first], 0.0) == [first]
    assert derive_apart(log_probs, [], 1, [first], 1 / 3) == [(0, 0, 1)]
    assert derive_apart(log_probs, [], 1, [first], 0.34) == [(0, 1, 1)]
    assert derive_apart(log_probs, [], 1, [first], 1.0) == [(1, 1, 1)]
    # Nothing is that far from both.
    assert derive_apart(log_probs, [], 2, [first, (1, 1, 1)], 1.0) == [first, (0, 0, 1)]
    budget = Budget("flops", 1, 0, [[0, 1], [1, 2], [0, 1]])
    assert derive_apart(log_probs, [budget], 2, [first], 0.1) == [first]


def test_the_archive_holds_the_most_accurate_of_the_most_probable(
    tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        judged = judge_seen(patch)
        runner = run_search(tmp_path, train_cfg=dict(num_ranked=3), **QUIET)
    loop = runner.train_loop
    log_probs = [[math.log(p) for p in row] for row in loop.selection.probabilities()]
    first, second = loop.archive.entries
    earlier = loop.space.indices_of_blocks(first.blocks)
    found = derive(log_probs, num_candidates=3, earlier=[earlier])
    networks = [*(network.indices for network in found), earlier]
    accuracies = [loop.evaluate(network) for network in networks]
    # No step has come after the second cycle: what was judged then is there still.
    assert [(network, accuracy) for network, accuracy, _ in judged[3:7]] == list(
        zip(networks, accuracies, strict=True)
    )
    archived = {earlier, loop.space.indices_of_blocks(second.blocks)}
    others = [network for network in loop.selection.derive() if network not in archived]
    assert [network for network, _, _ in judged[7:]] == others
    assert first.accuracy == accuracies[3]
    assert second.accuracy == max(accuracies[:3])
    for entry, three in ((first, judged[:3]), (second, judged[3:6])):
        networks, accuracies, _ = zip(*three, strict=True)
        best = networks[accuracies.index(max(accuracies))]
        assert entry.blocks == loop.space.genotype(best).blocks


def test_a_budget_binds_all_that_are_ranked(tmp_path, monkeypatch):
    free = build_search(tmp_path / "free").train_loop
    fixed, rows = free.selection.fixed, free.selection.per_layer
    limit = fixed + sum(sorted(row)[1] for row in rows)
    judged = judge_seen(monkeypatch)
    cost = dict(kind="flops", budget=limit)
    runner = run_search(tmp_path, train_cfg=dict(num_ranked=3, cost=cost), **QUIET)
    # Three in each cycle where so many keep the budget, and the first genotype again.
    kept = [
        network
        for network in itertools.product(*(range(len(row)) for row in rows))
        if fixed + sum(row[i] for row, i in zip(rows, network, strict=True)) <= limit
    ]
    assert len(kept) >= 4
    assert len(judged) == 7 + num_outside(runner.train_loop)
    for network, _, _ in judged:
        chosen = (row[index] for row, index in zip(rows, network, strict=True))
        assert fixed + sum(chosen) <= limit


def test_a_choice_knows_costs_and_number_of_clips(tmp_path):
    loop = build_search(tmp_path, train_cfg=dict(alpha_weight=1.0), **QUIET).train_loop
    selection = loop.selection
    by_cost = sorted([(0, 0, 0), (3, 3, 3)], key=selection.cost)
    with torch.no_grad():
        for alpha in loop.supernet.alphas:
            alpha.zero_()
    assert selection.choose(by_cost[::-1], [0.5, 0.5]) == 1
    with torch.no_grad():
        loop.supernet.alphas[0][0] = 1.0  # its log p is 1 higher
    # 0.5625 is 1.73 standard errors of 16 clips below 0.75, which count -1.5; of a
    # single clip they would count -0.1.
    assert selection.choose([(0, 0, 0), (1, 0, 0)], [0.5625, 0.75]) == 1
