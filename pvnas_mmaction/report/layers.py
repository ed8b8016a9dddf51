# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""A network layer by layer: shapes, costs, latency, temporal reach. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..space.cost import check_input_shape, layout_cost
from ..space.genotype import Genotype
from ..space.layout import BlockSpec, Conv, Layout, MaxPool, Part, Shift, layout

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LayerRow:
    """One line of a network's description: ``stem``, ``layer N`` (from 0), ``last
    conv`` or ``classifier``.

    ``block`` is a block spec or words, ``stage`` (from 0) is None outside the layers.
    Shapes (C, T, H, W) and MACs are None where the input shape is not known.
    """

    name: str
    block: str
    layout: Layout
    stage: int | None
    in_shape: Shape | None
    out_shape: Shape | None
    macs: int | None
    params: int

    @property
    def spec(self) -> BlockSpec | None:
        """The parsed block spec; None outside the layers."""
        return None if self.stage is None else BlockSpec.parse(self.block)


def layer_rows(
    genotype: Genotype,
    input_shape: Sequence[int] | None = None,
    num_classes: int | None = None,
) -> list[LayerRow]:
    """Describe a network from stem to classifier, for an input (C, T, H, W).

    Input shape and number of classes default to those of the provenance; without them
    shapes and MACs stay None, or the classifier is left out.
    ValueError for a shape that the skeleton does not take.
    """
    skeleton = genotype.skeleton
    input_shape = input_shape or genotype.provenance.get("input_shape")
    num_classes = num_classes or genotype.provenance.get("num_classes")
    # Parameters do not depend on the shape: any will do where none is known.
    any_shape = (skeleton.in_channels, 1, 1, 1)
    shape: Shape = check_input_shape(skeleton, input_shape or any_shape)
    stem, head = skeleton.stem_layout, skeleton.head_layout
    places = [("stem", _words(stem), stem, skeleton.stem.channels, None)]
    places += [
        (f"layer {i.index}", block, layout(block, i), i.out_channels, i.stage)
        for i, block in zip(skeleton.layers, genotype.blocks, strict=True)
    ]
    if head.parts:
        places.append(("last conv", _words(head), head, skeleton.out_channels, None))
    rows: list[LayerRow] = []
    for name, block, parts, width, stage in places:
        cost = layout_cost(parts, shape[1:])
        out = (width, *parts.out_shape(shape[1:]))
        rows.append(LayerRow(name, block, parts, stage, shape, out, cost.macs,
                             cost.params))  # fmt: skip
        shape = out
    if num_classes is not None:
        weights = skeleton.out_channels * num_classes
        rows.append(LayerRow("classifier", "mean, fully connected", Layout(()), None,
                             shape, (num_classes, 1, 1, 1), weights,
                             weights + num_classes))  # fmt: skip
    if input_shape is None:
        rows = [replace(r, in_shape=None, out_shape=None, macs=None) for r in rows]
    return rows


def _words(block: Layout) -> str:
    return ", ".join(map(describe, block.parts))


def describe(part: Part) -> str:
    """A part of a block in words, e.g. ``1x3x3 depthwise, stride 1x2x2``."""
    if isinstance(part, Shift):
        return "temporal shift"
    if isinstance(part, MaxPool):
        return f"max pool 1x{part.kernel}x{part.kernel}"
    if not isinstance(part, Conv):
        return "squeeze-and-excitation"
    kind = "conv" if part.groups == 1 else "depthwise"
    stride = "" if max(part.stride) == 1 else f", stride {format_shape(part.stride)}"
    return f"{kind} {format_shape(part.kernel)}{stride}"


def total(rows: Sequence[LayerRow]) -> tuple[int | None, int]:
    """MACs (None where not known) and parameters of all rows."""
    macs = None if rows[0].macs is None else sum(row.macs or 0 for row in rows)
    return macs, sum(row.params for row in rows)


def temporal_reach(genotype: Genotype) -> int:
    """Frames of the input that one output position sees: the receptive field.

    A kernel of Kt over frames that lie ``jump`` apart adds (Kt - 1) * jump.
    Squeeze-and-excitation, which averages over all frames, is not counted.
    """
    reach, jump = 1, 1
    for layer, spec in zip(genotype.skeleton.layers, genotype.specs, strict=True):
        reach += (spec.temporal_kernel - 1) * jump
        jump *= layer.temporal_stride
    return reach


def format_count(value: float | None) -> str:
    """A count in at most four digits: ``1.23 G``, ``45.6 M``, ``789``; n/a for None."""
    if value is None:
        return "n/a"
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        # Rounded first: 999,600 is 1 M, not 1e+03 k.
        if float(f"{abs(value):.3g}") >= size:
            return f"{value / size:.3g} {unit}" if value < 9.995e14 else f"{value:.3g}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def format_shape(shape: Sequence[int] | None) -> str:
    """``24x8x16x16``, or n/a."""
    return "n/a" if shape is None else "x".join(map(str, shape))
