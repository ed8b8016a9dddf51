# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""A network layer by layer: shapes, cost, latency, temporal reach. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..space.cost import (
    block_cost,
    check_input_shape,
    layer_shapes,
    layout_cost,
    skeleton_cost,
)
from ..space.genotype import Genotype
from ..space.layout import BlockSpec

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class LayerRow:
    """One line of a network's description.

    Args:
        name: ``stem``, ``layer N`` (from 0), ``last conv`` or ``classifier``.
        block: Block spec, or what stands there in words.
        spec: The parsed block spec; None outside the layers.
        stage: Stage it belongs to, from 0; None outside the layers.
        in_shape: (C, T, H, W), or None where the input shape is not known.
        out_shape: (C, T, H, W), or None.
        macs: Multiply-accumulates per view, or None where the shape is not known.
        params: Number of parameters.
        latency_ms: From a latency table, or None.
    """

    name: str
    block: str
    spec: BlockSpec | None
    stage: int | None
    in_shape: Shape | None
    out_shape: Shape | None
    macs: int | None
    params: int
    latency_ms: float | None = None


def known_input_shape(genotype: Genotype) -> tuple[int, ...] | None:
    """The input shape of a genotype's provenance, or None.

    Raises:
        ValueError: It is there, and no shape that the skeleton takes.
    """
    shape = genotype.provenance.get("input_shape")
    return None if shape is None else check_input_shape(genotype.skeleton, shape)


def layer_rows(
    genotype: Genotype,
    input_shape: Sequence[int] | None = None,
    num_classes: int | None = None,
    latency_ms: Sequence[float] | None = None,
) -> tuple[LayerRow, ...]:
    """Describe a network from stem to classifier.

    Args:
        genotype: The network.
        input_shape: (C, T, H, W). Default: that of the provenance; without either,
            shapes and MACs stay None.
        num_classes: Outputs of the classifier. Default: that of the provenance;
            without either, the classifier is left out.
        latency_ms: Milliseconds of each layer. Default: none.

    Raises:
        ValueError: An input shape that the skeleton does not take.
    """
    skeleton = genotype.skeleton
    if input_shape is None:
        input_shape = known_input_shape(genotype)
    if num_classes is None:
        num_classes = genotype.provenance.get("num_classes")
    # Parameters do not depend on the shape: any will do where none is known.
    shape = input_shape or (skeleton.in_channels, 1, 1, 1)
    rows = _rows(genotype, tuple(shape), num_classes, latency_ms)
    if input_shape is None:
        rows = [
            LayerRow(
                row.name, row.block, row.spec, row.stage, None, None, None, row.params,
                row.latency_ms,
            )
            for row in rows
        ]  # fmt: skip
    return tuple(rows)


def _rows(
    genotype: Genotype,
    input_shape: tuple[int, ...],
    num_classes: int | None,
    latency_ms: Sequence[float] | None,
) -> list[LayerRow]:
    skeleton = genotype.skeleton
    shapes = layer_shapes(skeleton, input_shape)
    _, t, h, w = input_shape
    stem = layout_cost(skeleton.stem_layout, (t, h, w))
    last = skeleton.stages[-1].out_channels
    shared = skeleton_cost(skeleton, input_shape, 0)
    stem_out = (skeleton.stem.channels, *shapes[0])
    rows = [
        LayerRow(
            "stem",
            "conv 1x3x3, stride 2",
            None,
            None,
            _four(input_shape),
            stem_out,
            stem.macs,
            stem.params,
        )
    ]
    for layer, spec in zip(skeleton.layers, genotype.specs, strict=True):
        i = layer.index
        cost = block_cost(spec, layer, shapes[i])
        rows.append(
            LayerRow(
                f"layer {i}",
                str(spec),
                spec,
                layer.stage,
                (layer.in_channels, *shapes[i]),
                (layer.out_channels, *shapes[i + 1]),
                cost.macs,
                cost.params,
                None if latency_ms is None else latency_ms[i],
            )
        )
    if skeleton.head_channels is not None:
        rows.append(
            LayerRow(
                "last conv",
                "conv 1x1x1",
                None,
                None,
                (last, *shapes[-1]),
                (skeleton.out_channels, *shapes[-1]),
                shared.macs - stem.macs,
                shared.params - stem.params,
            )
        )
    if num_classes is not None:
        weights = skeleton.out_channels * num_classes
        rows.append(
            LayerRow(
                "classifier",
                "mean, fully connected",
                None,
                None,
                (skeleton.out_channels, *shapes[-1]),
                (num_classes, 1, 1, 1),
                weights,
                weights + num_classes,
            )
        )
    return rows


def _four(shape: Sequence[int]) -> Shape:
    c, t, h, w = shape
    return c, t, h, w


def total(rows: Sequence[LayerRow]) -> tuple[int | None, int]:
    """MACs (None where not known) and parameters of all rows."""
    macs = [row.macs for row in rows]
    known = None if any(m is None for m in macs) else sum(m or 0 for m in macs)
    return known, sum(row.params for row in rows)


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
    """``24 x 8 x 16 x 16``, or n/a."""
    return "n/a" if shape is None else "x".join(str(size) for size in shape)
