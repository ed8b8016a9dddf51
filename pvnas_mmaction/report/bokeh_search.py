# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""How a search went: its scalars over the steps, one plot each, on one time axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bokeh.models import (
    AdaptiveTicker,
    DataRange1d,
    HoverTool,
    LegendItem,
    NumeralTickFormatter,
    Range1d,
)
from bokeh.plotting import figure

from .bokeh_style import (
    add_cycles,
    add_legend,
    add_step_hover,
    new_figure,
    source,
)
from .palette import BLACK, BLUE, GREEN, ORANGE, VERMILION, run_style
from .series import (
    column,
    cycle_starts,
    has_numbers,
    resting_spans,
    running_mean,
    thin,
)
from .workdir import SearchRun

MAX_POINTS = 500
SMOOTHING = 10
COST_UNITS = {
    "flops": ("million MACs", 1e-6),
    "params": ("thousand parameters", 1e-3),
    "latency": ("ms", 1.0),
}


@dataclass(frozen=True)
class Line:
    """One series of a plot."""

    key: str
    label: str
    color: str
    dash: str = "solid"
    width: float = 2.0
    smooth: bool = False
    step: bool = False


def search_plots(run: SearchRun) -> dict[str, figure]:
    """The plots of a search, by name; without those that have no data.

    Names: ``diversity``, ``rates``, ``gain``, ``accuracy``, ``loss``, ``cost``,
    ``skips``.
    """
    if not run.history:
        return {}
    x_range = DataRange1d(range_padding=0.02)
    plots = {
        "diversity": _plot(
            run, x_range, "Diversity D and its plan D*", "share of layers",
            [
                Line("planned_diversity", "planned D*", ORANGE, "dashed"),
                Line("diversity", "D(p)", BLUE),
            ],
        ),
        "rates": _plot(
            run, x_range, "Learning rates", "learning rate",
            [
                Line("weights_lr", "weights", BLUE),
                Line("alphas_lr", "alphas", VERMILION, "dashed"),
            ],
        ),
        "gain": _plot(
            run, x_range, "Gain on the alphas' learning rate", "gain (log)",
            [Line("gain", "gain", GREEN, step=True)], y_axis_type="log",
        ),
        "accuracy": _accuracy_plot(run, x_range),
        "loss": _plot(
            run, x_range, f"Loss (mean of {SMOOTHING} logged steps)", "loss",
            [
                Line("loss", "weights step", BLUE, smooth=True),
                Line("alpha_loss", "alpha step", VERMILION, "dashed", smooth=True),
            ],
        ),
        "cost": _cost_plot(run, x_range),
        "skips": _plot(
            run, x_range, "Skips in the most probable network", "layers",
            [Line("num_skips", "skipped layers", BLACK, step=True)],
        ),
    }  # fmt: skip
    if plots["diversity"] is not None:
        plots["diversity"].y_range = Range1d(0, 1.04)
    if plots["skips"] is not None:
        plots["skips"].yaxis.ticker = AdaptiveTicker(min_interval=1)
    return {name: plot for name, plot in plots.items() if plot is not None}


def _plot(
    run: SearchRun,
    x_range: DataRange1d,
    title: str,
    y_label: str,
    lines: Sequence[Line],
    scale: float = 1.0,
    **settings,
) -> figure | None:
    """A plot of some columns of the history; None where all are empty."""
    columns = {}
    for line in lines:
        values = [value * scale for value in column(run.history, line.key)]
        if line.smooth:
            values = running_mean(values, SMOOTHING)
        if has_numbers(values):
            columns[line.key] = values
    if not columns:
        return None
    records = list(
        zip(
            column(run.history, "step"),
            [record["cycle"] + 1 for record in run.history],
            *columns.values(),
            strict=True,
        )
    )
    names = ["step", "cycle", *columns]
    data = source(
        **{
            name: [record[i] for record in thin(records, MAX_POINTS)]
            for i, name in enumerate(names)
        }
    )
    plot = new_figure(title, "step", y_label, x_range=x_range, **settings)
    add_cycles(plot, cycle_starts(run.history), resting_spans(run.history))
    drawn = []
    for line in lines:
        if line.key not in columns:
            continue
        style = dict(
            source=data, color=line.color, line_dash=line.dash, line_width=line.width
        )
        if line.step:
            glyph = plot.step("step", line.key, mode="after", **style)
        else:
            glyph = plot.line("step", line.key, **style)
        drawn.append((line.label, [glyph]))
    # Hover on an invisible series that is always there, whatever is switched off.
    probe = plot.line("step", next(iter(columns)), source=data, alpha=0)
    labels = {line.key: line.label for line in lines}
    add_step_hover(
        plot,
        probe,
        [
            ("step", "@step{0}"),
            ("cycle", "@cycle"),
            *((labels[key], f"@{key}{{0.0000}}") for key in columns),
        ],
    )
    if len(drawn) > 1:
        add_legend(plot, drawn)
    return plot


