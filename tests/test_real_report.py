# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""What trainings on real clips say: the verdict and comparisons."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import pytest

from benchmarks.real_compare import accuracies, compare, with_seeds
from benchmarks.real_report import difference, markdown, requirements, summarise

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
ACCURACIES = {
    "TSM-R50": {1: (0.25, 0.25), 2: (0.5, 0.5)},
    "TSM-MobileNetV2": {1: (0.375, 0.625), 2: (0.375, 0.125)},
    "light <= TSM-MobileNetV2": {1: (0.5, 0.75), 2: (0.5, 0.25)},
}


def made_records() -> list[dict]:
    return [
        dict(name=name, fold=fold, seed=seed, lr=0.1, accuracy=accuracy)
        for name, by_fold in ACCURACIES.items()
        for fold, values in by_fold.items()
        for seed, accuracy in enumerate(values)
    ]


def test_difference_and_its_error_are_over_the_folds():
    found = difference(made_records(), "light <= TSM-MobileNetV2", "TSM-MobileNetV2")
    # Folds: 62.5 - 50 and 37.5 - 25.
    assert found == dict(mean=12.5, standard_error=0)
    found = difference(made_records(), "light <= TSM-MobileNetV2", "TSM-R50")
    gains = [62.5 - 25, 37.5 - 50]
    error = statistics.stdev(gains) / math.sqrt(2)
    assert found == dict(mean=12.5, standard_error=pytest.approx(error))


@pytest.mark.parametrize(("share", "met"), [(0.0, True), (0.0625, False)])
def test_the_margin_is_asked_of_the_best_tsm(share, met):
    records = made_records()
    for record in records:
        if record["name"] == "TSM-MobileNetV2":
            # Above TSM-R50, and by another share in each fold.
            record["accuracy"] += 0.03125 + share * (2 * record["fold"] - 3)
    costs = {name: [dict(macs=1, params=2, latency_ms=3.0)] for name in ACCURACIES}
    result = summarise(records, costs, list(ACCURACIES))
    [item] = result["requirements"]
    assert item["name"].endswith("against TSM-MobileNetV2, points")
    assert item["found"] == pytest.approx(12.5 - 3.125)
    assert item["standard_error"] == pytest.approx(100 * share)
    assert item["met"] is met
    assert requirements(records, result["rows"][2:]) == []


def test_difference_from_the_mean_of_two():
    records = made_records()
    name = "light <= TSM-MobileNetV2"
    found = difference(records, name, "TSM-R50", "TSM-MobileNetV2")
    # Folds: 62.5 - (25 + 50) / 2 and 37.5 - (50 + 25) / 2.
    assert found == dict(mean=12.5, standard_error=12.5)


def test_comparison_by_hand():
    name = "light <= TSM-MobileNetV2"
    trainings = [record | dict(blocks=None) for record in made_records()]
    # Two networks of fold 1: no seeds of one network.
    trainings[8] |= dict(blocks="skip", accuracy=0.625)
    judged = {"a": (0.5, 0.25), "b": (0.125, 0.5), "c": (0.0, 0.0)}
    tuning = [
        dict(name=name, fold=1, blocks=blocks, lr=lr, accuracy=lr * accuracy)
        for blocks, accuracies in judged.items()
        for accuracy in accuracies
        for lr in (1, 2)
    ]
    result = dict(
        rows=[dict(name=name), dict(name="TSM-R50"), dict(name="TSM-MobileNetV2")],
        settings=dict(keep_best=1),
        tuning=tuning,
        trainings=trainings,
    )
    assert compare(result, ["TSM-R50"]) == [
        f"{name}: +15.6 ± 28.1 against TSM-R50; trainings of a fold 25.0 to 25.0; "
        "best two searches 6.2 to 6.2 apart",
        "TSM-MobileNetV2: +0.0 ± 25.0 against TSM-R50; trainings of a fold 25.0 to "
        "25.0",
    ]
    # A network that two searches found is trained once and is there twice.
    doubled = dict(result, trainings=[*trainings, trainings[-1]])
    assert "25.0 to 25.0" in compare(doubled, ["TSM-R50"])[0]
    both = compare(result, ["TSM-R50", "TSM-MobileNetV2"])[0]
    assert "+15.6 ± 15.6 against TSM-R50, TSM-MobileNetV2;" in both
    del result["settings"]["keep_best"]
    assert "searches" not in compare(result, ["TSM-R50"])[0]
    with pytest.raises(ValueError, match="--against: found 'X3D-M', expected some of"):
        compare(result, ["X3D-M"])


def test_accuracies_and_a_choice_of_seeds_by_hand():
    trainings = [
        dict(name="a", fold=fold, seed=seed, blocks=None, accuracy=accuracy)
        for (fold, seed), accuracy in {
            (1, 0): 0.5, (1, 1): 0.25, (2, 0): 0.25, (2, 1): 0.75
        }.items()
    ]  # fmt: skip
    result = dict(rows=[dict(name="a")], trainings=trainings)
    assert accuracies(result) == ["a: 43.8 ± 6.2 %; folds 37.5, 50.0"]
    alone = with_seeds(result, [1])
    assert accuracies(alone) == ["a: 50.0 ± 25.0 %; folds 25.0, 75.0"]
    assert result["trainings"] == trainings
    one_fold = dict(result, trainings=trainings[:2])
    assert accuracies(one_fold) == ["a: 37.5 %; folds 37.5"]
    with pytest.raises(
        ValueError, match=r"--seeds: found \[2\], expected some of \[0, 1"
    ):
        with_seeds(result, [2])


@pytest.mark.parametrize(
    "path", sorted(RESULTS.glob("real_clips*.json")), ids=lambda path: path.stem
)
def test_tables_of_the_project_are_those_of_their_results(path):
    result = json.loads(path.read_text())
    assert path.with_suffix(".md").read_text() == markdown(result) + "\n"
    records, rows = result["trainings"], result["rows"]
    for row in rows:
        accuracies = [r["accuracy"] for r in records if r["name"] == row["name"]]
        assert row["trainings"] == len(accuracies)
    assert result["requirements"] == requirements(records, rows)
