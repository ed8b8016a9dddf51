# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Figures for papers: PNG and SVG by matplotlib, from the data of the page."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..space.latency_table import LatencyTable
from .bokeh_archive import CostKind, cost_kinds
from .bokeh_probabilities import column_edges
from .bokeh_search import cost_unit, validation_label
from .palette import BAND, BLACK, BLUE, GREEN, MUTED, ORANGE, VERMILION, run_style
from .picture import RC, network_figure, new_figure, save_figure
from .predictions import Predictions
from .runlog import is_training
from .series import (
    column,
    cycle_starts,
    hamming_matrix,
    has_numbers,
    pareto_front,
    resting_spans,
    running_mean,
)
from .views import RunView, latency_of, search_view, training_view
from .workdir import Network, Run, SearchRun, TrainRun

SMOOTHING = 10
# Matplotlib's names of the markers that the page uses.
MARKERS = {
    "circle": "o",
    "square": "s",
    "triangle": "^",
    "diamond": "D",
    "inverted_triangle": "v",
    "hex": "h",
    "star": "*",
}
DASHES = {"dotdash": "-.", "dashdot": (0, (5, 1, 1, 1)), "solid": "-"}


def write_figures(
    runs: Sequence[Run],
    folder: str | os.PathLike[str],
    predictions: dict[Path, Predictions] | None = None,
    table: LatencyTable | None = None,
) -> list[Path]:
    """Write every figure that the runs have data for, as ``.png`` and ``.svg``.

    Args:
        runs: From :func:`read_work_dirs`.
        folder: Where to; made if it is not there.
        predictions: By work directory, for trainings.
        table: Latency table.

    Returns:
        The files, in the order in which they were written.
    """
    figures: dict[str, Figure] = {}
    prefixes: set[str] = set()
    with rc_context(RC):
        for number, run in enumerate(runs, start=1):
            prefix = re.sub(r"[^\w.-]+", "_", run.name)
            if prefix in prefixes:
                prefix = f"{prefix}_{number}"
            prefixes.add(prefix)
            if isinstance(run, SearchRun):
                made = _search_figures(run, search_view(run, "", table))
            else:
                found = (predictions or {}).get(run.path)
                made = _training_figures(run, training_view(run, "", found), found)
            figures |= {f"{prefix}_{name}": figure for name, figure in made.items()}
        searches = [run for run in runs if isinstance(run, SearchRun)]
        for kind in cost_kinds(_latency(table)):
            figure = archive_figure(searches, kind)
            if figure is not None:
                figures[f"archive_{kind.name.lower()}"] = figure
    paths = []
    for name, figure in figures.items():
        for ending in ("png", "svg"):
            path = Path(folder) / f"{name}.{ending}"
            save_figure(figure, path)
            paths.append(path)
    return paths


def _latency(table: LatencyTable | None):
    def latency(network: Network) -> float | None:
        known = latency_of(network.genotype, table)
        return None if known is None else known[0]

    return latency


def _search_figures(run: SearchRun, view: RunView) -> dict[str, Figure]:
    figures = {}
    if view.cards:
        drawings = [(card.title, card.drawing) for card in view.cards]
        figures["networks"] = network_figure(drawings)
    if run.history:
        figures["course"] = course_figure(run)
        figures["probabilities"] = probability_figure(run)
    if len(run.networks) > 1:
        figures["distances"] = distance_figure(run)
    return figures


