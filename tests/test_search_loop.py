# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""A whole search: what it reads, what it runs, what it judges and what it leaves."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from mmaction.registry import MODELS
from mmengine.runner import Runner, ValLoop
from searching import (
    INPUT_SHAPE,
    NUM_CLASSES,
    SPACE,
    ToyClips,
    batch_indices,
    build_search,
    run_search,
    toy_model,
)
from torch import nn

from pvnas_mmaction.cost import layer_costs, network_cost
from pvnas_mmaction.derive import Budget, derive
from pvnas_mmaction.diversity import diversity, hamming
from pvnas_mmaction.engine import search_loop
from pvnas_mmaction.engine.search_loop import SearchLoop, is_largest_step
from pvnas_mmaction.engine.selection import costliest, derive_apart
from pvnas_mmaction.genotype import load_genotype
from pvnas_mmaction.models.supernet import PVNASSupernet, inherit_weights

NO_VALIDATION = dict(val_cfg=None, val_dataloader=None, val_evaluator=None)
QUIET = dict(default_hooks=dict(checkpoint=dict(interval=100)))


class Witness:
    """Sees every step of a search, every draw of a path and every validation."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: dict[str, list[list[int]]] = {"weights": [], "alphas": []}
        self.draws: list[str] = []
        self.validated: list[tuple] = []
        for part, name in (("weights", "weights_step"), ("alphas", "alpha_step")):
            step = getattr(search_loop, name)

            def record(model, supernet, batch, *args, step=step, part=part):
                self.batches[part].append(batch_indices(batch))
                return step(model, supernet, batch, *args)

            monkeypatch.setattr(search_loop, name, record)
        sample, validate = PVNASSupernet.sample, ValLoop.run

        def sample_seen(supernet, relaxation, generator=None):
            self.draws.append(relaxation)
            return sample(supernet, relaxation, generator)

        def validate_seen(loop):
            self.validated.append(loop.runner.model.backbone._path)
            return validate(loop)

        monkeypatch.setattr(PVNASSupernet, "sample", sample_seen)
        monkeypatch.setattr(ValLoop, "run", validate_seen)


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> tuple[Runner, Path, Witness]:
    """A search that has run: the runner, its ``search`` folder, and a witness."""
    work_dir = tmp_path_factory.mktemp("search")
    with pytest.MonkeyPatch.context() as monkeypatch:
        witness = Witness(monkeypatch)
        runner = run_search(work_dir, **QUIET)
    return runner, work_dir / "search", witness


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_weights_and_alphas_learn_from_their_own_half(searched):
    _, folder, witness = searched
    split = read(folder / "split.json")
    assert sorted(split["weights"] + split["alphas"]) == list(range(25))
    for part, half in (("weights", split["weights"]), ("alphas", split["alphas"])):
        batches = witness.batches[part]
        assert all(len(batch) == 4 for batch in batches)
        clips = [clip for batch in batches for clip in batch]
        epochs = [clips[i : i + 12] for i in range(0, len(clips), 12)]
        for epoch in epochs:
            assert len(set(epoch)) == 12
            assert set(epoch) <= set(half)
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_relaxations_and_steps_follow_the_schedule(searched):
    _, _, witness = searched
    cycle = ["uniform"] * 3 + ["gumbel_st", "two_path"] * 6
    assert witness.draws == cycle * 2
    assert len(witness.batches["weights"]) == 18
    assert len(witness.batches["alphas"]) == 12


def test_only_networks_of_cycles_are_validated(searched):
    runner, _, witness = searched
    entries = runner.train_loop.archive.entries
    paths = [
        tuple(
            c.index(b)
            for c, b in zip(runner.train_loop.space.candidates, e.blocks, strict=True)
        )
        for e in entries
    ]
    validated = [tuple(choice.indices[0] for choice in p) for p in witness.validated]
    # The first one again at the end, to compare with the last.
    assert validated == [*paths, paths[0]]
    assert len(entries) == 2


def test_files_agree_with_the_archive(searched):
    runner, folder, _ = searched
    archive = read(folder / "archive.json")
    entries = archive["entries"]
    assert [entry["step"] for entry in entries] == [9, 18]
    assert entries[0]["distance"] is None
    assert entries[1]["distance"] == hamming(*(entry["blocks"] for entry in entries))
    for number, entry in enumerate(entries, start=1):
        assert entry["file"] == f"genotypes/cycle_{number:02d}.json"
        genotype = load_genotype(folder / entry["file"])
        assert list(genotype.blocks) == entry["blocks"]
        for key in ("macs", "params", "accuracy", "cycle", "step"):
            assert genotype.provenance[key] == entry[key]
        assert genotype.provenance["seed"] == 0
        assert genotype.provenance["input_shape"] == list(INPUT_SHAPE)
        network = MODELS.build(
            dict(type="PVNASNet", genotype=str(folder / entry["file"]))
        )
        built = sum(p.numel() for p in network.parameters())
        head = SPACE["head_channels"] * NUM_CLASSES + NUM_CLASSES
        assert entry["params"] == built + head
    best = max(entries, key=lambda entry: entry["accuracy"])
    final = load_genotype(folder / "genotype.json")
    assert list(final.blocks) == best["blocks"]
    space = read(folder / "space.json")
    assert space["space"] == runner.train_loop.space.to_config()
    assert (space["input_shape"], space["num_classes"]) == (
        list(INPUT_SHAPE),
        NUM_CLASSES,
    )
    for row, candidates in zip(
        space["layer_costs"], runner.train_loop.space.candidates, strict=True
    ):
        assert len(row) == len(candidates)


def test_the_network_of_a_cycle_is_the_most_probable(searched):
    runner, folder, _ = searched
    loop = runner.train_loop
    last = read(folder / "archive.json")["entries"][-1]
    chosen = [
        candidates[int(alpha.argmax())]
        for candidates, alpha in zip(
            loop.space.candidates, loop.supernet.alphas, strict=True
        )
    ]
    assert last["blocks"] == chosen
    assert last["diversity"] == pytest.approx(diversity(loop.selection.probabilities()))


def test_accuracy_is_that_of_the_derived_network(searched):
    """Built alone, with copied weights, and batch norm from the same training clips."""
    runner, folder, _ = searched
    loop = runner.train_loop
    entry = loop.archive.entries[-1]  # no step has come after it
    config = toy_model()
    config["backbone"] = dict(type="PVNASNet", genotype=str(folder / entry.file))
    network = MODELS.build(config)
    indices = loop.space.indices(load_genotype(folder / entry.file))
    state = inherit_weights(runner.model.state_dict(), indices, "backbone.")
    network.load_state_dict(state, strict=True)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.reset_running_stats()
            module.momentum = None
    network.train()
    clips = ToyClips(16, noise=0.0)
    correct = 0
    with torch.no_grad():
        for batch in loop.data.calibration_loader(2):
            network.backbone(torch.cat(batch["inputs"]))
        network.eval()
        for index in range(16):
            scores = network.cls_head(network.backbone(clips[index]["inputs"]))
            correct += int(scores.argmax()) == index % NUM_CLASSES
    assert entry.accuracy == correct / 16


def test_a_budget_binds_the_networks_of_the_cycles(tmp_path):
    free = build_search(tmp_path / "free").train_loop
    fixed, rows = free.selection.fixed, free.selection.per_layer
    limit = fixed + sum(sorted(row)[1] for row in rows)
    cost = dict(kind="flops", budget=limit)
    runner = build_search(
        tmp_path,
        train_cfg=dict(cost=cost),
        optim_wrapper=dict(alphas=dict(optimizer=dict(lr=1e-3))),
        **NO_VALIDATION,
        **QUIET,
    )
    loop = runner.train_loop
    dearest = [max(range(len(row)), key=row.__getitem__) for row in rows]
    with torch.no_grad():
        for alpha, index in zip(loop.supernet.alphas, dearest, strict=True):
            alpha[index] = 9.0
    runner.train()
    # The most probable network breaks the budget to the end; those derived keep it.
    assert loop.supernet.argmax_indices() == tuple(dearest)
    entries = read(tmp_path / "search/archive.json")["entries"]
    assert len(entries) == 2
    assert all(entry["macs"] <= limit for entry in entries)
    assert read(tmp_path / "search/space.json")["budget"] == cost


@pytest.mark.parametrize("cost", [None, dict(kind="params", budget=10_000)])
def test_cost_of_a_network_is_the_counted_one(tmp_path, cost):
    loop = build_search(tmp_path, train_cfg=dict(cost=cost)).train_loop
    for network in itertools.product(*(range(len(c)) for c in loop.space.candidates)):
        blocks = loop.space.genotype(network).blocks
        counted = network_cost(loop.space.skeleton, blocks, INPUT_SHAPE, NUM_CLASSES)
        expected = counted.macs if cost is None else counted.params
        assert loop.selection.cost(network) == expected


@pytest.mark.parametrize("options", [{}, dict(num_ranked=3)])
def test_without_validation_the_last_genotype_is_the_result(tmp_path, options):
    runner = run_search(tmp_path, train_cfg=options, **NO_VALIDATION, **QUIET)
    entries = read(tmp_path / "search/archive.json")["entries"]
    assert [entry["accuracy"] for entry in entries] == [None, None]
    final = load_genotype(tmp_path / "search/genotype.json")
    assert list(final.blocks) == entries[-1]["blocks"]
    loop = runner.train_loop
    # The most probable network, whatever may be ranked.
    most_probable = loop.space.genotype(loop.supernet.argmax_indices())
    assert final.blocks == most_probable.blocks
    assert loop.evaluate([0, 0, 0]) is None


# -- the largest network ------------------------------------------------------------


def test_costliest_is_the_maximum_over_all_networks():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        # Few values, so that candidates tie.
        costs = torch.randint(0, 3, (3, 4), generator=generator).tolist()
        costs[1].pop()  # layers may differ in length
        networks = itertools.product(*(range(len(layer)) for layer in costs))

        def cost(network, costs=costs):
            return sum(layer[i] for layer, i in zip(costs, network, strict=True))

        # Indices ascend: of those that tie, the one that is last in every layer.
        assert costliest(costs) == max(networks, key=lambda n: (cost(n), n))
    assert costliest([[0.5, 0.25], [1, 1, 1]]) == (0, 2)


def test_when_the_largest_network_runs():
    def steps(every: int) -> list[int]:
        return [step for step in range(7) if is_largest_step(step, every)]

    assert [steps(every) for every in range(4)] == [
        [],
        list(range(7)),
        [0, 2, 4, 6],
        [0, 3, 6],
    ]


@pytest.mark.parametrize("cost", [None, dict(kind="params", budget=10_000)])
def test_the_largest_network_runs_in_the_first_cycle(tmp_path, monkeypatch, cost):
    run, drawn = [], []
    step, sample = search_loop.weights_step, PVNASSupernet.sample

    def step_seen(model, supernet, batch, path, *args):
        run.append(path)
        return step(model, supernet, batch, path, *args)

    def sample_seen(supernet, relaxation, generator=None):
        path = sample(supernet, relaxation, generator)
        if relaxation != "two_path":  # that of an alpha step
            drawn.append((relaxation, path))
        return path

    monkeypatch.setattr(search_loop, "weights_step", step_seen)
    monkeypatch.setattr(PVNASSupernet, "sample", sample_seen)
    options = dict(largest_every=2, cost=cost)
    runner = run_search(tmp_path, train_cfg=options, **NO_VALIDATION, **QUIET)
    kind = "macs" if cost is None else "params"
    rows = layer_costs(runner.train_loop.space, INPUT_SHAPE)
    largest = []
    for row in rows:
        values = [getattr(value, kind) for value in row]
        assert values.count(max(values)) == 1
        largest.append((values.index(max(values)),))
    # 2 cycles of 9 steps; the alphas rest in the first 3 of each. Only those of the
    # first cycle are the largest network's.
    forced = [0, 2, 4, 6, 8]
    assert len(run) == 18
    for number in forced:
        assert [choice.indices for choice in run[number]] == largest
    others = [number for number in range(18) if number not in forced]
    assert len(drawn) == len(others)
    for number, (relaxation, path) in zip(others, drawn, strict=True):
        assert run[number] is path
        assert relaxation == ("uniform" if number % 9 < 3 else "gumbel_st")
    # Even steps of the second run other networks, also where alphas rest.
    for even in ([10], range(12, 18, 2)):
        assert any(
            [choice.indices for choice in run[number]] != largest for number in even
        )


# -- ranking ------------------------------------------------------------------------


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
    written = read(tmp_path / "search/archive.json")["entries"]
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
    accuracies = [0.5, 0.25, 0.25, 0.375, 0.25, 0.25, 0.5]
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
    if mode == "diversity" and better:
        assert [network for network, _, _ in judged[-2:]] == loop.selection.derive()[1:]
        second = loop.space.genotype(loop.selection.derive()[1]).blocks
        assert final == chosen.blocks == second
        assert load_genotype(folder / "genotypes/final.json").blocks == final
        assert read(folder / "archive.json")["final"]["accuracy"] == 0.75
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


# -- repeating it ---------------------------------------------------------------------


def test_the_same_seed_gives_the_same_search(tmp_path):
    def search(name: str, seed: int) -> tuple[dict, str]:
        runner = run_search(
            tmp_path / name, randomness=dict(seed=seed), **NO_VALIDATION, **QUIET
        )
        history = (tmp_path / name / "search/history.jsonl").read_text()
        return runner.model.state_dict(), history

    (first, history), (again, same), (other, _) = (
        search("first", 0),
        search("again", 0),
        search("other", 1),
    )
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert history == same
    assert not torch.equal(first["backbone.alphas.0"], other["backbone.alphas.0"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(train_cfg=dict(metric="acc/top3")),
            r"metric: found 'acc/top3', expected one of \['acc/mean1', 'acc/top1', ",
        ),
        (
            dict(train_dataloader=dict(dataset=dict(multi_class=True))),
            "expected one class id per clip",
        ),
        (
            dict(train_cfg=dict(relaxations=dict(alpha="softmax"))),
            r"relaxations: found the keys \['alpha', 'alphas', 'warmup', 'weights'\]",
        ),
        (
            dict(train_cfg=dict(relaxations=dict(weights="darts"))),
            "relaxation: found 'darts', expected one of softmax",
        ),
        (
            dict(train_cfg=dict(relaxations=dict(alphas="uniform"))),
            "relaxations.alphas: found 'uniform', which gives the alphas no gradient",
        ),
        (dict(train_cfg=dict(input_shape=(1, 4, 8, 8))), "input_shape"),
        (dict(train_cfg=dict(alpha_share=1.5)), "alpha_share: found 1.5, expected"),
        (
            dict(train_cfg=dict(num_ranked=0)),
            "num_ranked: found 0, expected an integer of 1 or more",
        ),
        (dict(train_cfg=dict(num_ranked=2.0)), r"num_ranked: found 2\.0, expected"),
        (
            dict(train_cfg=dict(largest_every=-1)),
            "largest_every: found -1, expected an integer of 0 or more",
        ),
        (dict(train_cfg=dict(largest_every=True)), "largest_every: found True, expect"),
        (
            dict(train_cfg=dict(calibration_batches=0)),
            "calibration_batches: found 0, expected an integer of 1 or more",
        ),
        (
            dict(train_cfg=dict(alpha_weight=-1.0)),
            r"alpha_weight: found -1\.0, expected a number of 0 or more",
        ),
        (
            dict(train_cfg=dict(alpha_weight="1")),
            "alpha_weight: found '1', expected a number",
        ),
        (
            dict(
                model=dict(
                    backbone=dict(_delete_=True, type="C3D", style="pytorch"),
                )
            ),
            "model: found 0 supernets, expected one",
        ),
    ],
)
def test_wrong_settings(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run_search(tmp_path, **changes, **QUIET)
