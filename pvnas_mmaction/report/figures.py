"""All plots but the drawing of a network: from the data of work directories."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..search.diversity import hamming
from ..space.cost_table import KINDS
from .data import SearchRun, TrainRun
from .plot import COURSE, Plot, make_plot
from .predictions import Predictions

SMOOTHING = 10
MAX_POINTS = 500
MAX_STEPS = 150
WRITTEN_ROWS = 14  # up to so many rows, numbers are written into a matrix
NAMED_CLASSES = 40  # up to so many, axes name the classes
Rows = Sequence[Mapping[str, Any]]


def thin(items: Sequence[Any], limit: int) -> list[Any]:
    """At most ``limit`` of the items, evenly spaced, first and last among them."""
    if len(items) <= limit:
        return list(items)
    step = (len(items) - 1) / (limit - 1)
    return [items[round(i * step)] for i in range(limit)]


def column(rows: Rows, key: str, mean_of: int = 1) -> list[float | None]:
    """A field of every record, or its running mean; None where no number is finite."""
    values = [row.get(key, math.nan) for row in rows]
    means: list[float | None] = []
    for end in range(1, len(values) + 1):
        known = [x for x in values[max(0, end - mean_of) : end] if math.isfinite(x)]
        means.append(math.fsum(known) / len(known) if known else None)
    return means


def number_format(kind: str) -> str:
    """Of a kind of cost: milliseconds as they are, others with a prefix (k, M, G)."""
    return "~g" if kind == "latency" else ".3~s"


def cycle_starts(history: Rows) -> list[dict[str, float]]:
    pairs = itertools.pairwise(history)
    return [dict(step=b["step"]) for a, b in pairs if a["cycle"] != b["cycle"]]


def resting_spans(history: Rows) -> list[dict[str, float]]:
    """Steps between which the alphas rest: their learning rate is 0."""
    groups = itertools.groupby(history, key=lambda record: record.get("alphas_lr") == 0)
    resting = [[r["step"] for r in records] for rests, records in groups if rests]
    return [dict(step=steps[0], step2=steps[-1]) for steps in resting]


def curves(
    rows: Rows, title: str, series: Sequence[tuple[str, str, str]],
    smooth: bool = False, **settings: Any,
) -> Plot | None:  # fmt: skip
    """Columns (key, label, color) of records over their ``step``; None where all are
    empty. ``settings`` are those of ``plots/curves.json.jinja``."""
    columns = {key: column(rows, key, SMOOTHING if smooth else 1) for key, *_ in series}
    shown = [dict(key=key, label=label, color=color) for key, label, color in series
             if any(x is not None for x in columns[key])]  # fmt: skip
    if not shown:
        return None
    period, first = ("cycle", 1) if "cycle" in rows[0] else ("epoch", 0)
    values = [
        {"step": row["step"], period: row.get(period, 0) + first,
         **{one["key"]: columns[one["key"]][i] for one in shown}}
        for i, row in enumerate(rows)
    ]  # fmt: skip
    return make_plot("curves", title, rows=thin(values, MAX_POINTS), series=shown,
                     period=period, **settings)  # fmt: skip


def _course(kind: str, rows: Rows, more: dict[str, dict], **every: Any):
    """The plots of ``plots/course.json`` that have data."""
    made = {
        name: curves(rows, **{**settings, **every, **more.get(name, {})})
        for name, settings in COURSE[kind].items()
    }
    return {name: plot for name, plot in made.items() if plot is not None}


def search_plots(run: SearchRun) -> dict[str, Plot]:
    history = run.history
    found = [
        dict(step=n.entry.step, accuracy=n.entry.accuracy,
             name=f"cycle {n.entry.cycle + 1}")
        for n in run.judged if n.entry.accuracy is not None
    ]  # fmt: skip
    kind, limits = "flops", []
    if run.budget:
        kind, limits = run.budget["kind"], [dict(limit=run.budget["budget"])]
    cost = dict(y_title=KINDS[kind][0], limits=limits, pattern=number_format(kind))
    more = dict(accuracy=dict(points=found), cost=cost)
    spans = dict(rests=resting_spans(history), starts=cycle_starts(history))
    return _course("search", history, more, **spans)


def probability_plots(
    run: SearchRun,
) -> tuple[dict[str, Plot], list[tuple[int, int]]]:
    """p of all layers at one step and of one layer over time, and step and cycle of
    each column of the latter. The page sets ``t``, index of a column, and ``layer``."""
    candidates, history = run.space.candidates, thin(run.history, MAX_STEPS)
    names = [(i, name) for i, row in enumerate(candidates) for name in row]
    steps = [record["step"] for record in history]
    last = steps[-1] - steps[-2] if len(steps) > 1 else 1
    p = [[round(x, 3) for row in record["p"] for x in row] for record in history]
    data = dict(
        cells=[dict(i=i, layer=n, candidate=c) for i, (n, c) in enumerate(names)],
        p=p,
        most=max(map(len, candidates)),
        names=sorted({name for _, name in names}, key=lambda n: (n == "skip", n)),
        # One scale for the whole search, so that colors of two steps compare.
        high=max(0.1, math.ceil(max(map(max, p)) * 10) / 10),
        starts=cycle_starts(run.history),
        borders=[dict(layer=b.index - 0.5)
                 for a, b in itertools.pairwise(run.space.layers)
                 if a.stage != b.stage],
        columns=[dict(t=t, step=a, step2=b) for t, (a, b) in
                 enumerate(itertools.pairwise([*steps, steps[-1] + last]))],
    )  # fmt: skip
    width = 190 + 12 * len(candidates)
    plots = {
        "p-overview": make_plot("overview", "All layers at this step", width, **data),
        "p-detail": make_plot("detail", "This layer over time", **data),
    }
    return plots, [(record["step"], record["cycle"] + 1) for record in history]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, accuracy) that no other beats, by rising cost; of
    equal points the first."""
    front: list[int] = []
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i))
    for i in order:
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def archive_plots(runs: Sequence[SearchRun]) -> dict[str, Plot]:
    """Accuracy against each kind of cost, all searches in one plot."""
    plots = {}
    for kind, (unit, _) in KINDS.items():
        points = [
            dict(
                cost=n.entry.costs[kind], accuracy=n.entry.accuracy, run=run.name,
                origin=f"cycle {n.entry.cycle + 1}" if n in run.networks else "its end",
                blocks=" ".join(n.entry.blocks),
            )
            for run in runs for n in run.judged
            if n.entry.accuracy is not None and kind in n.entry.costs
        ]  # fmt: skip
        if points:
            front = pareto_front([(p["cost"], p["accuracy"]) for p in points])
            plots[f"archive-{kind}"] = make_plot(
                "archive", f"Accuracy against {unit} (dashed: Pareto front)",
                points=points, front=[points[i] for i in front], unit=unit,
                pattern=number_format(kind),
                names=[run.name for run in runs],
            )  # fmt: skip
    return plots


