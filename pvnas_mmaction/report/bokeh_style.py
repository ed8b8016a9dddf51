# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""What all plots of the page share: sizes, fonts, hover, cycle borders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from bokeh.models import (
    BasicTicker,
    BoxAnnotation,
    BoxZoomTool,
    ColorBar,
    ColumnDataSource,
    CrosshairTool,
    HoverTool,
    Legend,
    LegendItem,
    LinearColorMapper,
    NumeralTickFormatter,
    ResetTool,
    SaveTool,
    Span,
    Toolbar,
)
from bokeh.palettes import Cividis256
from bokeh.plotting import figure

from .palette import BAND, GRID, MUTED, TEXT

FONT = "system-ui, sans-serif"
HEIGHT = 270


def new_figure(
    title: str, x_label: str = "", y_label: str = "", **settings: Any
) -> figure:
    """A figure as wide as its place, that leaves dragging and the wheel to the page.

    The title is kept as the figure's name: the page sets it as text above the plot,
    where it wraps on a narrow screen.
    """
    settings = {
        "height": HEIGHT,
        "sizing_mode": "stretch_width",
        "min_width": 200,
        **settings,
    }
    zoom = BoxZoomTool(dimensions="width")
    plot = figure(
        name=title,
        tools=[zoom, ResetTool(), SaveTool()],
        toolbar_location="right",
        min_border_left=48,
        min_border_right=8,
        **settings,
    )
    toolbar: Toolbar = plot.toolbar
    toolbar.logo = None
    toolbar.autohide = True
    toolbar.active_drag = None
    plot.outline_line_color = None
    plot.background_fill_color = plot.border_fill_color = "#FFFFFF"
    for axis, label in zip(plot.axis, (x_label, y_label), strict=False):
        axis.axis_label = label
        axis.axis_line_color = axis.major_tick_line_color = "#C9CED4"
        axis.minor_tick_line_color = None
        axis.axis_label_text_font = axis.major_label_text_font = FONT
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "11px"
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_color = axis.major_label_text_color = MUTED
    for grid in plot.grid:
        grid.grid_line_color = GRID
    return plot


def bare_figure(**settings: Any) -> figure:
    """A figure without axes, grid and tools, for drawings."""
    plot = new_figure("", x_axis_type=None, y_axis_type=None, **settings)
    plot.toolbar_location = None
    plot.min_border = 0
    plot.min_border_left = plot.min_border_right = 0
    return plot


def add_legend(plot: figure, items: Sequence[tuple[str, list]]) -> None:
    """A legend above the plot, where it hides nothing."""
    legend = Legend(
        items=[LegendItem(label=label, renderers=glyphs) for label, glyphs in items],
        orientation="horizontal",
        ncols=min(2, len(items)),
        border_line_color=None,
        background_fill_color=None,
        label_text_font=FONT,
        label_text_font_size="11px",
        label_text_color=TEXT,
        glyph_width=18,
        glyph_height=14,
        padding=0,
        margin=2,
        spacing=10,
        click_policy="hide",
    )
    plot.add_layout(legend, "above")


def add_step_hover(
    plot: figure, renderer: Any, tooltips: Sequence[tuple[str, str]]
) -> None:
    """What all series have at the step under the pointer, with a crosshair."""
    plot.add_tools(
        HoverTool(
            renderers=[renderer],
            tooltips=list(tooltips),
            mode="vline",
            point_policy="follow_mouse",
            line_policy="nearest",
        ),
        CrosshairTool(dimensions="height", line_color="#9AA1A9", line_alpha=0.7),
    )


def add_cycles(
    plot: figure, starts: Sequence[float], resting: Sequence[tuple[float, float]]
) -> None:
    """Dashed lines where cycles start, a gray ground where the alphas rest."""
    for left, right in resting:
        plot.add_layout(
            BoxAnnotation(
                left=left,
                right=right,
                fill_color=BAND,
                fill_alpha=1,
                line_color=None,
                level="image",
            )
        )
    for start in starts:
        plot.add_layout(
            Span(
                location=start,
                dimension="height",
                line_color="#7A828C",
                line_dash="dashed",
                line_width=1,
            )
        )


def share_mapper(low: float = 0.0, high: float = 1.0) -> LinearColorMapper:
    """Cividis from dark blue (low) to yellow (high); white where there is nothing."""
    return LinearColorMapper(
        palette=Cividis256, low=low, high=high, nan_color="#FFFFFF"
    )


def add_color_bar(plot: figure, mapper: LinearColorMapper, pattern: str = "0%") -> None:
    plot.add_layout(
        ColorBar(
            color_mapper=mapper,
            width=8,
            padding=4,
            ticker=BasicTicker(desired_num_ticks=5),
            formatter=NumeralTickFormatter(format=pattern),
            major_label_text_font=FONT,
            major_label_text_font_size="10px",
            major_label_text_color=MUTED,
            title=None,
        ),
        "right",
    )


def source(**columns: Iterable[Any]) -> ColumnDataSource:
    """Columns of a plot; numbers in four bytes, which is a third of their text."""
    return ColumnDataSource({k: compact(list(v)) for k, v in columns.items()})


def compact(values: list[Any]) -> list[Any] | np.ndarray:
    """A column of numbers as an array of 32 bits, anything else as it is."""
    kinds = {type(value) for value in values}
    if kinds and kinds <= {int}:
        return np.array(values, np.int32)
    if kinds and kinds <= {int, float}:
        return np.array(values, np.float32)
    return values
