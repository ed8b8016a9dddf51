# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Archives as ensembles: who is averaged, what comes out, and the command."""

from __future__ import annotations

import json
import lzma

import numpy as np
import pytest
from ground_truth_runs import RECIPE

from benchmarks.archive_ensemble import (
    FIRST_SEED,
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
    seeds = [FIRST_SEED, FIRST_SEED + 1, FIRST_SEED + 2, FIRST_SEED + 3]
    assert groups["archive of diversity"] == {
        (3, 0): [((0,), seeds[0]), ((1,), seeds[1])],
        (3, 1): [((0,), seeds[2]), ((1,), seeds[3])],
    }
    assert groups["archive of cyclic"][3, 0] == [((1,), seeds[0]), ((1,), seeds[1])]
    assert groups[FOUND][3, 1] == [((1,), seeds[2]), ((1,), seeds[3])]
    # Two different networks out of the two there are.
    assert {indices for indices, _ in groups[RANDOM][3, 0]} == {(0,), (1,)}


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
    records = [
        dict(indices=[index], seed=FIRST_SEED + number, probabilities=p)
        for index, p in enumerate((wrong, right))
        for number in range(2)
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
    # Both networks with both seeds, whichever ensembles they are in.
    assert len(trained.splitlines()) == 4
    main(options)
    assert log.read_text() == trained
    assert json.loads(out.read_text())["rows"] == first["rows"]
    with pytest.raises(ValueError, match="--repeats: found 0, expected 1 or more"):
        main([*options, "--repeats", "0"])