def distance_plot(run: SearchRun) -> Plot:
    found = [(f"cycle {n.entry.cycle + 1}", n.entry.blocks) for n in run.networks]
    cells = [dict(one=a, other=b, share=hamming(blocks, others))
             for a, blocks in found for b, others in found]  # fmt: skip
    return make_plot(
        "matrix", "Share of layers in which two networks differ", cells=cells,
        names=[name for name, _ in found], rows="one", columns="other", named=True,
        titled=False, written=len(found) <= WRITTEN_ROWS,
        height=max(200, 26 * len(found)),
    )  # fmt: skip


def comparison_plots(runs: Sequence[SearchRun]) -> dict[str, Plot]:
    """Columns of the history of several searches, one plot for each."""
    titles = dict(
        diversity="Diversity D",
        argmax_share="Mean probability of the most probable candidate",
    )
    names = [run.name for run in runs]
    plots = {}
    for key, title in titles.items():
        rows = [
            dict(step=record["step"], share=record[key], run=run.name)
            for run in runs for record in thin(run.history, MAX_POINTS) if key in record
        ]  # fmt: skip
        if rows:
            plots[key] = make_plot("comparison", title, rows=rows, names=names)
    return plots


def training_plots(run: TrainRun) -> dict[str, Plot]:
    measured = [
        dict(step=r["after_step"], accuracy=r["acc/top1"], top5=r.get("acc/top5"),
             name=f"after step {r['after_step']}")
        for r in run.val if "acc/top1" in r
    ]  # fmt: skip
    return _course("training", run.train, dict(accuracy=dict(points=measured)))


def class_plots(predictions: Predictions) -> dict[str, Plot]:
    names, counts = predictions.names, predictions.counts.tolist()
    few = len(names) <= NAMED_CLASSES
    size = dict(height=max(220, min(560, 26 * len(names))), named=few)
    cells = [
        {"true class": names[i], "predicted class": names[j], "share": count / sum(row)}
        for i, row in enumerate(counts) for j, count in enumerate(row)
        if count or (few and any(row))
    ]  # fmt: skip
    bars = [
        {"class": name, "accuracy": row[i] / sum(row), "clips": sum(row)}
        for i, (name, row) in enumerate(zip(names, counts, strict=True)) if any(row)
    ]  # fmt: skip
    bars.sort(key=lambda bar: -bar["accuracy"])
    return {
        "confusion": make_plot(
            "matrix", "Confusion matrix: share of a class's clips", cells=cells,
            names=names, rows="true class", columns="predicted class", titled=True,
            written=len(names) <= WRITTEN_ROWS, **size),
        "class-accuracy": make_plot(
            "bars", "Accuracy by class (dashed: all clips)", bars=bars,
            mean=predictions.accuracy, **size),
    }  # fmt: skip
