# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The picture of a network as plain geometry, for whatever draws it.

A network is a row of slots, one per layer between stem and last convolution, all of one
width, so that layers of several networks stand under each other. In its slot a block is

- as wide as its multiply-accumulates, next to those of the dearest layer;
- as many slabs high as its temporal kernel spans frames: one flat slab sees one frame;
- in the color of its family, whose slabs also have a shape of their own: apart (mb),
  joined (mb3d), staggered (ts) or hatched (rb);
- marked with a dot above where it has squeeze-and-excitation.

A skipped layer is an empty dashed frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .layers import LayerRow
from .palette import FAMILY_COLORS, OTHER_COLOR

SLAB = 0.78  # of the height that a slab has to itself
WIDEST = 0.84  # of a slot
NARROWEST = 0.05
STAGGER = 0.04


@dataclass(frozen=True)
class Slab:
    """A rectangle in slot units (x) and frames (y, 0 in the middle)."""

    left: float
    right: float
    bottom: float
    top: float
    color: str
    hatched: bool = False


@dataclass(frozen=True)
class Slot:
    """A place of the row, from x = index to index + 1.

    Args:
        index: Position from 0, the stem.
        row: What stands there.
        label: Short lines of text under the block.
    """

    index: int
    row: LayerRow
    label: tuple[str, ...]

    @property
    def skipped(self) -> bool:
        return self.row.spec is not None and self.row.spec.is_skip

    @property
    def reach(self) -> int:
        return self.row.spec.temporal_kernel if self.row.spec else 1

    @property
    def squeezed(self) -> bool:
        return self.row.spec is not None and self.row.spec.se


@dataclass(frozen=True)
class StageBand:
    """Slots that belong to one stage, from x = left to right."""

    left: int
    right: int
    title: str


@dataclass(frozen=True)
class Drawing:
    """Everything to draw; x from 0 to len(slots)."""

    slots: tuple[Slot, ...]
    slabs: tuple[Slab, ...]
    bands: tuple[StageBand, ...]


def dearest_layer(networks: Sequence[Sequence[LayerRow]]) -> int:
    """MACs of the dearest layer of several networks, at least 1."""
    return max([1, *(row.macs or 0 for rows in networks for row in drawn_rows(rows))])


def drawn_rows(rows: Sequence[LayerRow]) -> list[LayerRow]:
    """The rows that get a slot: all but the classifier."""
    return [row for row in rows if row.name != "classifier"]


def draw_network(rows: Sequence[LayerRow], widest_macs: int | None = None) -> Drawing:
    """Lay a network out.

    Args:
        rows: From :func:`layer_rows`.
        widest_macs: MACs that fill a slot; give the same number to networks that are
            to be compared. Default: those of the network's dearest layer.
    """
    drawn = drawn_rows(rows)
    widest_macs = widest_macs or dearest_layer([drawn])
    slots = tuple(Slot(i, row, _label(row)) for i, row in enumerate(drawn))
    slabs = tuple(slab for slot in slots for slab in _slabs(slot, widest_macs))
    return Drawing(slots, slabs, _bands(slots))


def _label(row: LayerRow) -> tuple[str, ...]:
    spec = row.spec
    if spec is None:
        return tuple(row.name.split())
    if spec.is_skip:
        return ("skip",)
    ratio = str(spec).removesuffix("_se").rsplit("_", 1)[1]
    return (spec.family, f"t{spec.temporal_kernel} k{spec.spatial_kernel}", ratio)


def _slabs(slot: Slot, widest_macs: int) -> list[Slab]:
    if slot.skipped:
        return []
    # Where costs are not known, all blocks are alike.
    share = 0.6 if slot.row.macs is None else slot.row.macs / widest_macs
    half = max(NARROWEST, min(1.0, share) * WIDEST) / 2
    middle, reach = slot.index + 0.5, slot.reach
    family = slot.row.spec.family if slot.row.spec else ""
    color = FAMILY_COLORS.get(family, OTHER_COLOR)
    if family == "mb3d":
        gap = (1 - SLAB) / 2
        return [
            Slab(middle - half, middle + half, -reach / 2 + gap, reach / 2 - gap, color)
        ]
    slabs = []
    for i in range(reach):
        y = i - (reach - 1) / 2
        shift = STAGGER * (i - (reach - 1) / 2) if family == "ts" else 0.0
        slabs.append(
            Slab(
                middle - half + shift,
                middle + half + shift,
                y - SLAB / 2,
                y + SLAB / 2,
                color,
                hatched=family == "rb",
            )
        )
    return slabs


def _bands(slots: Sequence[Slot]) -> tuple[StageBand, ...]:
    bands: list[StageBand] = []
    for stage in sorted({s.row.stage for s in slots if s.row.stage is not None}):
        members = [slot for slot in slots if slot.row.stage == stage]
        title = f"stage {stage + 1}" if len(members) > 1 else f"S{stage + 1}"
        shape = members[0].row.out_shape
        if shape is not None and len(members) > 2:
            title += f": {shape[0]} channels"
        bands.append(StageBand(members[0].index, members[-1].index + 1, title))
    return tuple(bands)
