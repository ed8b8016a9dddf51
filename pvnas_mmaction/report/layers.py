"""A network layer by layer: shapes, costs, latency, temporal reach. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..space.cost import Cost, check_input_shape, layout_cost
from ..space.genotype import Genotype
from ..space.layout import BlockSpec, Conv, Layout, MaxPool, Part, Shift, layout

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LayerRow:
    """One line of a network's description: stem, layer N, last conv or classifier;
    shapes are (C, T, H, W), ``stage`` is None outside the layers."""

    name: str
    block: str
    layout: Layout
    stage: int | None
    in_shape: Shape
    out_shape: Shape
    cost: Cost

    @property
    def spec(self) -> BlockSpec | None:
        return None if self.stage is None else BlockSpec.parse(self.block)


def layer_rows(
    genotype: Genotype,
    input_shape: Sequence[int] | None = None,
    num_classes: int | None = None,
) -> list[LayerRow]:
    """Describe a network for an input (C, T, H, W). Input shape and number of classes
    default to those of the provenance; without them to 8 frames of 224x224, or the
    classifier is left out."""
    skeleton, known = genotype.skeleton, genotype.provenance
    input_shape = input_shape or known.get("input_shape")
    num_classes = num_classes or known.get("num_classes")
    default = (skeleton.in_channels, 8, 224, 224)
    shape: Shape = check_input_shape(skeleton, input_shape or default)
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
        rows.append(LayerRow(name, block, parts, stage, shape, out, cost))
        shape = out
    if num_classes is not None:
        macs = skeleton.out_channels * num_classes
        words, out = "mean, fully connected", (num_classes, 1, 1, 1)
        cost = Cost(macs, macs + num_classes)
        rows.append(LayerRow("classifier", words, Layout(()), None, shape, out, cost))
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


def total(rows: Sequence[LayerRow]) -> Cost:
    return sum((row.cost for row in rows), Cost())


def temporal_reach(genotype: Genotype) -> int:
    """Frames of the input that one output position sees, squeeze-and-excitation not
    counted: a kernel of Kt over frames ``jump`` apart adds (Kt - 1) * jump."""
    reach, jump = 1, 1
    for layer, spec in zip(genotype.skeleton.layers, genotype.specs, strict=True):
        reach += (spec.temporal_kernel - 1) * jump
        jump *= layer.temporal_stride
    return reach


def format_count(value: float) -> str:
    """A count in three digits: ``1.23 G``, ``45.6 M``, ``789``."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        # Rounded first: 999,600 is 1 M, not 1e+03 k.
        if float(f"{abs(value):.3g}") >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def format_shape(shape: Sequence[int]) -> str:
    """``24x8x16x16``."""
    return "x".join(map(str, shape))


def percent(share: float | None) -> str:
    return "n/a" if share is None else f"{100 * share:.1f} %"
