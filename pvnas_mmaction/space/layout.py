"""Blocks as data: from a block spec and a layer to the parts of a block.

docs/reference/block_specs.md has the grammar of block specs, and a worked example.
Module, costs, pictures and inherited weights follow from the layout. Roles are the
names of the parts in a state dict: ``layers.3.expand.conv.weight``. **To add a
family**, write one function (spec, layer) -> Layout with the line ``@family(...)``
above it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from .checks import wrong

MAX_KERNEL = 11
CHANNEL_MULTIPLE = 8
SE_RATIO = 0.25
SHIFT_FRACTION = 8
ACTIVATIONS = ("relu", "relu6", "silu", "hard_swish")
PADDINGS = ("symmetric", "tf_same")

Triple = tuple[int, int, int]
ONE: Triple = (1, 1, 1)

_NUMBER = r"(0|[1-9][0-9]*)"
_RATIO = r"((?:0|[1-9][0-9]*)(?:\.[0-9]{0,5}[1-9])?)"
_SPEC = re.compile(rf"([a-z0-9]+)_t{_NUMBER}_k{_NUMBER}_e{_RATIO}(_se)?")


@dataclass(frozen=True)
class BlockSpec:
    """One candidate operation; family may be ``"skip"``."""

    family: str
    temporal_kernel: int = 1
    spatial_kernel: int = 1
    expand_ratio: float = 1.0
    se: bool = False

    @property
    def is_skip(self) -> bool:
        return self.family == "skip"

    def __str__(self) -> str:
        if self.is_skip:
            return "skip"
        ratio = f"{self.expand_ratio:f}".rstrip("0").rstrip(".")
        kernels = f"t{self.temporal_kernel}_k{self.spatial_kernel}"
        return f"{self.family}_{kernels}_e{ratio}{'_se' if self.se else ''}"

    @classmethod
    def parse(cls, text: object, place: str = "block") -> "BlockSpec":
        """Read a block spec, e.g. ``"mb_t3_k5_e4_se"``; ValueError about ``place``."""
        if text == "skip":
            return cls("skip")
        match = _SPEC.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            expected = "'skip' or FAMILY_t<Kt>_k<Ks>_e<E>[_se], e.g. 'mb_t3_k3_e4_se'"
            raise wrong(place, expected, repr(text))
        name, kt, ks, ratio, se = match.groups()
        spec = cls(name, int(kt), int(ks), float(ratio), se is not None)
        if spec.family not in FAMILIES:
            raise wrong(place, f"a family out of {', '.join(FAMILIES)}", repr(text))
        known = FAMILIES[spec.family]
        for letter, value, (least, most) in (
            ("t", spec.temporal_kernel, known.temporal_kernels),
            ("k", spec.spatial_kernel, (1, MAX_KERNEL)),
            ("e", spec.expand_ratio, known.expand_ratios),
        ):
            odd = "" if letter == "e" else "odd and "
            if not least <= value <= most or (odd and value % 2 == 0):
                expected = f"{letter} {odd}from {least:g} to {most:g} for {name}"
                raise wrong(place, expected, repr(text))
        return spec


@dataclass(frozen=True)
class Style:
    """What all convolutions of a network have in common: a name out of
    :data:`ACTIVATIONS`, the epsilon of batch normalisation, and the padding. As
    TensorFlow pads (``"tf_same"``), there is one pixel less at the top and left with
    stride 2 and an even size."""

    activation: str = "relu"
    bn_eps: float = 1e-5
    padding: str = "symmetric"


@dataclass(frozen=True)
class Layer:
    """One place for a block, as a skeleton fixes it; position and stage from 0."""

    index: int
    stage: int
    in_channels: int
    out_channels: int
    spatial_stride: int
    temporal_stride: int
    style: Style = Style()

    @property
    def stride(self) -> Triple:
        return (self.temporal_stride, self.spatial_stride, self.spatial_stride)

    @property
    def keeps_shape(self) -> bool:
        return self.stride == ONE and self.in_channels == self.out_channels


@dataclass(frozen=True)
class Conv:
    """A convolution with "same" padding (stride s gives ceil(size / s)), then batch
    normalisation and activation where there are any."""

    role: str
    in_channels: int
    out_channels: int
    kernel: Triple = ONE
    stride: Triple = ONE
    groups: int = 1
    norm: bool = True
    activate: bool = True


@dataclass(frozen=True)
class SqueezeExcitation:
    """Gates channels by the mean over time and space (Hu et al., 2018)."""

    channels: int
    squeeze_channels: int
    role: str = "se"
    stride: Triple = ONE


@dataclass(frozen=True)
class Shift:
    """Moves 1 / ``fraction`` of the channels a frame back and as many forth (TSM)."""

    channels: int
    fraction: int = SHIFT_FRACTION
    role: str = "shift"
    stride: Triple = ONE


@dataclass(frozen=True)
class MaxPool:
    """Maximum over kernel x kernel pixels of a frame, stride 2, symmetric padding."""

    kernel: int
    role: str = "pool"
    stride: Triple = (1, 2, 2)


Part = Conv | SqueezeExcitation | Shift | MaxPool


@dataclass(frozen=True)
class Layout:
    """A block: its parts in order, of different roles (none: the identity), what of the
    input is added to their output, and whether an activation follows."""

    parts: tuple[Part, ...]
    shortcut: Conv | Literal["identity"] | None = None
    act_after: bool = False
    style: Style = Style()

    @property
    def convolutions(self) -> tuple[Conv, ...]:
        """All convolutions, the shortcut's last."""
        every = (*self.parts, self.shortcut)
        return tuple(part for part in every if isinstance(part, Conv))

    def out_shape(self, shape: Triple) -> Triple:
        for part in self.parts:
            shape = out_shape(part, shape)
        return shape


