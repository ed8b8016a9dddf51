# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The study on real clips: folds and the table."""

from __future__ import annotations

from benchmarks.real_clips import Study
from benchmarks.real_table import markdown, with_error


def test_clips_to_test_on_are_no_part_of_an_inner_split(tmp_path):
    lists = dict(fold1_train="a 0\nb 1\nc 2\nd 3", fold1_val="e 0")
    lists |= dict(fold2_train="e 0\nb 1\nd 3", fold2_val="a 0\nc 2", classes="a")
    for name, text in lists.items():
        (tmp_path / f"{name}.txt").write_text(text)
    study = Study(tmp_path)
    assert list(study.folds) == [1, 2]
    assert study.inner(1) == dict(train=["b 1", "d 3"], val=["a 0", "c 2"])
    assert study.inner(2) == dict(train=["b 1", "d 3"], val=["e 0"])


def test_table_by_hand():
    accuracies = {
        ("a", 1, 0): 0.2, ("a", 1, 1): 0.4, ("a", 2, 0): 0.5,
        ("b", 1, 0): 0.4, ("b", 2, 0): 0.8,
    }  # fmt: skip
    trainings = [
        dict(name=name, fold=fold, seed=seed, accuracy=accuracy)
        for (name, fold, seed), accuracy in accuracies.items()
    ]
    rows = [dict(name=name, macs=2e6, params=30_000) for name in "ab"]
    lines = markdown(dict(trainings=trainings, rows=rows), ["a"]).splitlines()
    # Folds: a 30 and 50, b 40 and 80; differences 10 and 30.
    assert lines[2] == "| a | 40.0 ± 10.0 |  | 2 | 0.03 | 3 |"
    assert lines[3] == "| b | 60.0 ± 20.0 | +20.0 ± 10.0 | 2 | 0.03 | 2 |"
    seeds = markdown(dict(trainings=trainings, rows=rows[:1]), seeds=[1]).splitlines()
    assert seeds[2] == "| a | 40.0 |  | 2 | 0.03 | 1 |"
    assert with_error([1.0]) == "1.0"
