# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The file of the ground truth table: packing, reading, the tables of the project."""

from __future__ import annotations

import copy
import json
import lzma
import statistics

import pytest
from ground_truth_runs import SPACE

from benchmarks.ground_truth import DEFAULT, load
from benchmarks.ground_truth.recipe import Classifier
from benchmarks.ground_truth.summary import (
    MAX_BEST,
    MIN_CORRELATION,
    MIN_GAP,
    seed_correlations,
    summarise,
)
from benchmarks.ground_truth.table import GroundTruth
from benchmarks.ground_truth.train import (
    LOG,
    MAX_BYTES,
    make_table,
    take_over,
    write_table,
)
from benchmarks.jobs import JobLog
from pvnas_mmaction.space.cost import network_cost


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
        with pytest.raises(ValueError, match=rf"lacks \({lost}\).* another --out"):
            write_table(GroundTruth.from_data(content, "new"), path)
        assert path.read_bytes() == there


def test_packed_table_holds_the_trainings(trained_table, tmp_path):
    _, log = trained_table
    path = tmp_path / "two.json.xz"
    assert write_table(make_table(log), path) == path.stat().st_size < MAX_BYTES
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format_version=1), "format_version: found 1, expected 2"),
        (lambda d: d.pop("seeds"), "top level: found .*expected an object with"),
        (lambda d: d["settings"].update(more=1), "settings: found"),
        (
            lambda d: d["settings"].update(views_per_training=0),
            "views_per_training: found 0, expected an integer above 0",
        ),
        (lambda d: d["settings"].update(space=dict(name="x")), "settings.space: "),
        (lambda d: d.update(seeds=[0.5, 1]), "seeds: found"),
        (lambda d: d.update(networks={}), "networks: found"),
        (
            lambda d: d["networks"].update({"skip": first(d)}),
            "layer 0: found 'skip', expected one of",
        ),
        (
            lambda d: d["networks"].update({"skip skip": first(d)}),
            "found '2 block specs', expected 1 block specs",
        ),
        (lambda d: first(d).update(accuracies=[0.5]), "expected 2, one per seed"),
        (lambda d: first(d).update(accuracies=[0.5, 1.5]), r"found 1\.5, expected a"),
        (lambda d: first(d).update(accuracies=[None, None]), "at least one number"),
        (lambda d: first(d).update(recalls=[None]), "recalls: found .*expected 2, one"),
        (
            lambda d: first(d).update(recalls=[None, [0.5]]),
            r"recalls: found \[0\.5\], expected 8 numbers in \[0, 1\]",
        ),
        (
            lambda d: first(d).update(recalls=[None, [0.5] * 7 + [2]]),
            r"recalls: found .*expected 8 numbers in \[0, 1\]",
        ),
        (
            lambda d: d["settings"].update(clips={}),
            "settings.clips: found {}, expected",
        ),
        (lambda d: first(d).update(macs=1.5), r"macs: found 1\.5, expected an integer"),
        (lambda d: first(d).pop("params"), "expected an object with the keys"),
    ],
)
def test_malformed_data(data, change, message):
    change(data)
    with pytest.raises(ValueError, match=f"t.json: .*{message}"):
        GroundTruth.from_data(data, "t.json")


def first(data: dict) -> dict:
    return next(iter(data["networks"].values()))


def test_file_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train\.py train, then pack"):
        load(tmp_path / "none.json.xz")
    path = tmp_path / "bad.json.xz"
    for content in (b"text", lzma.compress(b"no json")):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"bad\.json\.xz: found no JSON compressed"
        ):
            load(path)


def test_table_of_the_project():
    assert DEFAULT.stat().st_size < MAX_BYTES
    table = load()
    accuracies = [network.accuracy for network in table.values()]
    assert table.is_complete and len(table.seeds) >= 2
    best = table.best().accuracy
    assert best < MAX_BEST
    assert best - statistics.median(accuracies) >= MIN_GAP
    assert json.loads(json.dumps(table.to_data())) == table.to_data()


@pytest.mark.parametrize(
    "name", ["tiny_four_shapes", "tiny_six_shapes", "tiny_fast_turns"]
)
def test_further_tables_of_the_project(name):
    """On clips with less noise: missed requirements are in docs/experiments.md."""
    path = DEFAULT.with_name(f"{name}.json.xz")
    assert path.stat().st_size < MAX_BYTES
    table = load(path)
    assert table.is_complete and table.space == load().space
    assert json.loads(json.dumps(table.to_data())) == table.to_data()
    clips = table.settings["val_clips"]
    has_recalls = name != "tiny_four_shapes"
    for network in table.values():
        assert len(network.recalls) == (len(table.seeds) if has_recalls else 0)
        for i, accuracy in enumerate(network.accuracies):
            if accuracy is None:
                continue
            assert (accuracy * clips).is_integer()
            if has_recalls:
                recalls = statistics.fmean(network.recalls[i])
                assert accuracy == pytest.approx(recalls)


def test_seeds_of_the_project_table_agree():
    assert min(seed_correlations(load()).values()) >= MIN_CORRELATION