def _axes(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = new_figure(4.2, 2.8)
    ax = figure.subplots()
    ax.set(title=title, xlabel=x_label, ylabel=y_label)
    _quiet(ax)
    return figure, ax


def _quiet(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.title.set_fontsize(9)


def course_figure(run: SearchRun) -> Figure:
    """D and its plan, learning rates, gain, accuracy, cost and skips over the steps."""
    unit, scale = cost_unit(run)
    smoothed = f"top-1 (lines: mean of {SMOOTHING})"
    panels = [
        ("Diversity", "share", [("planned_diversity", "planned D*", ORANGE, "--"),
                                ("diversity", "D(p)", BLUE, "-")]),
        ("Learning rates", "learning rate", [("weights_lr", "weights", BLUE, "-"),
                                   ("alphas_lr", "alphas", VERMILION, "--")]),
        ("Gain", "gain", [("gain", "gain", GREEN, "-")]),
        ("Accuracy", smoothed, [("top1_acc", "weights", BLUE, "-"),
                                ("alpha_top1_acc", "alphas", VERMILION, "--")]),
        ("Expected cost", unit, [("expected_cost", "expected cost", BLUE, "-")]),
        ("Skips", "layers", [("num_skips", "skipped layers", BLACK, "-")]),
    ]  # fmt: skip
    figure = new_figure(8, 6)
    steps = column(run.history, "step")
    for ax, (title, label, lines) in zip(
        figure.subplots(3, 2, sharex=True).flat, panels, strict=True
    ):
        for key, name, color, dash in lines:
            values = column(run.history, key)
            if key == "expected_cost":
                values = [value * scale for value in values]
            if key.endswith("top1_acc"):
                values = running_mean(values, SMOOTHING)
            style = "steps-post" if key in ("gain", "num_skips") else "default"
            ax.plot(steps, values, dash, color=color, label=name, drawstyle=style)
        for left, right in resting_spans(run.history):
            ax.axvspan(left, right, color=BAND, zorder=0)
        for start in cycle_starts(run.history):
            ax.axvline(start, color=MUTED, linestyle="--", linewidth=0.7)
        ax.set_title(title, loc="left", fontsize=9)
        ax.set_ylabel(label)
        _quiet(ax)
        if title == "Accuracy":
            found = [n.entry for n in run.judged if n.entry.accuracy is not None]
            ax.plot([e.step for e in found], [e.accuracy for e in found], "D",
                    color=BLACK, label=validation_label(run))  # fmt: skip
        if title == "Expected cost" and run.budget:
            limit = run.budget["budget"] * scale
            ax.axhline(limit, color=VERMILION, linestyle="-.", label="budget")
        if len(lines) > 1 or title == "Expected cost":
            ax.legend(
                frameon=False, fontsize=7, ncols=3, loc="lower right",
                bbox_to_anchor=(1, 1), borderaxespad=0, columnspacing=1,
            )  # fmt: skip
    figure.supxlabel("step", fontsize=8)
    return figure


def probability_figure(run: SearchRun) -> Figure:
    """p of every layer over the steps, a heat map for each layer."""
    candidates = run.candidates()
    columns = min(4, len(candidates))
    rows = -(-len(candidates) // columns)
    edges = column_edges([record["step"] for record in run.history])
    p = [np.array([r["p"][i] for r in run.history]).T for i in range(len(candidates))]
    high = max(0.1, *(float(layer.max()) for layer in p))
    most = max(map(len, candidates))
    figure = new_figure(2.9 * columns, (0.14 * most + 0.7) * rows + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False)
    for ax in grid.flat[len(candidates) :]:
        ax.axis("off")
    for i, (ax, layer) in enumerate(zip(grid.flat, p, strict=False)):
        image = ax.pcolormesh(
            edges, np.arange(len(layer) + 1) - 0.5, layer, cmap="cividis", vmin=0,
            vmax=high, rasterized=True,
        )  # fmt: skip
        ax.invert_yaxis()
        ax.set_yticks(range(len(layer)), candidates[i], fontsize=6)
        ax.tick_params(axis="x", labelsize=6)
        ax.set_title(f"layer {i}", fontsize=8)
        for start in cycle_starts(run.history):
            ax.axvline(start, color="white", linestyle="--", linewidth=0.7)
    figure.colorbar(image, ax=grid, label="p", shrink=0.8)
    figure.supxlabel("step", fontsize=8)
    return figure


def archive_figure(runs: Sequence[SearchRun], kind: CostKind) -> Figure | None:
    """Accuracy against one cost, with the Pareto front; None without a point."""
    points = [
        (i, cost, n.entry.accuracy)
        for i, run in enumerate(runs)
        for n in run.judged
        if n.entry.accuracy is not None and (cost := kind.of(n)) is not None
    ]
    if not points:
        return None
    figure, ax = _axes("", kind.label, "validation accuracy")
    front = [points[i] for i in pareto_front([(c, a) for _, c, a in points])]
    handles = ax.step(
        [c for _, c, _ in front], [a for _, _, a in front], where="post",
        color=MUTED, linestyle="--",
    )  # fmt: skip
    names = ["Pareto front"]
    for i, run in enumerate(runs):
        mine = [(cost, accuracy) for j, cost, accuracy in points if i == j]
        if mine:
            color, marker, _ = run_style(i)
            handles += ax.plot(*zip(*mine, strict=True), MARKERS[marker], color=color)
            names.append(run.name)
    # Given by hand: left to itself, it passes over names that begin with "_".
    ax.legend(handles, names, frameon=False, fontsize=7)
    return figure


def distance_figure(run: SearchRun) -> Figure:
    """Pairwise Hamming distances."""
    matrix = np.array(hamming_matrix([n.entry.blocks for n in run.networks]))
    names = [str(n.entry.cycle + 1) for n in run.networks]
    figure, ax = _axes("Share of differing layers", "cycle", "cycle")
    image = ax.imshow(matrix, cmap="cividis", vmin=0, vmax=1)
    ax.set_xticks(range(len(names)), names)
    ax.set_yticks(range(len(names)), names)
    figure.colorbar(image, ax=ax)
    return figure


def _training_figures(
    run: TrainRun, view: RunView, predictions: Predictions | None
) -> dict[str, Figure]:
    figures = {}
    if view.cards:
        card = view.cards[0]
        figures["network"] = network_figure([(card.title, card.drawing)])
    train = [r for r in run.launches.scalars if is_training(r)]
    val = [r for r in run.launches.scalars if "acc/top1" in r]
    if train:
        figure = new_figure(7, 2.6)
        loss_ax, accuracy_ax = figure.subplots(1, 2)
        steps = column(train, "step")
        loss_ax.plot(steps, running_mean(column(train, "loss"), SMOOTHING), color=BLUE)
        loss_ax.set(title=f"Training loss (mean of {SMOOTHING})", xlabel="step")
        trained = running_mean(column(train, "top1_acc"), SMOOTHING)
        if has_numbers(trained):
            accuracy_ax.plot(steps, trained, "--", color=ORANGE,
                             label=f"training (mean of {SMOOTHING})")  # fmt: skip
        accuracy_ax.plot(column(val, "after_step"), column(val, "acc/top1"),
                         "-o", color=BLACK, label="validation",
                         markersize=3)  # fmt: skip
        accuracy_ax.set(title="Accuracy (top-1)", xlabel="step")
        accuracy_ax.legend(frameon=False, fontsize=7)
        for ax in (loss_ax, accuracy_ax):
            _quiet(ax)
        figures["curves"] = figure
    if predictions is not None:
        figures["confusion"] = confusion_figure(predictions)
    return figures


def confusion_figure(predictions: Predictions) -> Figure:
    """Share of each class's clips by predicted class."""
    counts = np.array(predictions.counts, float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    number = len(predictions.names)
    size = min(9.0, 2.2 + 0.28 * number)
    figure = new_figure(size + 0.6, size)
    ax = figure.subplots()
    image = ax.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    ax.set(xlabel="predicted class", ylabel="true class")
    if number <= 40:
        ax.set_xticks(range(number), predictions.names, rotation=60, ha="right")
        ax.set_yticks(range(number), predictions.names)
    figure.colorbar(image, ax=ax, shrink=0.8)
    return figure
