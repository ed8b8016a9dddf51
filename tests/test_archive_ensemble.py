# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Archives as ensembles: who is averaged, what comes out, and the command."""

from __future__ import annotations

import json
import lzma

import numpy as np
import pytest
from ground_truth_runs import RECIPE

from benchmarks.archive_ensemble import (
    FOUND,
    RANDOM,
    ensembles,
    judge,
    judge_all,
    main,
    markdown,
)
from benchmarks.ground_truth.train import make_table


@pytest.fixture(scope="module")
def table(trained_table):
    return make_table(trained_table[1], {})


def a_run(variant: str, seed: int, found: int, *archive: int) -> dict:
    """A run of search_quality.py in a space of one layer."""
    entries = [dict(indices=[index]) for index in archive]
    return dict(variant=variant, seed=seed, found=[found], archive=entries)


RUNS = [a_run("diversity", 3, 1, 0, 1), a_run("cyclic", 3, 0, 1, 1)]


def test_members(table):
    groups = ensembles(RUNS, ["diversity", "cyclic"], table, repeats=2)
    networks = {
        name: {run: [indices for indices, _ in members] for run, members in by.items()}
        for name, by in groups.items()
    }
    twice = {run: [(0,), (1,)] for run in ((3, 0), (3, 1))}
    assert networks["archive of diversity"] == twice
    assert networks["archive of cyclic"] == {run: [(1,), (1,)] for run in twice}
    assert networks[FOUND] == networks["archive of cyclic"]
    # Two different networks out of the two there are.
    assert {frozenset(members) for members in networks[RANDOM].values()} == {
        frozenset([(0,), (1,)])
    }


def test_every_member_is_trained_by_itself(table):
    """Also where two searches found the same."""
    again = [dict(run, seed=4) for run in RUNS]
    groups = ensembles([*RUNS, *again], ["diversity", "cyclic"], table, repeats=2)
    members = [m for by in groups.values() for each in by.values() for m in each]
    assert len(members) == 4 * 2 * 2 * 2
    assert len({seed for _, seed in members}) == len(members)
    # More repeats add to what is trained and change nothing.
    fewer = ensembles([*RUNS, *again], ["diversity", "cyclic"], table)
    assert all(fewer[name][4, 0] == by[4, 0] for name, by in groups.items())


def test_missing_variant(table):
    with pytest.raises(ValueError, match="found 'darts', expected some of"):
        ensembles(RUNS, ["darts"], table)


def test_mean_of_probabilities_decides():
    labels = np.array([0, 0, 1])
    first = [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]]  # the second clip is wrong
    second = [[0.2, 0.8], [0.7, 0.3], [0.6, 0.4]]  # the others are
    found = judge(np.array([first, second]), labels)
    assert found["members"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert found["best_member"] == pytest.approx(2 / 3)
    assert found["ensemble"] == 1.0
    assert found["disagreement"] == 1.0


def test_one_member_has_nobody_to_disagree_with():
    found = judge(np.array([[[0.9, 0.1]]]), np.array([0]))
    assert found == dict(members=1.0, best_member=1.0, ensemble=1.0, disagreement=0.0)


def test_rows(table):
    groups = ensembles(RUNS, ["diversity", "cyclic"], table)
    labels = np.array([0, 1])
    right, wrong = [[0.9, 0.1], [0.1, 0.9]], [[0.4, 0.6], [0.6, 0.4]]
    said = {(0,): wrong, (1,): right}
    records = [
        dict(indices=list(indices), seed=seed, probabilities=said[indices])
        for by_run in groups.values()
        for members in by_run.values()
        for indices, seed in members
    ]
    result = judge_all(groups, records, labels, table)
    rows = {row["name"]: row for row in result["rows"]}
    diverse = rows["archive of diversity"]
    assert diverse["members"]["mean"] == 0.5
    assert diverse["ensemble"]["mean"] == 1.0
    assert diverse["gain"]["mean"] == 0.5
    assert diverse["against_found"]["mean"] == 0.0
    assert diverse["macs"]["mean"] == table[0,].macs + table[1,].macs
    assert rows[FOUND]["macs"]["mean"] == 2 * table[1,].macs
    assert "| archive of cyclic | 100.0 | 100.0 | 100.0 | 0.0 |" in markdown(result)


def test_repeats_are_averaged_and_every_search_draws_its_own_networks(table):
    runs = [a_run("diversity", seed, 1, 0) for seed in range(8)]
    groups = ensembles(runs, ["diversity"], table, repeats=2)
    drawn = {members[0][0] for members in groups[RANDOM].values()}
    assert drawn == {(0,), (1,)}
    right, wrong = [[0.9, 0.1], [0.1, 0.9]], [[0.1, 0.9], [0.9, 0.1]]
    records = [
        dict(indices=list(indices), seed=seed, probabilities=said)
        for by_run in groups.values()
        for (_, repeat), members in by_run.items()
        for indices, seed in members
        for said in [wrong if repeat else right]
    ]
    for row in judge_all(groups, records, np.array([0, 1]), table)["rows"]:
        assert row["ensemble"] == dict(mean=0.5, standard_error=0.0)


def test_command(trained_table, table, tmp_path, capsys):
    """Trains, judges, writes; a second call trains nothing and says the same."""
    loader, _ = trained_table
    packed = tmp_path / "table.json.xz"
    content = table.to_data()
    content["settings"] = dict(content["settings"], recipe=RECIPE.to_settings())
    packed.write_bytes(lzma.compress(json.dumps(content).encode()))
    searches = tmp_path / "searches.json"
    searches.write_text(json.dumps(dict(runs=RUNS)))
    work_dir, out = tmp_path / "work", tmp_path / "out.json"
    options = ["--data", str(loader.data), "--table", str(packed)]
    options += ["--searches", str(searches), "--work-dir", str(work_dir)]
    options += ["--out", str(out)]
    main(options)
    log = work_dir / "predictions.jsonl"
    trained = log.read_text()
    first = json.loads(out.read_text())
    assert out.with_suffix(".md").read_text() == markdown(first) + "\n"
    assert markdown(first) in capsys.readouterr().out
    assert len(trained.splitlines()) == 4 * 2
    main(options)
    assert log.read_text() == trained
    assert json.loads(out.read_text())["rows"] == first["rows"]
    with pytest.raises(ValueError, match="--repeats: found 0, expected 1 or more"):
        main([*options, "--repeats", "0"])
