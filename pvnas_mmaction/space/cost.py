"""Cost of blocks and networks by closed formula, from their layouts.

MACs are the multiply-accumulates of convolutions and fully connected layers, per view.
MMAction2's ``get_flops.py`` prints the same quantity as "FLOPs" and adds the work of
batch normalisation and pooling, some percent on top. Parameters are all learnable
numbers, batch normalisation included.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .checks import COUNT, wrong
from .genotype import Skeleton
from .layout import (
    BlockSpec,
    Conv,
    Layer,
    Layout,
    Part,
    SqueezeExcitation,
    Triple,
    layout,
    out_shape,
)
from .search_space import SearchSpace


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates per view and number of parameters."""

    macs: int = 0
    params: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.macs + other.macs, self.params + other.params)


def part_cost(part: Part, shape: Triple) -> Cost:
    """Cost of one part at an input of (T, H, W); shifts and pools have none. A kernel
    of volume k, from c_in to c_out channels in g groups, at an output of (T, H, W):
    k * c_in * c_out / g parameters, and T * H * W times as many MACs."""
    if isinstance(part, Conv):
        weights = part.in_channels * part.out_channels // part.groups
        weights *= math.prod(part.kernel)
        norm = 2 * part.out_channels if part.norm else 0
        return Cost(weights * math.prod(out_shape(part, shape)), weights + norm)
    if isinstance(part, SqueezeExcitation):
        weights = 2 * part.channels * part.squeeze_channels
        return Cost(weights, weights + part.channels + part.squeeze_channels)
    return Cost()


def layout_cost(block: Layout, shape: Triple) -> Cost:
    """Cost of a block at an input of (T, H, W)."""
    cost = Cost()
    if isinstance(block.shortcut, Conv):
        cost = part_cost(block.shortcut, shape)
    for part in block.parts:
        cost += part_cost(part, shape)
        shape = out_shape(part, shape)
    return cost


def block_cost(spec: BlockSpec | str, layer: Layer, shape: Triple) -> Cost:
    """Cost of a block spec at a layer with an input of (T, H, W)."""
    return layout_cost(layout(spec, layer), shape)


def check_input_shape(
    skeleton: Skeleton, input_shape: Sequence[int]
) -> tuple[int, ...]:
    """``input_shape`` as a tuple (C, T, H, W); a ValueError unless it is four whole
    numbers from 1 up, the first of them the skeleton's ``in_channels``."""
    shape = tuple(input_shape) if isinstance(input_shape, Sequence) else ()
    expected = f"(C = {skeleton.in_channels}, T, H, W), whole numbers from 1 up"
    if shape[:1] != (skeleton.in_channels,) or list(map(COUNT[1], shape)) != [True] * 4:
        raise wrong("input_shape", expected, repr(input_shape))
    return shape


def layer_shapes(skeleton: Skeleton, input_shape: Sequence[int]) -> tuple[Triple, ...]:
    """Input (T, H, W) of every layer, and last the output of the last one."""
    _, t, h, w = check_input_shape(skeleton, input_shape)
    shapes = [skeleton.stem_layout.out_shape((t, h, w))]
    for layer in skeleton.layers:
        shapes.append(out_shape(layer, shapes[-1]))
    return tuple(shapes)


def skeleton_cost(
    skeleton: Skeleton, input_shape: Sequence[int], num_classes: int
) -> Cost:
    """Cost of what all networks of a skeleton share: stem, last convolution, and the
    head's fully connected layer with its bias."""
    _, t, h, w = check_input_shape(skeleton, input_shape)
    last, width = layer_shapes(skeleton, input_shape)[-1], skeleton.out_channels
    cost = Cost(width * num_classes, (width + 1) * num_classes)
    cost += layout_cost(skeleton.stem_layout, (t, h, w))
    return cost + layout_cost(skeleton.head_layout, last)


def network_cost(
    skeleton: Skeleton,
    blocks: Sequence[BlockSpec | str],
    input_shape: Sequence[int],
    num_classes: int,
) -> Cost:
    """Cost of one network for a view of (C, T, H, W)."""
    cost = skeleton_cost(skeleton, input_shape, num_classes)
    *shapes, _ = layer_shapes(skeleton, input_shape)
    for layer, block, shape in zip(skeleton.layers, blocks, shapes, strict=True):
        cost += block_cost(block, layer, shape)
    return cost


def layer_costs(space: SearchSpace, input_shape: Sequence[int]) -> list[list[Cost]]:
    """Cost of every candidate of every layer of a space, at (C, T, H, W)."""
    *shapes, _ = layer_shapes(space.skeleton, input_shape)
    return [
        [block_cost(text, layer, shape) for text in texts]
        for layer, texts, shape in zip(
            space.layers, space.candidates, shapes, strict=True
        )
    ]