def _accuracy_plot(run: SearchRun, x_range: DataRange1d) -> figure | None:
    plot = _plot(
        run,
        x_range,
        f"Accuracy (training: mean of {SMOOTHING} logged steps)",
        "accuracy",
        [
            Line("top1_acc", "weights step", BLUE, smooth=True),
            Line("alpha_top1_acc", "alpha step", VERMILION, "dashed", smooth=True),
        ],
    )
    found = [n.entry for n in run.judged if n.entry.accuracy is not None]
    if plot is None or not found:
        return plot
    data = source(
        step=[entry.step for entry in found],
        accuracy=[entry.accuracy for entry in found],
        cycle=[entry.cycle + 1 for entry in found],
    )
    glyph = plot.scatter(
        "step", "accuracy", source=data, size=11, marker="diamond", color=BLACK
    )
    plot.add_tools(
        HoverTool(
            renderers=[glyph],
            tooltips=[
                ("validation, cycle", "@cycle"),
                ("accuracy", "@accuracy{0.0 %}"),
            ],
            attachment="above",
        )
    )
    item = LegendItem(label=validation_label(run), renderers=[glyph])
    if plot.legend:
        plot.legend[0].items.append(item)
    plot.yaxis.formatter = NumeralTickFormatter(format="0 %")
    return plot


def validation_label(run: SearchRun) -> str:
    """What the accuracies of a run's networks are: once a search is done, all have been
    judged again. Short, as the plots are narrow."""
    return "validation" if run.final is None else "validation at the end"


def cost_unit(run: SearchRun) -> tuple[str, float]:
    """Unit of a run's expected cost and the factor to it: MACs without a budget."""
    kind = (run.budget or {}).get("kind", "flops")
    return COST_UNITS.get(kind, (str(kind), 1.0))


def _cost_plot(run: SearchRun, x_range: DataRange1d) -> figure | None:
    unit, scale = cost_unit(run)
    limit = (run.budget or {}).get("budget")
    title = "Expected cost" if limit is None else "Expected cost and budget"
    plot = _plot(
        run, x_range, title, unit, [Line("expected_cost", "expected cost", BLUE)], scale
    )
    if plot is None or not isinstance(limit, int | float):
        return plot
    limit *= scale
    ends = [run.history[0]["step"], run.history[-1]["step"]]
    style = dict(color=VERMILION, line_width=2, line_dash="dotdash")
    line = plot.line(ends, [limit, limit], **style)
    curve = plot.renderers[0]
    add_legend(
        plot, [("expected cost", [curve]), (f"budget {limit:.4g} {unit}", [line])]
    )
    return plot


def comparison_plot(
    runs: Sequence[SearchRun], key: str, title: str, y_label: str
) -> figure | None:
    """One column of the history of several searches in one plot, or None."""
    # A search keeps its color where others have no such column.
    numbered = [
        (index, run)
        for index, run in enumerate(runs)
        if has_numbers(column(run.history, key))
    ]
    if len(numbered) < 2:
        return None
    plot = new_figure(title, "step", y_label)
    drawn = []
    for index, run in numbered:
        color, _, dash = run_style(index)
        records = thin(run.history, MAX_POINTS)
        data = source(step=column(records, "step"), value=column(records, key))
        line = plot.line(
            "step", "value", source=data, color=color, line_dash=dash, line_width=2
        )
        plot.add_tools(
            HoverTool(
                renderers=[line],
                tooltips=[(run.name, "@value{0.0000}"), ("step", "@step{0}")],
                mode="vline",
            )
        )
        drawn.append((run.name, [line]))
    add_legend(plot, drawn)
    return plot
