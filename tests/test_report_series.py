# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The small sums behind the plots."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import CANDIDATES, history

from pvnas_mmaction.report.series import (
    column,
    cycle_starts,
    hamming_matrix,
    pareto_front,
    resting_spans,
    running_mean,
    thin,
)


@given(st.lists(st.integers(), max_size=60), st.integers(2, 30))
def test_thinning_keeps_ends_and_order(items, limit):
    thinned = thin(list(enumerate(items)), limit)
    assert len(thinned) == min(limit, len(items))
    assert thinned == sorted(set(thinned))
    if items:
        assert thinned[0][0] == 0 and thinned[-1][0] == len(items) - 1


def test_thinning_to_one_is_refused():
    with pytest.raises(ValueError, match="limit: found 1, expected at least 2"):
        thin([1, 2], 1)


def test_columns_take_numbers_alone():
    values = column([{"a": 1}, {}, {"a": "x"}, {"a": True}, {"a": None}], "a")
    assert values[0] == 1 and all(math.isnan(value) for value in values[1:])


def test_running_mean():
    nan = math.nan
    means = running_mean([nan, 2, 4, nan, 9], 2)
    assert math.isnan(means[0]) and means[1:] == [2, 3, 3, 6.5]


def test_cycles_start_where_u_is_zero():
    # Cycles of 25 steps, a line every 10: steps 25 and 50 have no line.
    records = [
        dict(step=step, cycle=step // 25, u=step % 25 / 25) for step in range(0, 75, 10)
    ]
    assert cycle_starts(records) == pytest.approx([25, 50])
    assert cycle_starts(records[:2]) == []
    # A single line of a cycle says no more than that it has started.
    assert cycle_starts(records[:4]) == [30]


def test_alphas_rest_in_the_first_third():
    records = history(CANDIDATES, cycles=2, lines=10, seed=0)
    assert resting_spans(records) == [(0, 20), (100, 120)]
    assert resting_spans(records[:2]) == [(0, 10)]
    assert resting_spans([{"step": 0}]) == []


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
    front = pareto_front(points)
    assert set(front) == expected and len(front) == len(expected)
    assert [points[i] for i in front] == sorted(points[i] for i in front)


def test_distances():
    networks = [list("aaaa"), list("aabb"), list("bbbb")]
    assert hamming_matrix(networks) == [[0, 0.5, 1], [0.5, 0, 0.5], [1, 0.5, 0]]
