# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Genotypes: one network as a text file.

A *genotype* is one block spec per layer (:mod:`.layout` has their grammar), the
skeleton that is needed to build the network from it alone, and where it came from. Its
file is JSON::

    {"format_version": 2, "space": "tiny",
     "skeleton": {"stem": {"channels": 16}, "head_channels": 64,
                  "stages": [{"out_channels": 16, "num_layers": 2,
                              "spatial_stride": 2}]},
     "blocks": ["mb_t3_k3_e2", "skip"],
     "provenance": {"macs": 1234567, "input_shape": [3, 8, 32, 32]}}

The skeleton of ResNet-50 has no last convolution and a stem with a pool::

    {"stem": {"channels": 64, "kernel": 7, "pool": 3}, "head_channels": null, ...}

that of EfficientNet-Lite0 its own activation, epsilon and padding::

    {"stem": {"channels": 32}, "head_channels": 1280, "activation": "relu6",
     "bn_eps": 0.001, "padding": "tf_same", ...}

Everything here is inert data: no module is built and only the standard library is
imported, so that a genotype can be read where torch is not installed.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .checks import (
    ODD,
    POSITIVE,
    TEXT,
    WHOLE,
    Rule,
    is_list,
    is_number,
    one_of,
    or_none,
    read,
    wrong,
)
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

STEM_RULES: dict[str, Rule] = dict(channels=WHOLE, kernel=ODD, pool=or_none(ODD))
STAGE_RULES: dict[str, Rule] = dict(
    out_channels=WHOLE,
    num_layers=WHOLE,
    spatial_stride=one_of(1, 2),
    temporal_stride=one_of(1, 2),
)
SKELETON_RULES: dict[str, Rule] = dict(
    stem=("a mapping", lambda v: isinstance(v, Mapping)),
    head_channels=or_none(WHOLE),
    stages=("a list of at least one stage", is_list),
    activation=one_of(*ACTIVATIONS),
    bn_eps=POSITIVE,
    padding=one_of(*PADDINGS),
    in_channels=WHOLE,
)
_STRING: Rule = ("text", lambda v: isinstance(v, str))
_COUNT: Rule = ("a whole number", lambda v: type(v) is int)
PROVENANCE_RULES: dict[str, Rule] = dict(
    data=_STRING,
    config=_STRING,
    seed=_COUNT,
    code_version=_STRING,
    input_shape=(
        "[C, T, H, W], four whole numbers",
        lambda v: isinstance(v, list) and [type(size) for size in v] == [int] * 4,
    ),
    num_classes=_COUNT,
    macs=_COUNT,
    params=_COUNT,
    latency_ms=("a number", is_number),
    accuracy=or_none(("a number", is_number)),
    checkpoint=_STRING,
    cycle=_COUNT,
    step=_COUNT,
    command=_STRING,
    date=_STRING,
)


@dataclass(frozen=True)
class Stem:
    """What comes before the first layer: a 1 x kernel x kernel convolution of stride 2
    over space and, if ``pool`` is a number, a maximum over pool x pool pixels, of
    stride 2 as well."""

    channels: int
    kernel: int = 3
    pool: int | None = None


@dataclass(frozen=True)
class Stage:
    """A run of layers of one width; the strides belong to its first layer.

    Args:
        out_channels: Width of every layer of the stage.
        num_layers: Number of layers, at least 1.
        spatial_stride: 1 or 2, applied to height and width. Default 1.
        temporal_stride: 1 or 2, applied to time. Default 1.
    """

    out_channels: int
    num_layers: int
    spatial_stride: int = 1
    temporal_stride: int = 1


@dataclass(frozen=True)
class Skeleton:
    """All of a network but its blocks.

    Args:
        stem: What comes before the first layer.
        head_channels: Width of a 1x1x1 convolution after the last layer; None for no
            such convolution.
        stages: The layers.
        activation: A name out of ``layout.ACTIVATIONS``. Default ``"relu"``.
        bn_eps: Epsilon of batch normalisation. Default 1e-5.
        padding: ``"symmetric"`` or ``"tf_same"``; see ``layout.Style``. Default
            ``"symmetric"``.
        in_channels: Of the clips. Default 3.
    """

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
            for position in range(stage.num_layers):
                first = position == 0
                layers.append(
                    Layer(
                        index=len(layers),
                        stage=number,
                        in_channels=width,
                        out_channels=stage.out_channels,
                        spatial_stride=stage.spatial_stride if first else 1,
                        temporal_stride=stage.temporal_stride if first else 1,
                        style=self.style,
                    )
                )
                width = stage.out_channels
        return tuple(layers)

    @property
    def stem_layout(self) -> Layout:
        """The stem as a block: ``spatial`` and, where there is one, ``pool``."""
        k = self.stem.kernel
        conv = Conv(
            "spatial", self.in_channels, self.stem.channels, (1, k, k), (1, 2, 2)
        )
        pool = () if self.stem.pool is None else (MaxPool(self.stem.pool),)
        return Layout((conv, *pool), style=self.style)

    @property
    def head_layout(self) -> Layout:
        """The last convolution as a block: ``project``, or no part."""
        width = self.stages[-1].out_channels
        if self.head_channels is None:
            return Layout((), style=self.style)
        return Layout((Conv("project", width, self.head_channels),), style=self.style)


