"""A whole search: what it reads, what it runs, what it judges and what it leaves."""

import math
from pathlib import Path

import pytest
import torch
from mmaction.registry import MODELS
from mmengine.runner import Runner
from searching import (
    INPUT_SHAPE,
    NO_VALIDATION,
    NUM_CLASSES,
    QUIET,
    ToyClips,
    build_search,
    read_json,
    run_search,
    toy_model,
)
from torch import nn

from pvnas_mmaction.models.supernet import inherit_weights
from pvnas_mmaction.search.diversity import hamming
from pvnas_mmaction.search.search import Search
from pvnas_mmaction.space.genotype import load_genotype


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> tuple[Runner, Path, dict]:
    """A search that has run: the runner, its ``search`` folder, and a trace of its
    steps and of the networks that it judged."""
    work_dir = tmp_path_factory.mktemp("search")
    hooks = [dict(type="LRDiversityHook", num_cycles=2), dict(type="TraceHook")]
    judged, judge = [], Search.judge
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Search, "judge", lambda *a: judged.append(a[1]) or judge(*a))
        runner = run_search(work_dir, custom_hooks=hooks, **QUIET)
    trace = read_json(work_dir / "trace_0.json") | dict(judged=judged)
    return runner, work_dir / "search", trace


def test_what_a_search_reads_runs_and_judges(searched):
    """Weights and alphas learn from a half of their own."""
    runner, folder, trace = searched
    split = read_json(folder / "split.json")
    assert sorted(split["weights"] + split["alphas"]) == list(range(25))
    for part in ("weights", "alphas"):
        assert all(len(batch) == 4 for batch in trace[part])
        clips = [clip for batch in trace[part] for clip in batch]
        epochs = [clips[i : i + 12] for i in range(0, len(clips), 12)]
        for epoch in epochs:
            assert len(set(epoch)) == 12
            assert set(epoch) <= set(split[part])
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
    cycle = ["uniform"] * 3 + ["gumbel_st", "two_path"] * 6
    assert [draw[1] for draw in trace["draws"]] == cycle * 2
    assert (len(trace["weights"]), len(trace["alphas"])) == (18, 12)
    search = runner.train_loop.search
    paths = [search.space.indices_of_blocks(e.blocks) for e in search.archive.entries]
    # The first one again at the end, to compare with the last.
    assert trace["judged"] == [*paths, paths[0]]
    assert len(paths) == 2


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
        for key in ("accuracy", "cycle", "step"):
            assert genotype.provenance[key] == entry[key]
        assert genotype.provenance["macs"] == entry["costs"]["flops"]
        assert genotype.provenance["params"] == entry["costs"]["params"]
        assert genotype.provenance["seed"] == 0
        assert genotype.provenance["input_shape"] == list(INPUT_SHAPE)
    best = max(entries, key=lambda e: (e["accuracy"], -e["costs"]["flops"]))
    final = load_genotype(folder / "genotype.json")
    assert list(final.blocks) == best["blocks"]
    space = read_json(folder / "space.json")
    assert space["space"] == runner.train_loop.search.space.to_config()
    assert space["input_shape"] == list(INPUT_SHAPE)
    assert space["num_classes"] == NUM_CLASSES


def test_accuracy_is_that_of_the_derived_network(searched):
    """Built alone, with copied weights, and batch norm from the same training clips."""
    runner, folder, _ = searched
    loop = runner.train_loop
    entry = loop.search.archive.entries[-1]  # no step has come after it
    config = toy_model()
    config["backbone"] = dict(type="PVNASNet", genotype=str(folder / entry.file))
    network = MODELS.build(config)
    indices = loop.search.space.indices_of_blocks(entry.blocks)
    state = inherit_weights(runner.model.state_dict(), indices)
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


def test_without_validation_the_last_genotype_is_the_result(tmp_path):
    options = dict(num_ranked=3)
    runner = run_search(tmp_path, train_cfg=options, **NO_VALIDATION, **QUIET)
    entries = read_json(tmp_path / "search/archive.json")["entries"]
    assert [entry["accuracy"] for entry in entries] == [None, None]
    final = load_genotype(tmp_path / "search/genotype.json")
    assert list(final.blocks) == entries[-1]["blocks"]
    search = runner.train_loop.search
    # The most probable network, whatever may be ranked.
    most_probable = search.space.blocks([row.index(max(row)) for row in search.alphas])
    assert final.blocks == most_probable


@pytest.mark.parametrize("value", [50.0, math.nan])
def test_a_metric_that_is_no_share_shows_before_the_first_step(tmp_path, value):
    runner = build_search(tmp_path, **QUIET)
    [metric] = runner.val_loop.evaluator.metrics
    metric.compute_metrics = lambda results: dict(top1=value)
    message = f"metric: expected an accuracy from 0 to 1, got acc/top1 = {value:g}"
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert runner.iter == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(input_shape=(1, 4, 8, 8)), r"input_shape: expected \(C = 3, T, H, W\)"),
        (dict(input_shape=(3, 4, 8, 16)), r"expected \(3, 4, 8, 8\), .*train_data"),
        (dict(relaxations=dict(alpha="softmax")), "relaxations, unknown .*got 'alpha'"),
        (dict(relaxations=dict(weights="darts")), "relaxations: weights: .*'darts'"),
        (dict(relaxations=dict(alphas="uniform")), "relaxations: alphas: .*'uniform'"),
        (dict(alpha_share=1.5), "alpha_share: expected .*, got 1.5"),
        (dict(largest_every=-1), "largest_every: expected a whole .*, got -1"),
        (dict(calibration_batches=0), "calibration_batches: expected .*, got 0"),
    ],
)
def test_wrong_settings(tmp_path, changes, message):
    runner = build_search(tmp_path, train_cfg=changes, **QUIET)
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert not list(tmp_path.rglob("*.pth"))
