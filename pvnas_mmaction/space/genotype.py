"""Genotypes: one network as a text file, in JSON.

One block spec per layer (:mod:`.layout` has their grammar), the skeleton that is needed
to build the network from it alone, and where it came from; for an example see
docs/reference/block_specs.md. A genotype can be read where torch is not installed.
"""

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..compat import package_file
from . import checks
from .checks import read, reading, wrong
from .layout import (
    ACTIVATIONS,
    PADDINGS,
    BlockSpec,
    Conv,
    Layer,
    Layout,
    MaxPool,
    Style,
)

FORMAT_VERSION = 2

_STEM = dict(channels=checks.COUNT, kernel=checks.ODD, pool=checks.or_none(checks.ODD))
_STAGE = dict(
    out_channels=checks.COUNT,
    num_layers=checks.COUNT,
    spatial_stride=checks.one_of(1, 2),
    temporal_stride=checks.one_of(1, 2),
)
_SKELETON = dict(
    stem=checks.MAPPING,
    head_channels=checks.or_none(checks.COUNT),
    stages=("a list of at least one stage", checks.is_list),
    activation=checks.one_of(*ACTIVATIONS),
    bn_eps=checks.POSITIVE,
    padding=checks.one_of(*PADDINGS),
    in_channels=checks.COUNT,
)
_GENOTYPE = dict(
    format_version=checks.one_of(FORMAT_VERSION),
    space=checks.NAME,
    skeleton=checks.MAPPING,
    blocks=("a list of block specs", checks.is_list),
    provenance=checks.MAPPING,
)


@dataclass(frozen=True)
class Stem:
    """A 1 x kernel x kernel convolution of stride 2 over space and, if ``pool`` is a
    number, a maximum over pool x pool pixels, of stride 2 as well."""

    channels: int
    kernel: int = 3
    pool: int | None = None


@dataclass(frozen=True)
class Stage:
    """A run of layers of one width; the strides, 1 or 2, belong to its first layer."""

    out_channels: int
    num_layers: int
    spatial_stride: int = 1
    temporal_stride: int = 1


@dataclass(frozen=True)
class Skeleton:
    """All of a network but its blocks: what comes before the first layer, the width of
    a 1x1x1 convolution after the last one (None: there is none), the layers, and what
    all convolutions have in common (``layout.Style``)."""

    stem: Stem
    head_channels: int | None
    stages: tuple[Stage, ...]
    activation: str = "relu"
    bn_eps: float = 1e-5
    padding: str = "symmetric"
    in_channels: int = 3

    @property
    def style(self) -> Style:
        return Style(self.activation, self.bn_eps, self.padding)

    @property
    def out_channels(self) -> int:
        """Width of the output, what the head of the recognizer takes."""
        return self.head_channels or self.stages[-1].out_channels

    @property
    def layers(self) -> tuple[Layer, ...]:
        layers: list[Layer] = []
        width = self.stem.channels
        for number, stage in enumerate(self.stages):
            strides = (stage.spatial_stride, stage.temporal_stride)
            for _ in range(stage.num_layers):
                widths = (width, stage.out_channels)
                layers.append(Layer(len(layers), number, *widths, *strides, self.style))
                width, strides = stage.out_channels, (1, 1)
        return tuple(layers)

    @property
    def stem_layout(self) -> Layout:
        """The stem as a block: ``spatial`` and, where there is one, ``pool``."""
        kernel = (1, self.stem.kernel, self.stem.kernel)
        widths = (self.in_channels, self.stem.channels)
        conv = Conv("spatial", *widths, kernel, stride=(1, 2, 2))
        pool = () if self.stem.pool is None else (MaxPool(self.stem.pool),)
        return Layout((conv, *pool), style=self.style)

    @property
    def head_layout(self) -> Layout:
        """The last convolution as a block: ``project``, or the identity."""
        inner, width = self.stages[-1].out_channels, self.head_channels
        parts = () if width is None else (Conv("project", inner, width),)
        return Layout(parts, style=self.style)


@dataclass(frozen=True)
class Genotype:
    """One network; ``provenance``, where it came from and what it costs, is free."""

    space: str
    skeleton: Skeleton
    blocks: tuple[str, ...]
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def specs(self) -> tuple[BlockSpec, ...]:
        return tuple(BlockSpec.parse(block) for block in self.blocks)

    def to_json(self) -> str:
        data = {"format_version": FORMAT_VERSION, **asdict(self)}
        return json.dumps(data, indent=2) + "\n"


def parse_genotype(
    data: str | bytes | Mapping[str, Any], where: str = "genotype"
) -> Genotype:
    """Read a genotype from JSON text or a mapping, or a ValueError about ``where``."""
    with reading(where, "a genotype as JSON"):
        content = json.loads(data) if isinstance(data, str | bytes) else data
    version = content.get("format_version") if isinstance(content, Mapping) else None
    if version not in (None, FORMAT_VERSION):  # before keys, which differ by version
        field, hint = f"{where}: format_version", "update this package"
        raise wrong(field, str(FORMAT_VERSION), repr(version), hint)
    root = read(content, _GENOTYPE, tuple(_GENOTYPE)[:4], where)
    skeleton = parse_skeleton(root["skeleton"], f"{where}: skeleton")
    blocks, layers = tuple(root["blocks"]), skeleton.layers
    if len(blocks) != len(layers):
        expected = f"{len(layers)}, one for each layer of the skeleton"
        raise wrong(f"{where}: number of blocks", expected, str(len(blocks)))
    for layer, block in zip(layers, blocks, strict=True):
        place = f"{where}: blocks[{layer.index}]"
        if BlockSpec.parse(block, place).is_skip and not layer.keeps_shape:
            widths = f"{layer.in_channels} to {layer.out_channels} channels"
            expected = f"an operation: {widths}, stride {layer.stride}"
            raise wrong(place, expected, repr(block))
    return Genotype(root["space"], skeleton, blocks, dict(root.get("provenance", {})))


def parse_skeleton(data: object, where: str = "skeleton") -> Skeleton:
    """Read a skeleton from a mapping; errors as in :func:`parse_genotype`."""
    root = read(data, _SKELETON, ("stem", "head_channels", "stages"), where)
    stem = read(root.pop("stem"), _STEM, ("channels",), f"{where}: stem")
    required = ("out_channels", "num_layers")
    stages = tuple(
        Stage(**read(stage, _STAGE, required, f"{where}: stages[{i}]"))
        for i, stage in enumerate(root.pop("stages"))
    )
    return Skeleton(stem=Stem(**stem), stages=stages, **root)


def load_genotype(
    source: str | os.PathLike[str] | Mapping[str, Any] | Genotype,
) -> Genotype:
    """A genotype from what a config gives: the path of a file, also one among a
    package's configs (``"pvnas_mmaction::pvnas/genotypes/pvnas-s.json"``), or its
    content as a dict; OSError or ValueError where there is none."""
    if isinstance(source, Genotype):
        return source
    if isinstance(source, Mapping):
        return parse_genotype(source)
    path = package_file(source)
    return parse_genotype(path.read_bytes(), where=str(path))


def save_genotype(genotype: Genotype, path: str | os.PathLike[str]) -> None:
    """Write a genotype file, whole or not at all."""
    write_atomically(path, genotype.to_json())


def write_json(path: str | os.PathLike[str], data: object, **settings: Any) -> None:
    """Write data as JSON, whole or not at all; settings as of ``json.dumps``."""
    write_atomically(path, json.dumps(data, **{"indent": 1, **settings}) + "\n")


def write_atomically(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file next to ``path``, which takes its place at the context's end."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
