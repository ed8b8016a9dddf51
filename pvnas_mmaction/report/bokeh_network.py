# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The drawing of a network on the page."""

from __future__ import annotations

from bokeh.models import HoverTool, Range1d
from bokeh.plotting import figure

from .bokeh_style import FONT, bare_figure, source
from .drawing import Drawing
from .layers import format_count, format_shape
from .palette import BAND, MUTED, SKIP_COLOR, TEXT

SLOT_PIXELS = 46  # a slot is at least this wide, so that labels do not touch
FRAME_PIXELS = 14
LABEL_FRAMES = 3.7  # room for three lines of text, in frames
TITLE_FRAMES = 2.4


def min_width(drawing: Drawing) -> int:
    """Pixels below which the drawing is to be scrolled instead of squeezed."""
    return len(drawing.slots) * SLOT_PIXELS


def network_plot(drawing: Drawing, reach: int) -> figure:
    """Draw a network.

    Args:
        drawing: Its geometry.
        reach: Frames to leave room for, the largest temporal kernel to compare with.
    """
    top, bottom = reach / 2 + TITLE_FRAMES, -reach / 2 - LABEL_FRAMES
    plot = bare_figure(
        height=round((top - bottom) * FRAME_PIXELS),
        min_width=min_width(drawing),
        x_range=Range1d(0, len(drawing.slots)),
        y_range=Range1d(bottom, top),
    )
    _add_bands(plot, drawing, bottom, top)
    _add_flow(plot, drawing)
    _add_slabs(plot, drawing)
    _add_skips(plot, drawing)
    _add_labels(plot, drawing, reach)
    _add_hover(plot, drawing, bottom, top)
    return plot


def _add_bands(plot: figure, drawing: Drawing, bottom: float, top: float) -> None:
    bands = drawing.bands
    data = source(
        left=[band.left + 0.03 for band in bands],
        right=[band.right - 0.03 for band in bands],
        middle=[(band.left + band.right) / 2 for band in bands],
        title=[band.title for band in bands],
    )
    plot.quad("left", "right", top, bottom, source=data, color=BAND, line_color=None)
    plot.text(
        "middle",
        top - 0.25,
        "title",
        source=data,
        text_align="center",
        text_baseline="top",
        text_font={"value": FONT},
        text_font_size="11px",
        text_color=MUTED,
    )


def _add_flow(plot: figure, drawing: Drawing) -> None:
    plot.line([0.1, len(drawing.slots) - 0.1], [0, 0], color="#B6BCC4", line_width=2)


def _add_slabs(plot: figure, drawing: Drawing) -> None:
    for hatched in (False, True):
        slabs = [slab for slab in drawing.slabs if slab.hatched == hatched]
        if not slabs:
            continue
        pattern = "right_diagonal_line" if hatched else " "
        data = source(
            left=[slab.left for slab in slabs],
            right=[slab.right for slab in slabs],
            bottom=[slab.bottom for slab in slabs],
            top=[slab.top for slab in slabs],
            color=[slab.color for slab in slabs],
        )
        plot.quad(
            "left",
            "right",
            "top",
            "bottom",
            source=data,
            fill_color="color",
            line_color="color",
            hatch_pattern=pattern,
            hatch_color="#FFFFFF",
            hatch_scale=8,
            hatch_weight=1,
        )


def _add_skips(plot: figure, drawing: Drawing) -> None:
    skipped = [slot.index for slot in drawing.slots if slot.skipped]
    if skipped:
        plot.quad(
            left=[i + 0.25 for i in skipped],
            right=[i + 0.75 for i in skipped],
            bottom=-0.5,
            top=0.5,
            fill_color="#FFFFFF",
            line_color=SKIP_COLOR,
            line_dash="dashed",
            line_width=1.5,
        )


def _add_labels(plot: figure, drawing: Drawing, reach: int) -> None:
    data = source(
        x=[slot.index + 0.5 for slot in drawing.slots],
        text=["\n".join(slot.label) for slot in drawing.slots],
        color=[SKIP_COLOR if slot.skipped else TEXT for slot in drawing.slots],
    )
    plot.text(
        "x",
        -reach / 2 - 0.4,
        "text",
        source=data,
        text_align="center",
        text_baseline="top",
        text_font={"value": FONT},
        text_font_size="11px",
        text_line_height=1.1,
        text_color="color",
    )
    squeezed = [slot for slot in drawing.slots if slot.squeezed]
    if squeezed:
        plot.scatter(
            [slot.index + 0.5 for slot in squeezed],
            [slot.reach / 2 + 0.35 for slot in squeezed],
            size=6,
            color=TEXT,
        )


def _add_hover(plot: figure, drawing: Drawing, bottom: float, top: float) -> None:
    rows = [slot.row for slot in drawing.slots]
    data = source(
        left=[slot.index for slot in drawing.slots],
        right=[slot.index + 1 for slot in drawing.slots],
        name=[row.name for row in rows],
        block=[row.block for row in rows],
        shapes=[
            f"{format_shape(row.in_shape)} \u2192 {format_shape(row.out_shape)}"
            for row in rows
        ],
        macs=[format_count(row.macs) for row in rows],
        params=[format_count(row.params) for row in rows],
        reach=[slot.reach for slot in drawing.slots],
    )
    area = plot.quad(
        "left",
        "right",
        top,
        bottom,
        source=data,
        fill_alpha=0,
        line_color=None,
        hover_fill_color="#24292F",
        hover_fill_alpha=0.05,
        hover_line_color=None,
    )
    plot.add_tools(
        HoverTool(
            renderers=[area],
            tooltips=[
                ("", "@name: @block"),
                ("C x T x H x W", "@shapes"),
                ("MACs", "@macs"),
                ("parameters", "@params"),
                ("temporal kernel", "@reach frame(s)"),
            ],
        )
    )
