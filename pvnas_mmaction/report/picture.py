# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The drawing of a network as an image, by matplotlib without a display."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from .drawing import Drawing
from .palette import BAND, FAMILY_COLORS, MUTED, SKIP_COLOR, TEXT

SLOT_INCHES = 0.62
FRAME_INCHES = 0.17
FORMATS = ("png", "svg", "pdf")
# Text stays text in an SVG, and its ids do not differ from run to run. A dollar in a
# name begins no formula.
RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "pvnas",
    "font.size": 8,
    "text.parse_math": False,
}


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches that needs no display and no pyplot."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def network_figure(drawings: Sequence[tuple[str, Drawing]]) -> Figure:
    """Draw networks under each other.

    Args:
        drawings: Title and geometry of each.
    """
    slots = max(len(drawing.slots) for _, drawing in drawings)
    reach = max(5, *(slot.reach for _, d in drawings for slot in d.slots))
    with rc_context(RC):
        row = (reach + 6.5) * FRAME_INCHES
        figure = new_figure(max(4.8, SLOT_INCHES * slots), row * len(drawings) + 0.35)
        axes = figure.subplots(len(drawings), 1, squeeze=False)[:, 0]
        for ax, (title, drawing) in zip(axes, drawings, strict=True):
            _draw(ax, drawing, reach, slots)
            ax.set_title(title, fontsize=8, color=TEXT, loc="left")
        figure.legend(
            handles=_legend(), loc="outside lower center", ncols=6, frameon=False,
            fontsize=7, handlelength=1.4, columnspacing=1.2,
        )  # fmt: skip
    return figure


def _draw(ax: Axes, drawing: Drawing, reach: int, slots: int) -> None:
    bottom, top = -reach / 2 - 3.2, reach / 2 + 2.2
    ax.set(xlim=(0, slots), ylim=(bottom, top))
    ax.axis("off")
    for band in drawing.bands:
        width = band.right - band.left - 0.06
        ax.add_patch(
            Rectangle((band.left + 0.03, bottom), width, top - bottom, color=BAND)
        )
        ax.text(
            (band.left + band.right) / 2, top - 0.2, band.title, ha="center", va="top",
            fontsize=7, color=MUTED,
        )  # fmt: skip
    ax.plot([0.1, len(drawing.slots) - 0.1], [0, 0], color="#B6BCC4", lw=1.5, zorder=1)
    for slab in drawing.slabs:
        ax.add_patch(
            Rectangle(
                (slab.left, slab.bottom),
                slab.right - slab.left,
                slab.top - slab.bottom,
                facecolor=slab.color,
                edgecolor="#FFFFFF" if slab.hatched else slab.color,
                hatch="////" if slab.hatched else None,
                linewidth=0.3,
                zorder=2,
            )
        )
    for slot in drawing.slots:
        middle = slot.index + 0.5
        if slot.skipped:
            ax.add_patch(
                Rectangle(
                    (middle - 0.25, -0.5), 0.5, 1, facecolor="#FFFFFF",
                    edgecolor=SKIP_COLOR, linestyle="--", linewidth=0.9, zorder=2,
                )
            )  # fmt: skip
        if slot.squeezed:
            ax.plot(middle, slot.reach / 2 + 0.35, "o", color=TEXT, markersize=2.5)
        ax.text(
            middle, -reach / 2 - 0.35, "\n".join(slot.label), ha="center", va="top",
            fontsize=7, linespacing=1.1, color=SKIP_COLOR if slot.skipped else TEXT,
        )  # fmt: skip


def _legend() -> list[Patch]:
    entries = [
        Patch(
            facecolor=color,
            edgecolor="#FFFFFF" if family == "rb" else color,
            hatch="////" if family == "rb" else None,
            label=family,
        )
        for family, color in FAMILY_COLORS.items()
    ]
    skip = Patch(
        facecolor="#FFFFFF", edgecolor=SKIP_COLOR, linestyle="--", label="skip"
    )
    return [*entries, skip]


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """A figure as the content of a file.

    Args:
        figure: The figure.
        kind: One of :data:`FORMATS`.
    """
    stream = io.BytesIO()
    # No date, so that the same figure gives the same file.
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with rc_context(RC):
        figure.savefig(stream, format=kind, dpi=200, metadata=metadata)
    return stream.getvalue()


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure; the file's ending says in which format.

    Raises:
        ValueError: Another ending than one of :data:`FORMATS`.
    """
    path = Path(path)
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        endings = ", ".join(f".{name}" for name in FORMATS)
        raise ValueError(
            f"{path}: found the ending {path.suffix!r}, expected {endings}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(figure_bytes(figure, kind))


def figure_array(figure: Figure, dpi: int = 110) -> np.ndarray:
    """A figure as an RGB image, (H, W, 3), uint8."""
    figure.set_dpi(dpi)
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    with rc_context(RC):
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
