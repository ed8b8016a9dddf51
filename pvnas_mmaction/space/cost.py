# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Cost of blocks and networks by closed formula.

MACs are the multiply-accumulates of convolutions and fully connected layers, per view.
MMAction2's ``get_flops.py`` prints the same quantity as "FLOPs" and adds the work of
batch normalisation and pooling, some percent on top. Parameters are all learnable
numbers, batch normalisation included.

For a convolution with kernel volume k, c_in inputs, c_out outputs and g groups at an
output of (T, H, W): MACs = k * c_in * c_out / g * T * H * W and parameters
k * c_in * c_out / g, plus 2 * c_out for the batch normalisation behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .genotype import BlockSpec, Layer, Skeleton, round_channels
from .search_space import SearchSpace

SE_RATIO = 0.25


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates per view and number of parameters."""

    macs: int = 0
    params: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.macs + other.macs, self.params + other.params)


def squeeze_channels(hidden_channels: int) -> int:
    """Width of the squeeze: a quarter of what it gates, a multiple of 8."""
    return round_channels(hidden_channels * SE_RATIO)


def _conv_bn(
    kernel: int, in_channels: int, out_channels: int, groups: int, positions: int
) -> Cost:
    weights = kernel * in_channels * out_channels // groups
    return Cost(weights * positions, weights + 2 * out_channels)


def _se(hidden: int) -> Cost:
    squeeze = squeeze_channels(hidden)
    weights = 2 * hidden * squeeze
    return Cost(weights, weights + hidden + squeeze)


def _volume(shape: tuple[int, int, int]) -> int:
    return shape[0] * shape[1] * shape[2]


def _inverted_bottleneck(
    spec: BlockSpec, layer: Layer, shape: tuple[int, int, int]
) -> Cost:
    """mb, mb3d and ts; a shift costs nothing."""
    hidden = spec.hidden_channels(layer.in_channels, layer.out_channels)
    out = layer.out_shape(shape)
    cost = Cost()
    if spec.expand_ratio != 1:
        cost += _conv_bn(1, layer.in_channels, hidden, 1, _volume(shape))
    kt, ks = spec.temporal_kernel, spec.spatial_kernel
    if spec.family == "mb3d":
        cost += _conv_bn(kt * ks * ks, hidden, hidden, hidden, _volume(out))
    elif spec.family == "mb" and kt > 1:
        # Space first, at full time; then time, with the temporal stride.
        spatial_out = (shape[0], out[1], out[2])
        cost += _conv_bn(ks * ks, hidden, hidden, hidden, _volume(spatial_out))
        cost += _conv_bn(kt, hidden, hidden, hidden, _volume(out))
    else:
        cost += _conv_bn(ks * ks, hidden, hidden, hidden, _volume(out))
    if spec.se:
        cost += _se(hidden)
    return cost + _conv_bn(1, hidden, layer.out_channels, 1, _volume(out))


def _residual_bottleneck(
    spec: BlockSpec, layer: Layer, shape: tuple[int, int, int]
) -> Cost:
    hidden = spec.hidden_channels(layer.in_channels, layer.out_channels)
    kt, ks = spec.temporal_kernel, spec.spatial_kernel
    out = layer.out_shape(shape)
    reduced = (out[0], shape[1], shape[2])
    cost = _conv_bn(kt, layer.in_channels, hidden, 1, _volume(reduced))
    cost += _conv_bn(ks * ks, hidden, hidden, 1, _volume(out))
    if spec.se:
        cost += _se(hidden)
    cost += _conv_bn(1, hidden, layer.out_channels, 1, _volume(out))
    if not layer.keeps_shape:
        cost += _conv_bn(1, layer.in_channels, layer.out_channels, 1, _volume(out))
    return cost


FORMULAS = {
    "mb": _inverted_bottleneck,
    "mb3d": _inverted_bottleneck,
    "ts": _inverted_bottleneck,
    "rb": _residual_bottleneck,
}


def block_cost(
    spec: BlockSpec | str, layer: Layer, shape: tuple[int, int, int]
) -> Cost:
    """Cost of one block.

    Args:
        spec: Block spec, parsed or as text.
        layer: The place it stands in: widths and strides.
        shape: Input (T, H, W) of that place.
    """
    if isinstance(spec, str):
        spec = BlockSpec.parse(spec)
    return Cost() if spec.is_skip else FORMULAS[spec.family](spec, layer, shape)


def layer_shapes(
    skeleton: Skeleton, input_shape: Sequence[int]
) -> tuple[tuple[int, int, int], ...]:
    """Input (T, H, W) of every layer, and last the output of the last one.

    Args:
        skeleton: The network's skeleton.
        input_shape: (C, T, H, W) of one view.

    Raises:
        ValueError: The shape is not four whole numbers from 1 up, or its C is not the
            skeleton's.
    """
    _, frames, height, width = check_input_shape(skeleton, input_shape)
    shape = (frames, -(-height // 2), -(-width // 2))
    shapes = [shape]
    for layer in skeleton.layers:
        shape = layer.out_shape(shape)
        shapes.append(shape)
    return tuple(shapes)


def check_input_shape(
    skeleton: Skeleton, input_shape: Sequence[int]
) -> tuple[int, int, int, int]:
    """``input_shape`` as a tuple (C, T, H, W); a ValueError if it is none."""
    shape = tuple(input_shape) if isinstance(input_shape, Sequence) else ()
    if len(shape) != 4 or any(type(size) is not int or size < 1 for size in shape):
        raise ValueError(
            f"input_shape: found {input_shape!r}, expected (C, T, H, W), four whole "
            "numbers from 1 up"
        )
    if shape[0] != skeleton.in_channels:
        raise ValueError(
            f"input_shape: found C = {shape[0]}, expected {skeleton.in_channels}, the "
            "skeleton's in_channels"
        )
    return shape


def skeleton_cost(
    skeleton: Skeleton, input_shape: Sequence[int], num_classes: int
) -> Cost:
    """Cost of what every network of a skeleton shares: stem, last convolution, and
    the fully connected layer of the head with its bias."""
    shapes = layer_shapes(skeleton, input_shape)
    width = skeleton.stages[-1].out_channels
    head = skeleton.head_channels
    stem = _conv_bn(
        9, skeleton.in_channels, skeleton.stem_channels, 1, _volume(shapes[0])
    )
    last = _conv_bn(1, width, head, 1, _volume(shapes[-1]))
    return stem + last + Cost(head * num_classes, (head + 1) * num_classes)


def network_cost(
    skeleton: Skeleton,
    blocks: Sequence[BlockSpec | str],
    input_shape: Sequence[int],
    num_classes: int,
) -> Cost:
    """Cost of one network.

    Args:
        skeleton: Its skeleton.
        blocks: One block spec per layer.
        input_shape: (C, T, H, W) of one view.
        num_classes: Outputs of the head's fully connected layer.
    """
    cost = skeleton_cost(skeleton, input_shape, num_classes)
    shapes = layer_shapes(skeleton, input_shape)
    for layer, block in zip(skeleton.layers, blocks, strict=True):
        cost += block_cost(block, layer, shapes[layer.index])
    return cost


def layer_costs(space: SearchSpace, input_shape: Sequence[int]) -> list[list[Cost]]:
    """Cost of every candidate of every layer of a space, at (C, T, H, W)."""
    shapes = layer_shapes(space.skeleton, input_shape)
    return [
        [block_cost(block, layer, shapes[layer.index]) for block in candidates]
        for layer, candidates in zip(space.layers, space.candidates, strict=True)
    ]


def fixed_cost(
    space: SearchSpace, input_shape: Sequence[int], num_classes: int
) -> Cost:
    """Cost that every network of the space has, whatever its blocks."""
    return skeleton_cost(space.skeleton, input_shape, num_classes)
