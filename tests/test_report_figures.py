# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The sums behind the plots, and what the plots hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import CANDIDATES, history, write_json, write_launch, write_search

from pvnas_mmaction.report import figures
from pvnas_mmaction.report.data import read_work_dirs


def values(plot, layer: int = -1) -> list[dict]:
    """Data of a layer, or of the whole plot where it has none of its own."""
    spec = plot.spec
    return (spec["layer"][layer].get("data") or spec["data"])["values"]


@given(st.lists(st.integers(), max_size=60), st.integers(2, 30))
def test_thinning_keeps_ends_and_order(items, limit):
    thinned = figures.thin(list(enumerate(items)), limit)
    assert len(thinned) == min(limit, len(items))
    assert thinned == sorted(set(thinned))
    if items:
        assert thinned[0][0] == 0 and thinned[-1][0] == len(items) - 1


def test_alphas_rest_in_the_first_third():
    records = history(CANDIDATES, cycles=2, lines=10, seed=0)
    assert figures.resting_spans(records) == [(0, 20), (100, 120)]
    assert figures.resting_spans(records[:2]) == [(0, 10)]
    assert figures.resting_spans([{"step": 0}]) == []


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12)
)
def test_front_is_what_no_point_beats(points):
    def beaten(i: int) -> bool:
        cost, accuracy = points[i]
        return any(
            (c <= cost and a >= accuracy and (c, a) != (cost, accuracy))
            or ((c, a) == (cost, accuracy) and j < i)
            for j, (c, a) in enumerate(points)
        )

    expected = {i for i in range(len(points)) if not beaten(i)}
    front = figures.pareto_front(points)
    assert set(front) == expected and len(front) == len(expected)
    assert [points[i] for i in front] == sorted(points[i] for i in front)


def test_accuracies_say_when_they_were_measured(tmp_path):
    """A search that is done has judged all its networks with the last weights."""
    path = write_search(tmp_path / "a") / "search/archive.json"
    archive = json.loads(path.read_text())
    final = dict(archive["entries"][-1])
    final["blocks"] = [*final["blocks"][:-1], "skip"]
    for change, words in ((dict(final=None), "end of each cycle"),
                          (dict(final=final), "end of the search")):  # fmt: skip
        write_json(path, archive | change)
        (run,) = read_work_dirs([tmp_path / "a"])
        assert words in figures.search_plots(run)["accuracy"].title
    plots = figures.archive_plots([run], lambda network: dict(flops=1.0))
    assert [p["origin"] for p in values(plots["flops"])] == ["cycle 1", "cycle 2",
                                                             "its end"]  # fmt: skip


def test_the_mean_of_a_long_training_is_one_of_logged_steps(tmp_path: Path):
    """Not of the points that are left to draw."""
    steps = range(1, 1501)
    lines = [dict(top1_acc=i % 7, epoch=1, iter=i, step=i) for i in steps]
    write_launch(tmp_path / "t", scalars=lines)
    (run,) = read_work_dirs([tmp_path / "t"])
    drawn = values(figures.training_plots(run)["accuracy"])
    assert len(drawn) == figures.MAX_POINTS
    for row in drawn:
        last = [i % 7 for i in range(max(1, row["step"] - 9), row["step"] + 1)]
        assert row["top1_acc"] == pytest.approx(sum(last) / len(last))
