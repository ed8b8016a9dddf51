"""Fit a latency table to whole networks, and see how well it predicts others: readings
are skewed, each piece that runs alone has an overhead, and a search prefers the
candidates whose readings came out low."""

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..space.latency_table import LatencyTable
from .latency import Networks, Track, measure_networks

# Standard deviations of a network's time about the table's, which the table adds.
MARGIN = 2.0
# Price of a network's time, in the draw of whole networks, from 0 to this: from any
# network to one near the quickest.
MAX_PRICE = 3.0
NUM_OVERHEADS = 41


def calibrate_and_check(
    table: LatencyTable, networks: Networks, number: int, track: Track = iter
) -> LatencyTable:
    """Fit a table to a ``number`` of networks, and compare it with as many others, all
    measured in turn. ``setting["check"]`` has the rows of the others, median and 90th
    percentile of abs(predicted - measured) / measured, and how many take no longer than
    predicted."""
    generator = random.Random(1)
    drawn = draw_networks(table, 2 * number, generator)
    measured = measure_networks(networks, drawn, generator, track)
    table = calibrate(table, compare(table, drawn[::2], measured[::2]))
    rows = compare(table, drawn[1::2], measured[1::2])
    errors = np.array([row["predicted_ms"] / row["measured_ms"] - 1 for row in rows])
    check = dict(
        median_error=float(np.median(abs(errors))),
        p90_error=float(np.percentile(abs(errors), 90, method="inverted_cdf")),
        num_within=int((errors >= 0).sum()),
        networks=rows,
    )
    return replace(table, setting=dict(table.setting, check=check))


def draw_networks(
    table: LatencyTable, number: int, generator: random.Random
) -> list[tuple[int, ...]]:
    """Random networks, from any to near the quickest: candidates of a layer with
    probability exp(-price * ms), as where a search weighs them against a budget."""
    unit = statistics.mean(map(statistics.pstdev, table.layer_ms))
    drawn = []
    for price in np.linspace(0, MAX_PRICE / unit, number).tolist():
        weights = [[math.exp(-price * ms) for ms in row] for row in table.layer_ms]
        rows = (generator.choices(range(len(row)), row)[0] for row in weights)
        drawn.append(tuple(rows))
    return drawn


def compare(
    table: LatencyTable, networks: Sequence[Sequence[int]], measured: Sequence[float]
) -> list[dict[str, Any]]:
    return [
        dict(indices=list(indices), predicted_ms=table.predict(indices), measured_ms=ms)
        for indices, ms in zip(networks, measured, strict=True)
    ]


def calibrate(table: LatencyTable, rows: Sequence[dict[str, Any]]) -> LatencyTable:
    """The table that fits three or more rows of :func:`compare`; how is in
    ``setting["calibration"]``.

    Each reading is lessened by the overhead of a piece that runs alone, and scaled:
    overhead and scale of the least squared relative error. The margin is :data:`MARGIN`
    standard deviations of that error.
    """
    measured = np.array([row["measured_ms"] for row in rows])
    most = statistics.mean(map(min, table.layer_ms))
    fits = []
    for overhead in np.linspace(0, most, NUM_OVERHEADS).tolist():
        lessened = _changed(table, overhead, 1.0)
        ratios = [lessened.predict(row["indices"]) for row in rows] / measured
        scale = float(ratios.sum() / (ratios**2).sum())
        fits.append((float(((scale * ratios - 1) ** 2).sum()), overhead, scale))
    error, overhead, scale = min(fits)
    margin = MARGIN * math.sqrt(error / (len(rows) - 2))
    facts = dict(overhead_ms=overhead, scale=scale, margin=margin, networks=[*rows])
    fitted = _changed(table, overhead, scale * (1 + margin))
    return replace(fitted, setting=dict(table.setting, calibration=facts))


def _changed(table: LatencyTable, overhead: float, scale: float) -> LatencyTable:
    """A table without an overhead of each layer, stem and head, scaled."""
    rows = [[scale * max(ms - overhead, 0.0) for ms in row] for row in table.layer_ms]
    fixed = scale * max(table.fixed_ms - 2 * overhead, 0.0)
    return replace(table, fixed_ms=fixed, layer_ms=rows)