def out_shape(part: Part | Layer, shape: Triple) -> Triple:
    """Output (T, H, W) of a part or a layer: ceil of size over stride."""
    t, h, w = (-(-size // s) for size, s in zip(shape, part.stride, strict=True))
    return t, h, w


def round_channels(channels: float) -> int:
    """Nearest multiple of 8 (half goes up), at least 8."""
    return max(1, int(channels / CHANNEL_MULTIPLE + 0.5)) * CHANNEL_MULTIPLE


def hidden_channels(spec: BlockSpec, channels: int) -> int:
    """Width of a block's inside: a multiple of 8; ``channels`` as they are if E = 1."""
    ratio = spec.expand_ratio
    return channels if ratio == 1 else round_channels(channels * ratio)


LayoutFunction = Callable[[BlockSpec, Layer], Layout]


class Family(NamedTuple):
    """A kind of block: its layout, and the least and greatest Kt and E it allows."""

    layout: LayoutFunction
    temporal_kernels: tuple[int, int]
    expand_ratios: tuple[float, float]


FAMILIES: dict[str, Family] = {}


def family(
    name: str,
    temporal_kernels: tuple[int, int] = (1, MAX_KERNEL),
    expand_ratios: tuple[float, float] = (1, 16),
) -> Callable[[LayoutFunction], LayoutFunction]:
    """Register a layout function as a family of blocks."""

    def register(function: LayoutFunction) -> LayoutFunction:
        FAMILIES[name] = Family(function, temporal_kernels, expand_ratios)
        return function

    return register


def layout(spec: BlockSpec | str, layer: Layer) -> Layout:
    """The parts of a block at a layer; a ValueError if the text is no block spec."""
    if isinstance(spec, str):
        spec = BlockSpec.parse(spec, f"layer {layer.index}")
    if spec.is_skip:
        return Layout((), style=layer.style)
    return replace(FAMILIES[spec.family].layout(spec, layer), style=layer.style)


def _squeeze_excitation(spec: BlockSpec, channels: int) -> tuple[Part, ...]:
    squeeze = round_channels(channels * SE_RATIO)
    return (SqueezeExcitation(channels, squeeze),) if spec.se else ()


def _inverted_bottleneck(
    spec: BlockSpec, layer: Layer, *depthwise: tuple[str, Triple, Triple]
) -> Layout:
    """MobileNetV2's block (Sandler et al., 2018) around depthwise convolutions, given
    by role, kernel and stride. These share one batch normalisation and one activation,
    after the last."""
    width = hidden_channels(spec, layer.in_channels)
    parts: list[Part] = []
    if spec.expand_ratio != 1:
        parts.append(Conv("expand", layer.in_channels, width))
    for role, kernel, stride in depthwise:
        parts.append(Conv(role, width, width, kernel, stride, width, False, False))
    parts[-1] = replace(parts[-1], norm=True, activate=True)
    parts.extend(_squeeze_excitation(spec, width))
    parts.append(Conv("project", width, layer.out_channels, activate=False))
    return Layout(tuple(parts), "identity" if layer.keeps_shape else None)


@family("mb")
def _mb(spec: BlockSpec, layer: Layer) -> Layout:
    """Depthwise 1xKsxKs, directly after it depthwise Ktx1x1 if Kt > 1: (2+1)D (Tran et
    al., 2018), with one normalisation, so that an identity in time changes nothing."""
    kt, ks = spec.temporal_kernel, spec.spatial_kernel
    if kt == 1:
        return _inverted_bottleneck(spec, layer, ("spatial", (1, ks, ks), layer.stride))
    st, s, _ = layer.stride
    spatial = ("spatial", (1, ks, ks), (1, s, s))
    temporal = ("temporal", (kt, 1, 1), (st, 1, 1))
    return _inverted_bottleneck(spec, layer, spatial, temporal)


@family("mb3d", temporal_kernels=(3, MAX_KERNEL))
def _mb3d(spec: BlockSpec, layer: Layer) -> Layout:
    """One joint depthwise KtxKsxKs (CSN, X3D, MoViNet)."""
    kt, ks = spec.temporal_kernel, spec.spatial_kernel
    return _inverted_bottleneck(spec, layer, ("joint", (kt, ks, ks), layer.stride))


def _shifted(block: Layout, channels: int) -> Layout:
    """A temporal shift in front of the first part: on the residual branch only, so that
    what is shifted away is not lost (TSM, Lin et al., 2019)."""
    return replace(block, parts=(Shift(channels), *block.parts))


@family("ts", temporal_kernels=(3, 3))
def _ts(spec: BlockSpec, layer: Layer) -> Layout:
    """``mb`` with Kt = 1 behind a temporal shift: frames mix at no cost."""
    block = _mb(replace(spec, temporal_kernel=1), layer)
    return _shifted(block, layer.in_channels)


@family("rb", expand_ratios=(0.01, 1))
def _rb(spec: BlockSpec, layer: Layer) -> Layout:
    """ResNet's bottleneck (He et al., 2016), all convolutions full: reduce Ktx1x1 (as
    SlowFast has it), 1xKsxKs with the spatial stride, expand 1x1x1, activation after
    the sum. A 1x1x1 convolution is the shortcut where the shape changes."""
    c_in, c_out = layer.in_channels, layer.out_channels
    width = hidden_channels(spec, c_out)
    kt, ks = spec.temporal_kernel, spec.spatial_kernel
    st, s, _ = layer.stride
    shortcut = Conv("shortcut", c_in, c_out, stride=layer.stride, activate=False)
    return Layout(
        parts=(
            Conv("reduce", c_in, width, (kt, 1, 1), (st, 1, 1)),
            Conv("spatial", width, width, (1, ks, ks), (1, s, s)),
            *_squeeze_excitation(spec, width),
            Conv("expand", width, c_out, activate=False),
        ),
        shortcut="identity" if layer.keeps_shape else shortcut,
        act_after=True,
    )


@family("rs", temporal_kernels=(3, 3), expand_ratios=(0.01, 1))
def _rs(spec: BlockSpec, layer: Layer) -> Layout:
    """``rb`` with Kt = 1 behind a temporal shift (TSM-R50)."""
    return _shifted(_rb(replace(spec, temporal_kernel=1), layer), layer.in_channels)
