# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The archive: accuracy against cost with the Pareto front, and distances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bokeh.models import DataRange1d, HoverTool, NumeralTickFormatter
from bokeh.plotting import figure

from .bokeh_style import add_color_bar, add_legend, new_figure, share_mapper, source
from .palette import MUTED, run_style
from .series import hamming_matrix, pareto_front
from .workdir import Network, SearchRun

MATRIX_NUMBERS = 14  # up to so many networks, distances are written into the cells


@dataclass(frozen=True)
class CostKind:
    """A cost to plot accuracy against.

    Args:
        name: Name for the page.
        label: Axis label.
        of: Cost of a network in the label's unit, or None where it is not known.
    """

    name: str
    label: str
    of: Callable[[Network], float | None]


def cost_kinds(latency: Callable[[Network], float | None]) -> list[CostKind]:
    """MACs, parameters and latency."""
    return [
        CostKind("MACs", "million MACs per view", lambda n: n.entry.macs / 1e6),
        CostKind("parameters", "thousand parameters", lambda n: n.entry.params / 1e3),
        CostKind("latency", "latency, ms per view", latency),
    ]


def archive_plot(runs: Sequence[SearchRun], kind: CostKind) -> figure | None:
    """Accuracy against one cost for all searches; None without a point."""
    points = [
        (i, run, network, cost)
        for i, run in enumerate(runs)
        for network in run.judged
        if network.entry.accuracy is not None and (cost := kind.of(network)) is not None
    ]
    if not points:
        return None
    plot = new_figure(
        f"Accuracy against {kind.name}", kind.label, "validation accuracy"
    )
    plot.x_range = DataRange1d(range_padding=0.12)
    plot.y_range = DataRange1d(range_padding=0.15)
    front = pareto_front([(cost, n.entry.accuracy or 0) for _, _, n, cost in points])
    line = plot.step(
        [points[i][3] for i in front],
        [points[i][2].entry.accuracy for i in front],
        mode="after",
        color=MUTED,
        line_dash="dashed",
        line_width=1.5,
    )
    ring = plot.scatter(
        [points[i][3] for i in front],
        [points[i][2].entry.accuracy for i in front],
        size=19,
        fill_color=None,
        line_color=MUTED,
        line_width=1.5,
    )
    legend = [("Pareto front", [line, ring])]
    for index, run in enumerate(runs):
        mine = [(n, cost) for i, _, n, cost in points if i == index]
        if not mine:
            continue
        color, marker, _ = run_style(index)
        data = source(
            cost=[cost for _, cost in mine],
            accuracy=[n.entry.accuracy for n, _ in mine],
            origin=[
                f"cycle {n.entry.cycle + 1}" if n in run.networks else "its end"
                for n, _ in mine
            ],
            blocks=[" ".join(n.entry.blocks) for n, _ in mine],
            run=[run.name] * len(mine),
        )
        glyph = plot.scatter(
            "cost",
            "accuracy",
            source=data,
            size=11,
            marker=marker,
            fill_color=color,
            line_color="#FFFFFF",
        )
        plot.add_tools(
            HoverTool(
                renderers=[glyph],
                tooltips=[
                    ("search", "@run, @origin"),
                    ("accuracy", "@accuracy{0.0 %}"),
                    (kind.label, "@cost{0.000}"),
                    ("blocks", "@blocks"),
                ],
            )
        )
        legend.append((run.name, [glyph]))
    plot.yaxis.formatter = NumeralTickFormatter(format="0.0 %")
    add_legend(plot, legend)
    return plot


def distance_plot(run: SearchRun) -> figure | None:
    """Pairwise Hamming distances of a search's networks; None below two."""
    if len(run.networks) < 2:
        return None
    names = [f"cycle {n.entry.cycle + 1}" for n in run.networks]
    matrix = hamming_matrix([n.entry.blocks for n in run.networks])
    cells = [
        (a, b, matrix[i][j])
        for i, a in enumerate(names)
        for j, b in enumerate(names)
    ]  # fmt: skip
    data = source(
        a=[a for a, _, _ in cells],
        b=[b for _, b, _ in cells],
        distance=[d for _, _, d in cells],
        text=[f"{d:.2f}" for _, _, d in cells],
        # Cividis is dark below its middle.
        color=["#FFFFFF" if d < 0.55 else "#000000" for _, _, d in cells],
    )
    plot = new_figure(
        "Share of layers in which two networks differ",
        height=max(270, 90 + 16 * len(names)),
        x_range=names,
        y_range=list(reversed(names)),
    )
    mapper = share_mapper()
    squares = plot.rect(
        "a",
        "b",
        width=0.96,
        height=0.94,
        source=data,
        fill_color={"field": "distance", "transform": mapper},
        line_color=None,
    )
    if len(names) <= MATRIX_NUMBERS:
        plot.text(
            "a",
            "b",
            "text",
            source=data,
            text_align="center",
            text_baseline="middle",
            text_font_size="11px",
            text_color="color",
        )
    plot.add_tools(
        HoverTool(
            renderers=[squares],
            tooltips=[("pair", "@a, @b"), ("differing layers", "@distance{0.0 %}")],
        )
    )
    plot.xaxis.major_label_orientation = 0.8
    plot.grid.visible = False
    add_color_bar(plot, mapper)
    return plot
