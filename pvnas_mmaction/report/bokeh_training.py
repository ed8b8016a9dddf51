# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""A training: its curves, the confusion matrix and the accuracy by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from bokeh.models import (
    ColumnDataSource,
    CustomJSHover,
    HoverTool,
    NumeralTickFormatter,
    Range1d,
    Span,
)
from bokeh.plotting import figure

from .bokeh_style import (
    add_color_bar,
    add_legend,
    add_step_hover,
    new_figure,
    share_mapper,
    source,
)
from .palette import BLACK, BLUE, MUTED, ORANGE, VERMILION
from .predictions import Predictions
from .runlog import is_training
from .series import column, has_numbers, running_mean, thin
from .workdir import TrainRun

MAX_POINTS = 600
SMOOTHING = 10
WRITTEN_CLASSES = 12  # up to so many, shares are written into the cells
NAMED_CLASSES = 40  # up to so many, the axes name the classes


def training_plots(run: TrainRun) -> dict[str, figure]:
    """Plots of a training by name: ``loss``, ``accuracy``, ``rate``."""
    train = [r for r in run.launches.scalars if is_training(r)]
    val = [r for r in run.launches.scalars if not is_training(r)]
    plots = {
        "loss": _curve(train, "loss", "Training loss", "loss"),
        "accuracy": _accuracy(train, val),
        "rate": _curve(train, "lr", "Learning rate", "learning rate"),
    }
    return {name: plot for name, plot in plots.items() if plot is not None}


def _curve(train: Sequence[dict], key: str, title: str, y_label: str) -> figure | None:
    train = thin(train, MAX_POINTS)
    values = column(train, key)
    if not has_numbers(values):
        return None
    data = source(
        step=column(train, "step"),
        value=values,
        epoch=column(train, "epoch"),
    )
    plot = new_figure(title, "step", y_label)
    line = plot.line("step", "value", source=data, color=BLUE, line_width=2)
    add_step_hover(
        plot,
        line,
        [("step", "@step{0}"), ("epoch", "@epoch{0}"), (y_label, "@value{0.0000}")],
    )
    return plot


def _accuracy(train: Sequence[dict], val: Sequence[dict]) -> figure | None:
    trained = column(train, "top1_acc")
    measured = [r for r in val if has_numbers(column([r], "acc/top1"))]
    if not has_numbers(trained) and not measured:
        return None
    plot = new_figure("Accuracy", "step", "top-1")
    legend = []
    if has_numbers(trained):
        steps, means = column(train, "step"), running_mean(trained, SMOOTHING)
        data = source(step=thin(steps, MAX_POINTS), value=thin(means, MAX_POINTS))
        line = plot.line(
            "step", "value", source=data, color=ORANGE, line_width=2, line_dash="dashed"
        )
        legend.append((f"training (mean of {SMOOTHING})", [line]))
    if measured:
        data = source(
            step=column(measured, "after_step"),
            value=column(measured, "acc/top1"),
            top5=column(measured, "acc/top5"),
        )
        line = plot.line("step", "value", source=data, color=BLACK, line_width=2)
        dots = plot.scatter("step", "value", source=data, color=BLACK, size=6)
        legend.append(("validation", [line, dots]))
        add_step_hover(
            plot,
            line,
            [
                ("after step", "@step{0}"),
                ("validation top-1", "@value{0.0 %}"),
                ("top-5", "@top5{0.0 %}"),
            ],
        )
    plot.yaxis.formatter = NumeralTickFormatter(format="0 %")
    add_legend(plot, legend)
    return plot


def confusion_plot(predictions: Predictions) -> figure:
    """Share of each class's clips by predicted class: rows add up to 1."""
    counts = np.array(predictions.counts, np.float32)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    number = len(predictions.names)
    plot = new_figure(
        "Confusion matrix: percent of a class's clips",
        "predicted class",
        "true class",
        height=max(340, min(640, 190 + 26 * number)),
        x_range=Range1d(-0.5, number - 0.5),
        y_range=Range1d(number - 0.5, -0.5),
    )
    mapper = share_mapper()
    image = plot.image(
        # Top row first, so the true class counts downwards.
        image="image",
        x=-0.5,
        y=-0.5,
        dw=number,
        dh=number,
        color_mapper=mapper,
        source=ColumnDataSource({"image": [shares]}),
    )
    name = CustomJSHover(
        args=dict(names=list(predictions.names)),
        code="return names[Math.round(value)] ?? '';",
    )
    plot.add_tools(
        HoverTool(
            renderers=[image],
            tooltips=[
                ("true class", "$y{custom}"),
                ("predicted", "$x{custom}"),
                ("share", "@image{0.0 %}"),
            ],
            formatters={"$x": name, "$y": name},
        )
    )
    if number <= WRITTEN_CLASSES:
        cells = [(i, j) for i in range(number) for j in range(number)]
        plot.text(
            [j for _, j in cells],
            [i for i, _ in cells],
            [f"{100 * shares[i, j]:.0f}" for i, j in cells],
            text_color=["#FFFFFF" if shares[c] < 0.55 else "#000000" for c in cells],
            text_align="center",
            text_baseline="middle",
            text_font_size="10px",
        )
    if number <= NAMED_CLASSES:
        labels = dict(enumerate(predictions.names))
        plot.axis.ticker = list(range(number))
        plot.xaxis.major_label_overrides = labels
        plot.yaxis.major_label_overrides = labels
        plot.xaxis.major_label_orientation = 0.9
    plot.grid.visible = False
    add_color_bar(plot, mapper)
    return plot


def class_accuracy_plot(predictions: Predictions) -> figure:
    """Accuracy of every class, the best on top."""
    pairs = [
        (name, accuracy, sum(row))
        for name, accuracy, row in zip(
            predictions.names,
            predictions.class_accuracy(),
            predictions.counts,
            strict=True,
        )
        if accuracy is not None
    ]
    pairs.sort(key=lambda pair: pair[1])
    number = len(pairs)
    data = source(
        y=range(number),
        name=[name for name, _, _ in pairs],
        accuracy=[accuracy for _, accuracy, _ in pairs],
        clips=[clips for _, _, clips in pairs],
    )
    plot = new_figure(
        "Accuracy by class (dashed: all clips)",
        "top-1",
        height=max(320, min(620, 120 + 26 * number)),
        x_range=Range1d(0, 1),
        y_range=Range1d(-0.5, number - 0.5),
    )
    bars = plot.hbar("y", right="accuracy", height=0.7, source=data, color=BLUE)
    plot.add_layout(
        Span(
            location=predictions.accuracy,
            dimension="height",
            line_color=VERMILION,
            line_dash="dashed",
            line_width=2,
        )
    )
    plot.add_tools(
        HoverTool(
            renderers=[bars],
            tooltips=[
                ("class", "@name"),
                ("top-1", "@accuracy{0.0 %}"),
                ("clips", "@clips"),
            ],
        )
    )
    if number <= NAMED_CLASSES:
        plot.yaxis.ticker = list(range(number))
        plot.yaxis.major_label_overrides = {
            i: name for i, (name, _, _) in enumerate(pairs)
        }
    else:
        plot.yaxis.major_label_text_color = MUTED
        plot.yaxis.axis_label = "classes by accuracy"
    plot.xaxis.formatter = NumeralTickFormatter(format="0 %")
    return plot
