# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Small sums for the plots: series over time, Pareto front, distances."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..search.diversity import hamming


def thin(items: Sequence[Any], limit: int) -> list[Any]:
    """At most ``limit`` of the items, evenly spaced, first and last among them.

    Raises:
        ValueError: The limit is below 2.
    """
    if limit < 2:
        raise ValueError(f"limit: found {limit}, expected at least 2")
    if len(items) <= limit:
        return list(items)
    step = (len(items) - 1) / (limit - 1)
    return [items[round(i * step)] for i in range(limit)]


def column(records: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """A field of every record; NaN where it is not there or no number."""
    values = (record.get(key) for record in records)
    return [
        float(v) if isinstance(v, int | float) and not isinstance(v, bool) else math.nan
        for v in values
    ]


def has_numbers(values: Sequence[float]) -> bool:
    """Whether any value is a finite number."""
    return any(math.isfinite(value) for value in values)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of the last ``window`` finite values up to each place; NaN before one."""
    result = []
    recent: list[float] = []
    for value in values:
        if math.isfinite(value):
            recent = [*recent, value][-window:]
        result.append(math.fsum(recent) / len(recent) if recent else math.nan)
    return result


def cycle_starts(history: Sequence[Mapping[str, Any]]) -> list[float]:
    """Steps at which a new cycle starts, but the first.

    The position u grows linearly in a cycle from 0, so its slope within the cycle gives
    the step of u = 0; with a single line in a cycle, that line's step is taken.
    """
    starts = []
    for cycle in sorted({r["cycle"] for r in history})[1:]:
        lines = [r for r in history if r["cycle"] == cycle]
        first, last = lines[0], lines[-1]
        u, end = first.get("u"), last.get("u")
        step = float(first["step"])
        if isinstance(u, float) and isinstance(end, float) and end > u > 0:
            step -= u * (last["step"] - first["step"]) / (end - u)
        starts.append(step)
    return starts


def resting_spans(history: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Steps between which the alphas rest: their learning rate is 0."""
    spans: list[tuple[float, float]] = []
    start = end = None
    for record in history:
        if record.get("alphas_lr") == 0:
            start = record["step"] if start is None else start
            end = record["step"]
        elif start is not None:
            spans.append((start, end if end is not None else start))
            start = None
    if start is not None and end is not None:
        spans.append((start, end))
    return spans


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, accuracy) that no other beats, by rising cost.

    A point is beaten by one that costs no more and is no less accurate, and better in
    one of the two. Of equal points the first stands.
    """
    front: list[int] = []
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i))
    for i in order:
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def hamming_matrix(networks: Sequence[Sequence[str]]) -> list[list[float]]:
    """Share of differing layers for every pair of networks of one space."""
    return [[hamming(a, b) for b in networks] for a in networks]
