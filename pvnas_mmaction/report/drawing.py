"""The picture of a network, one for page, TensorBoard and files: a row of slots, one
per layer. ``templates/report.html.jinja`` says how to read it (``legend``)."""

from collections.abc import Sequence
from typing import Any

from ..space import layout
from ..space.cost import part_cost
from ..space.layout import Conv, Shift, SqueezeExcitation, Triple, out_shape
from .layers import LayerRow, describe, format_count, format_shape
from .plot import PALETTE, Plot, make_plot

OTHER_COLOR = "#8A8F98"
WIDEST, NARROWEST = 0.8, 0.035  # of a slot
SLOT_PIXELS = 50  # a slot is at least this wide, so that labels do not touch
FRAME_PIXELS = 14
TITLE_FRAMES, LABEL_FRAMES = 2.4, 3.7


def family_colors() -> dict[str, str]:
    families = enumerate(layout.FAMILIES)
    return {name: PALETTE[i % len(PALETTE)] for i, name in families}


def network_plot(
    rows: Sequence[LayerRow], title: str = "", among: Sequence[Sequence[LayerRow]] = ()
) -> Plot:
    """Draw a network, on one scale with those ``among`` which it is shown."""
    rows = _drawn(rows)
    others = [row for network in among or [rows] for row in _drawn(network)]
    widest_macs = max(1, *(row.cost.macs for row in others))
    frames = max([5, *map(_frames, others)])
    top, bottom = frames / 2 + TITLE_FRAMES, -frames / 2 - LABEL_FRAMES
    dots = [
        dict(x=i + 0.5, y=_frames(row) / 2 + 0.4)
        for i, row in enumerate(rows)
        if any(isinstance(part, SqueezeExcitation) for part in row.layout.parts)
    ]
    return make_plot(
        "network",
        title,
        min_width=len(rows) * SLOT_PIXELS,
        height=round((top - bottom) * FRAME_PIXELS),
        top=top,
        bottom=bottom,
        frames=frames,
        slots=[_slot(i, row) for i, row in enumerate(rows)],
        slabs=[slab for i, r in enumerate(rows) for slab in _slabs(i, r, widest_macs)],
        dots=dots,
        bands=_bands(rows),
    )


def _frames(row: LayerRow) -> int:
    return max((conv.kernel[0] for conv in row.layout.convolutions), default=1)


def _slabs(index: int, row: LayerRow, widest_macs: int) -> list[dict[str, Any]]:
    """Bars of one slot: from x to x2 in slots, from y to y2 in frames around 0."""
    color = family_colors().get(row.spec.family if row.spec else "", OTHER_COLOR)
    channels = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    pale = "#" + "".join(f"{(channel + 255) // 2:02X}" for channel in channels)

    def width(conv: Conv, size: Triple) -> float:
        return max(NARROWEST, part_cost(conv, size).macs / widest_macs * WIDEST)

    bars, size = [], row.in_shape[1:]  # width, ends in frames, fill
    for part in row.layout.parts:
        if isinstance(part, Conv):
            half, fill = part.kernel[0] / 2, color if part.groups == 1 else pale
            bars.append((width(part, size), -half, half, fill))
        elif isinstance(part, Shift):
            bars += [(NARROWEST, i - 1.5, i - 0.5, color) for i in range(3)]
        size = out_shape(part, size)
    if isinstance(shortcut := row.layout.shortcut, Conv):
        bars.append((width(shortcut, row.in_shape[1:]), -0.5, 0.5, "#FFFFFF"))
    x, drawn = index + 0.5 - sum(wide for wide, *_ in bars) / 2, []
    for wide, low, high, fill in bars:
        drawn.append(
            dict(x=x, x2=x + wide, y=low + 0.1, y2=high - 0.1, fill=fill, stroke=color)
        )
        x += wide
    return drawn


def _drawn(rows: Sequence[LayerRow]) -> list[LayerRow]:
    return [row for row in rows if row.name != "classifier"]


def _slot(index: int, row: LayerRow) -> dict[str, Any]:
    label = row.name.replace(" ", "\n") if row.spec is None else row.block
    if row.spec and not row.spec.is_skip:
        family, temporal, spatial, ratio, *_ = row.block.split("_")
        label = f"{family}\n{temporal} {spatial}\n{ratio}"
    return dict(
        x=index,
        label=label,
        place=f"{row.name}: {row.block}",
        parts=", ".join(map(describe, row.layout.parts)) or "nothing",
        shapes=f"{format_shape(row.in_shape)} \u2192 {format_shape(row.out_shape)}",
        macs=format_count(row.cost.macs),
        params=format_count(row.cost.params),
        frames=row.spec.temporal_kernel if row.spec else 1,
    )


def _bands(rows: Sequence[LayerRow]) -> list[dict[str, Any]]:
    """Ground of each stage, from x to x2, with its title."""
    bands = []
    for stage in sorted({row.stage for row in rows if row.stage is not None}):
        members = [i for i, row in enumerate(rows) if row.stage == stage]
        title = f"stage {stage + 1}" if len(members) > 1 else f"S{stage + 1}"
        if len(members) > 2:
            title += f": {rows[members[0]].out_shape[0]} channels"
        bands.append(dict(x=members[0] + 0.03, x2=members[-1] + 0.97, title=title))
    return bands
