# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""A whole search: what it reads, what it runs, what it judges and what it leaves."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path

import pytest
import torch
from mmaction.registry import MODELS
from mmengine.runner import Runner, ValLoop
from searching import (
    INPUT_SHAPE,
    NO_VALIDATION,
    NUM_CLASSES,
    QUIET,
    SPACE,
    ToyClips,
    batch_indices,
    build_search,
    read_json,
    run_search,
    toy_model,
)
from torch import nn

from pvnas_mmaction.apis.run_checks import check_head
from pvnas_mmaction.engine import search_loop
from pvnas_mmaction.models.supernet import PVNASSupernet, inherit_weights
from pvnas_mmaction.search.diversity import diversity, hamming
from pvnas_mmaction.search.randomness import Stream, derived_seed
from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.genotype import load_genotype


class Witness:
    """Sees every step of a search, every draw of a path and every validation."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: dict[str, list[list[int]]] = {"weights": [], "alphas": []}
        self.draws: list[str] = []
        self.seeds: list[int] = []
        self.validated: list[tuple] = []
        self.calibration_seeds: list[int] = []
        for part, name in (("weights", "weights_step"), ("alphas", "alpha_step")):
            step = getattr(search_loop, name)

            def record(model, supernet, batch, *args, step=step, part=part):
                self.batches[part].append(batch_indices(batch))
                self.seeds.append(torch.initial_seed())
                return step(model, supernet, batch, *args)

            monkeypatch.setattr(search_loop, name, record)
        sample, validate = PVNASSupernet.sample, ValLoop.run
        reestimated = search_loop.reestimated_batch_norm

        def reestimated_seen(model, batches, seed):
            self.calibration_seeds.append(seed)
            return reestimated(model, batches, seed)

        def sample_seen(supernet, relaxation, generator=None):
            self.draws.append(relaxation)
            return sample(supernet, relaxation, generator)

        def validate_seen(loop):
            self.validated.append(loop.runner.model.backbone._path)
            return validate(loop)

        monkeypatch.setattr(PVNASSupernet, "sample", sample_seen)
        monkeypatch.setattr(ValLoop, "run", validate_seen)
        monkeypatch.setattr(search_loop, "reestimated_batch_norm", reestimated_seen)


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> tuple[Runner, Path, Witness]:
    """A search that has run: the runner, its ``search`` folder, and a witness."""
    work_dir = tmp_path_factory.mktemp("search")
    with pytest.MonkeyPatch.context() as monkeypatch:
        witness = Witness(monkeypatch)
        runner = run_search(work_dir, **QUIET)
    return runner, work_dir / "search", witness


def test_weights_and_alphas_learn_from_their_own_half(searched):
    _, folder, witness = searched
    split = read_json(folder / "split.json")
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
    # Dropout is drawn anew in every step.
    assert len(set(witness.seeds)) == 30


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
    # Each under the same conditions, those of tools/derive_genotype.py.
    seed = derived_seed(0, Stream.CALIBRATION)
    assert witness.calibration_seeds == [seed] * 3


def test_files_agree_with_the_archive(searched):
    runner, folder, _ = searched
    archive = read_json(folder / "archive.json")
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
    space = read_json(folder / "space.json")
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
    last = read_json(folder / "archive.json")["entries"][-1]
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
        for batch in loop.data.calibration(2):
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
    entries = read_json(tmp_path / "search/archive.json")["entries"]
    assert len(entries) == 2
    assert all(entry["macs"] <= limit for entry in entries)
    assert read_json(tmp_path / "search/space.json")["budget"] == cost


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
    entries = read_json(tmp_path / "search/archive.json")["entries"]
    assert [entry["accuracy"] for entry in entries] == [None, None]
    final = load_genotype(tmp_path / "search/genotype.json")
    assert list(final.blocks) == entries[-1]["blocks"]
    loop = runner.train_loop
    # The most probable network, whatever may be ranked.
    most_probable = loop.space.genotype(loop.supernet.argmax_indices())
    assert final.blocks == most_probable.blocks
    assert loop.evaluate([0, 0, 0]) is None


@pytest.mark.parametrize(
    "changes",
    [
        dict(train_cfg=dict(metric="acc/top3")),
        dict(
            val_evaluator=dict(type="AccMetric", metric_list=("mean_class_accuracy",))
        ),
    ],
)
def test_wrong_validation_shows_before_the_first_step(tmp_path, changes):
    runner = build_search(tmp_path, **changes, **QUIET)
    with pytest.raises(ValueError, match=r"metric: found 'acc/top[13]', expected one"):
        runner.train()
    assert runner.iter == 0


@pytest.mark.parametrize("value", [50.0, -0.1, math.nan])
def test_a_metric_that_is_no_share_shows_before_the_first_step(tmp_path, value):
    runner = build_search(tmp_path, **QUIET)
    [metric] = runner.val_loop.evaluator.metrics
    metric.compute_metrics = lambda results: dict(top1=value)
    message = f"train_cfg.metric: found acc/top1 = {value:g}, expected an accuracy"
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert runner.iter == 0


def test_a_neck_may_change_what_the_head_takes(tmp_path):
    class Widen(nn.Module):
        def forward(self, x, data_samples=None):
            return torch.cat([x, x], dim=1), {}

    model = toy_model()
    model["cls_head"]["in_channels"] *= 2
    recognizer = build_search(tmp_path, model=model).model
    with pytest.raises(ValueError, match=r"model\.cls_head\.in_channels: found"):
        check_head(recognizer)
    recognizer.neck = Widen()
    check_head(recognizer)


def test_trying_the_validation_leaves_nothing_behind(tmp_path):
    runner = build_search(tmp_path, **QUIET)
    loop, validated = runner.train_loop, []
    runner.model.register_forward_hook(lambda *_: validated.append(1))
    before = copy.deepcopy(runner.model.state_dict()), torch.get_rng_state()
    loop._try_validation()
    assert validated == [1]
    assert torch.equal(torch.get_rng_state(), before[1])
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, before[0][name])
    assert all(not metric.results for metric in runner.val_loop.evaluator.metrics)


@pytest.mark.parametrize(
    ("head", "found"),
    [(dict(type="X3DHead", fc1_bias=False), True), (dict(type="I3DHead"), False)],
)
def test_a_head_that_is_not_counted_is_named(tmp_path, capsys, head, found):
    model = toy_model()
    model["cls_head"] |= dict(dropout_ratio=0.0, **head)
    loop = build_search(tmp_path, model=model).train_loop
    head_params = sum(p.numel() for p in loop.model.cls_head.parameters())
    counted = loop.space.skeleton.out_channels * NUM_CLASSES + NUM_CLASSES
    assert (head_params != counted) == found
    message = f"found {head_params} parameters outside its backbone, {counted} are"
    assert (message in capsys.readouterr().out) == found


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
        (
            dict(train_cfg=dict(relaxations="softmax")),
            "relaxations: found 'softmax', expected a dict of settings",
        ),
        (
            dict(train_cfg=dict(relaxations=dict(alphas=["softmax"]))),
            r"relaxation: found \['softmax'\], expected one of",
        ),
        (dict(train_cfg=dict(cost="flops")), "cost: found 'flops', expected a dict"),
        (
            dict(train_cfg=dict(cost=dict(kind="flops", budget=1e9, one_sided="no"))),
            "cost.one_sided: found 'no', expected True or False",
        ),
        (dict(train_cfg=dict(input_shape=8)), "input_shape: found 8, expected"),
        (dict(train_cfg=dict(input_shape=(1, 4, 8, 8))), "input_shape"),
        (dict(train_cfg=dict(alpha_share=1.5)), "alpha_share: found 1.5, expected"),
        (
            dict(train_cfg=dict(num_ranked=0)),
            "num_ranked: found 0, expected an integer of 1 or more",
        ),
        (dict(train_cfg=dict(num_ranked=2.0)), r"num_ranked: expected .*, got 2\.0"),
        (
            dict(train_cfg=dict(largest_every=-1)),
            "largest_every: found -1, expected an integer of 0 or more",
        ),
        (
            dict(train_cfg=dict(largest_every=True)),
            "largest_every: expected .*, got True",
        ),
        (
            dict(train_cfg=dict(calibration_batches=0)),
            "calibration_batches: found 0, expected an integer of 1 or more",
        ),
        (
            dict(train_cfg=dict(alpha_weight=-1.0)),
            r"alpha_weight: found -1\.0, expected a number of 0 or more",
        ),
        (
            dict(train_cfg=dict(alpha_weight=math.inf)),
            "alpha_weight: found inf, expected a number of 0 or more",
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