@dataclass(frozen=True)
class Genotype:
    """One network.

    Args:
        space: Name of the search space it belongs to.
        skeleton: The rest of the network.
        blocks: One block spec per layer of the skeleton, as text.
        provenance: Where it came from; keys out of :data:`PROVENANCE_RULES`.

    Raises:
        ValueError: Wrong number of blocks, a wrong block spec, a skip where the shape
            changes, or a provenance that a genotype file can't hold.
    """

    space: str
    skeleton: Skeleton
    blocks: tuple[str, ...]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_blocks(self.skeleton, self.blocks, "genotype")
        read(self.provenance, PROVENANCE_RULES, (), "genotype: provenance")

    @property
    def specs(self) -> tuple[BlockSpec, ...]:
        return tuple(BlockSpec.parse(block) for block in self.blocks)

    def to_json(self) -> str:
        """The genotype file's text."""
        data = {
            "format_version": FORMAT_VERSION,
            "space": self.space,
            "skeleton": asdict(self.skeleton),
            "blocks": list(self.blocks),
            "provenance": self.provenance,
        }
        return json.dumps(data, indent=2) + "\n"


def _check_blocks(skeleton: Skeleton, blocks: Iterable[object], where: str) -> None:
    blocks = tuple(blocks)
    layers = skeleton.layers
    if len(blocks) != len(layers):
        expected = f"{len(layers)} blocks, one for each layer of the skeleton"
        raise wrong(f"{where}: blocks", expected, repr(len(blocks)))
    for layer, block in zip(layers, blocks, strict=True):
        place = f"{where}: blocks[{layer.index}]"
        if BlockSpec.parse(block, place).is_skip and not layer.keeps_shape:
            expected = (
                f"an operation, since this layer goes from {layer.in_channels} to "
                f"{layer.out_channels} channels with stride {layer.stride}"
            )
            raise wrong(place, expected, repr(block))


def parse_genotype(data: str | Mapping[str, Any], where: str = "genotype") -> Genotype:
    """Read a genotype from JSON text or from the mapping that text stands for.

    Args:
        data: JSON text, or a mapping with the same keys.
        where: Name of the source, for error messages; usually the file's path. Default
            ``"genotype"``.

    Raises:
        ValueError: Says the source, the place in it, what was expected and what was
            found.
    """
    content = _read_json(data, where) if isinstance(data, str) else data
    if isinstance(content, Mapping) and "format_version" in content:
        # Before the keys, which other versions have others of.
        version = content["format_version"]
        if type(version) is not int or version != FORMAT_VERSION:
            later = type(version) is int and version > FORMAT_VERSION
            advice = (
                "update pvnas_mmaction to read it"
                if later
                else "blocks and skeletons of version 1 were others, search again"
            )
            raise wrong(
                f"{where}: format_version", str(FORMAT_VERSION), repr(version), advice
            )
    rules: dict[str, Rule] = dict(
        format_version=WHOLE,
        space=TEXT,
        skeleton=("a mapping", lambda v: isinstance(v, Mapping)),
        blocks=("a list of block specs", is_list),
        provenance=("a mapping", lambda v: isinstance(v, Mapping)),
    )
    root = read(content, rules, tuple(rules)[:4], where)
    skeleton = parse_skeleton(root["skeleton"], f"{where}: skeleton")
    _check_blocks(skeleton, root["blocks"], where)
    provenance = root.get("provenance", {})
    read(provenance, PROVENANCE_RULES, (), f"{where}: provenance")
    return Genotype(root["space"], skeleton, tuple(root["blocks"]), dict(provenance))


def parse_skeleton(data: object, where: str = "skeleton") -> Skeleton:
    """Read a skeleton from a mapping; errors as in :func:`parse_genotype`."""
    root = read(data, SKELETON_RULES, ("stem", "head_channels", "stages"), where)
    stem = read(root.pop("stem"), STEM_RULES, ("channels",), f"{where}.stem")
    stages = tuple(
        Stage(
            **read(stage, STAGE_RULES, tuple(STAGE_RULES)[:2], f"{where}.stages[{i}]")
        )
        for i, stage in enumerate(root.pop("stages"))
    )
    return Skeleton(stem=Stem(**stem), stages=stages, **root)


def _read_json(text: str, where: str) -> object:
    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                raise wrong(f"{where}: duplicate key", "each key once", repr(key))
            result[key] = value
        return result

    try:
        return json.loads(text, object_pairs_hook=without_duplicates)
    except json.JSONDecodeError as error:
        place = f"{where}: line {error.lineno}, column {error.colno}"
        raise wrong(
            place, f"JSON ({error.msg})", repr(text[error.pos : error.pos + 20])
        ) from error


def load_genotype(path: str | os.PathLike[str]) -> Genotype:
    """Read a genotype file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no genotype.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such genotype file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise wrong(
            f"{path}: byte {error.start}", "UTF-8 text", repr(error.object[error.start])
        ) from error
    return parse_genotype(text, where=str(path))


def save_genotype(genotype: Genotype, path: str | os.PathLike[str]) -> None:
    """Write a genotype file, whole or not at all."""
    write_atomically(path, genotype.to_json())


def write_atomically(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file through a temporary one next to it, so that no reader and no
    crash ever leaves half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
