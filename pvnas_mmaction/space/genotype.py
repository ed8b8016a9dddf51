# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Block specs and genotypes: text to data and back.

A *block spec* names one candidate operation::

    spec   = "skip" | FAMILY "_t" Kt "_k" Ks "_e" E [ "_se" ]
    FAMILY = "mb" | "mb3d" | "ts" | "rb"
    Kt, Ks = odd integer, 1 to 11: temporal and spatial kernel size, in frames and
             pixels
    E      = decimal number without trailing zeros: the width of the block's inside.
             At least 1 for mb, mb3d and ts (times the input width), at most 1 for rb
             (times the output width)
    "_se"  = squeeze-and-excitation before the last convolution, which projects (rb:
             expands)

``mb3d`` needs Kt of 3 or more (with Kt = 1 it would be ``mb`` under a second name) and
``ts`` has Kt = 3, the reach of a shift by one frame each way. ``skip`` is the identity.

Worked example: ``mb_t3_k5_e2.25_se`` on 24 channels expands to 56 (2.25 * 24 = 54,
rounded to a multiple of 8), runs a depthwise 1x5x5 and a depthwise 3x1x1 convolution,
squeeze-and-excitation, and projects.

A *genotype* is one block spec per layer, the skeleton that is needed to build the
network from it alone, and where it came from. Its file is JSON::

    {"format_version": 1, "space": "tiny",
     "skeleton": {"in_channels": 3, "stem_channels": 16, "head_channels": 64,
                  "stages": [{"out_channels": 16, "num_layers": 2,
                              "spatial_stride": 2, "temporal_stride": 1}]},
     "blocks": ["mb_t3_k3_e2", "skip"],
     "provenance": {"macs": 1234567, "input_shape": [3, 8, 32, 32]}}

Everything here is inert data: no module is built and only the standard library is
imported, so that a genotype can be read where torch is not installed.
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

FORMAT_VERSION = 1
FAMILIES = ("mb", "mb3d", "ts", "rb")
MAX_KERNEL = 11
CHANNEL_MULTIPLE = 8

_SPEC = re.compile(
    r"(?P<family>[a-z0-9]+)_t(?P<kt>\d+)_k(?P<ks>\d+)_e(?P<e>\d+(\.\d+)?)(?P<se>_se)?"
)

# Keys a provenance may hold, and the JSON types each may have.
PROVENANCE_KEYS: dict[str, tuple[type, ...]] = {
    "data": (str,),
    "config": (str,),
    "seed": (int,),
    "code_version": (str,),
    "input_shape": (list,),
    "num_classes": (int,),
    "macs": (int,),
    "params": (int,),
    "latency_ms": (int, float),
    "accuracy": (int, float, type(None)),
    "checkpoint": (str,),
    "cycle": (int,),
    "step": (int,),
    "command": (str,),
    "date": (str,),
}


def round_channels(channels: float) -> int:
    """Nearest multiple of 8 (half goes up), at least 8."""
    multiple = int(channels / CHANNEL_MULTIPLE + 0.5)
    return max(CHANNEL_MULTIPLE, multiple * CHANNEL_MULTIPLE)


def _fail(where: str, place: str, found: object, expected: str) -> NoReturn:
    prefix = f"{where}: " if where else ""
    raise ValueError(f"{prefix}{place}: found {found!r}, expected {expected}")


@dataclass(frozen=True)
class BlockSpec:
    """One candidate operation.

    Args:
        family: One of :data:`FAMILIES`, or ``"skip"``.
        temporal_kernel: Kt, in frames. Default 1.
        spatial_kernel: Ks, in pixels. Default 1.
        expand_ratio: E, width of the inside. Default 1.
        se: Whether squeeze-and-excitation is used. Default False.
    """

    family: str
    temporal_kernel: int = 1
    spatial_kernel: int = 1
    expand_ratio: float = 1.0
    se: bool = False

    @property
    def is_skip(self) -> bool:
        return self.family == "skip"

    @property
    def is_temporal(self) -> bool:
        """Whether the block mixes frames (a temporal kernel over 1, or a shift)."""
        return self.temporal_kernel > 1

    def hidden_channels(self, in_channels: int, out_channels: int) -> int:
        """Channels inside the block: a multiple of 8, at least 8.

        ``E * in_channels`` for the inverted bottlenecks (MobileNetV2),
        ``E * out_channels`` for ``rb`` (ResNet). ``expand_ratio`` of exactly 1 keeps
        the width as it is.
        """
        base = out_channels if self.family == "rb" else in_channels
        return (
            base if self.expand_ratio == 1 else round_channels(base * self.expand_ratio)
        )

    def __str__(self) -> str:
        if self.is_skip:
            return "skip"
        text = (
            f"{self.family}_t{self.temporal_kernel}_k{self.spatial_kernel}"
            f"_e{_format_ratio(self.expand_ratio)}"
        )
        return text + "_se" if self.se else text

    @classmethod
    def parse(cls, text: object, where: str = "", place: str = "block") -> BlockSpec:
        """Read a block spec.

        Args:
            text: The spec, e.g. ``"mb_t3_k5_e4_se"``.
            where: File name for the error message.
            place: Place inside the file for the error message.

        Raises:
            ValueError: The text is no block spec; says where, what was found and
                what was expected.
        """
        if not isinstance(text, str):
            _fail(where, place, text, "a block spec as text, e.g. 'mb_t3_k3_e4'")
        if text == "skip":
            return cls("skip")
        match = _SPEC.fullmatch(text)
        if match is None:
            _fail(
                where,
                place,
                text,
                "'skip' or FAMILY_t<Kt>_k<Ks>_e<E>[_se], e.g. 'mb_t3_k3_e4_se'",
            )
        spec = cls(
            family=match["family"],
            temporal_kernel=int(match["kt"]),
            spatial_kernel=int(match["ks"]),
            expand_ratio=float(match["e"]),
            se=match["se"] is not None,
        )
        spec._check(text, where, place)
        if str(spec) != text:
            _fail(where, place, text, f"its normal form {str(spec)!r}")
        return spec

    def _check(self, text: str, where: str, place: str) -> None:
        if self.family not in FAMILIES:
            _fail(where, place, text, f"a family out of {', '.join(FAMILIES)}")
        for letter, kernel in (("t", self.temporal_kernel), ("k", self.spatial_kernel)):
            if kernel % 2 == 0 or kernel > MAX_KERNEL:
                expected = f"{letter} odd and from 1 to {MAX_KERNEL}"
                _fail(where, place, text, expected)
        if self.family == "mb3d" and self.temporal_kernel < 3:
            _fail(where, place, text, "t of 3 or more for mb3d (t1 is 'mb_t1')")
        if self.family == "ts" and self.temporal_kernel != 3:
            _fail(where, place, text, "t3 for ts, the reach of its shift")
        if self.family == "rb" and not 0 < self.expand_ratio <= 1:
            _fail(where, place, text, "e above 0 and at most 1 for rb")
        if self.family != "rb" and not 1 <= self.expand_ratio <= 16:
            _fail(where, place, text, f"e from 1 to 16 for {self.family}")


def _format_ratio(ratio: float) -> str:
    return f"{ratio:f}".rstrip("0").rstrip(".")


@dataclass(frozen=True)
class Stage:
    """A run of layers of one width; the strides belong to its first layer.

    Args:
        out_channels: Width of every layer of the stage.
        num_layers: Number of layers, at least 1.
        spatial_stride: 1 or 2, applied to height and width.
        temporal_stride: 1 or 2, applied to time.
    """

    out_channels: int
    num_layers: int
    spatial_stride: int = 1
    temporal_stride: int = 1


@dataclass(frozen=True)
class Layer:
    """One place for a block, as a skeleton fixes it.

    Args:
        index: Position in the genotype, from 0.
        stage: Stage it belongs to, from 0.
        in_channels: Input width.
        out_channels: Output width.
        spatial_stride: Stride over height and width.
        temporal_stride: Stride over time.
    """

    index: int
    stage: int
    in_channels: int
    out_channels: int
    spatial_stride: int
    temporal_stride: int

    @property
    def stride(self) -> tuple[int, int, int]:
        return (self.temporal_stride, self.spatial_stride, self.spatial_stride)

    @property
    def keeps_shape(self) -> bool:
        """Whether output and input have the same shape, so that skip may stand."""
        return self.stride == (1, 1, 1) and self.in_channels == self.out_channels

    def out_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Output (T, H, W) for an input of (T, H, W): ceil of size over stride."""
        t, h, w = (
            -(-size // step) for size, step in zip(shape, self.stride, strict=True)
        )
        return t, h, w


@dataclass(frozen=True)
class Skeleton:
    """All of a network but its blocks.

    A 1x3x3 convolution of stride 2 over space makes ``stem_channels``; the stages
    follow; a 1x1x1 convolution makes ``head_channels``, what the head of the
    recognizer takes.
    """

    stem_channels: int
    head_channels: int
    stages: tuple[Stage, ...]
    in_channels: int = 3

    @property
    def layers(self) -> tuple[Layer, ...]:
        layers: list[Layer] = []
        width = self.stem_channels
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
                    )
                )
                width = stage.out_channels
        return tuple(layers)


@dataclass(frozen=True)
class Genotype:
    """One network.

    Args:
        space: Name of the search space it belongs to.
        skeleton: The rest of the network.
        blocks: One block spec per layer of the skeleton, as text.
        provenance: Where it came from; keys out of :data:`PROVENANCE_KEYS`.

    Raises:
        ValueError: Wrong number of blocks, a wrong block spec, a skip where the shape
            changes, or a provenance that a genotype file can't hold.
    """

    space: str
    skeleton: Skeleton
    blocks: tuple[str, ...]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_blocks(self.skeleton, self.blocks, "")
        _parse_provenance(self.provenance, "")

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
        expected = f"{len(layers)}, one for each layer of the skeleton"
        _fail(where, "number of blocks", len(blocks), expected)
    for layer, block in zip(layers, blocks, strict=True):
        place = f"blocks[{layer.index}]"
        if BlockSpec.parse(block, where, place).is_skip and not layer.keeps_shape:
            expected = (
                f"an operation: this layer goes from {layer.in_channels} to "
                f"{layer.out_channels} channels with stride {layer.stride}"
            )
            _fail(where, place, block, expected)


def parse_genotype(data: str | Mapping[str, Any], where: str = "") -> Genotype:
    """Read a genotype from JSON text or from the mapping that text stands for.

    Args:
        data: JSON text, or a mapping with the same keys.
        where: Name of the source, for error messages; usually the file's path.

    Raises:
        ValueError: Says the source, the place in it, what was found and what was
            expected.
    """
    content = _read_json(data, where) if isinstance(data, str) else data
    if isinstance(content, Mapping) and "format_version" in content:
        # Before the keys, which a later version may have more of.
        version = content["format_version"]
        if type(version) is not int or version < 1:
            _fail(where, "format_version", version, "a whole number from 1 up")
        if version > FORMAT_VERSION:
            expected = f"at most {FORMAT_VERSION}; update pvnas_mmaction to read it"
            _fail(where, "format_version", version, expected)
    known = ("format_version", "space", "skeleton", "blocks", "provenance")
    root = _mapping(content, where, "genotype", known, required=known[:4])
    if not isinstance(root["space"], str) or not root["space"]:
        _fail(where, "space", root["space"], "the name of a search space")
    skeleton = parse_skeleton(root["skeleton"], where)
    if not isinstance(root["blocks"], (list, tuple)):
        _fail(where, "blocks", root["blocks"], "a list of block specs")
    _check_blocks(skeleton, root["blocks"], where)
    provenance = _parse_provenance(root.get("provenance", {}), where)
    return Genotype(root["space"], skeleton, tuple(root["blocks"]), provenance)


def parse_skeleton(data: object, where: str = "") -> Skeleton:
    """Read a skeleton from a mapping; errors as in :func:`parse_genotype`."""
    required = ("stem_channels", "head_channels", "stages")
    root = _mapping(data, where, "skeleton", (*required, "in_channels"), required)
    stages = root["stages"]
    if not isinstance(stages, (list, tuple)) or not stages:
        _fail(where, "skeleton.stages", stages, "a list of at least one stage")
    return Skeleton(
        stem_channels=positive_int(root, "stem_channels", where, "skeleton"),
        head_channels=positive_int(root, "head_channels", where, "skeleton"),
        stages=tuple(
            parse_stage(stage, where, f"skeleton.stages[{i}]")
            for i, stage in enumerate(stages)
        ),
        in_channels=positive_int(
            {"in_channels": 3, **root}, "in_channels", where, "skeleton"
        ),
    )


def parse_stage(
    data: object, where: str, place: str, extra: tuple[str, ...] = ()
) -> Stage:
    """Read a stage from a mapping that may also hold the keys ``extra``."""
    names = tuple(f.name for f in fields(Stage))
    root = _mapping(data, where, place, names + extra, required=names[:2] + extra)
    values = {"spatial_stride": 1, "temporal_stride": 1, **root}
    for name in names[2:]:
        if type(values[name]) is not int or values[name] not in (1, 2):
            _fail(where, f"{place}.{name}", values[name], "1 or 2")
    return Stage(
        positive_int(values, "out_channels", where, place),
        positive_int(values, "num_layers", where, place),
        values["spatial_stride"],
        values["temporal_stride"],
    )


def positive_int(
    data: Mapping[str, Any], key: str, where: str = "", place: str = ""
) -> int:
    """``data[key]`` if it is a whole number from 1 up; else a ValueError."""
    value = data[key]
    if type(value) is not int or value < 1:
        name = f"{place}.{key}" if place else key
        _fail(where, name, value, "a whole number from 1 up")
    return value


def _parse_provenance(data: object, where: str) -> dict[str, Any]:
    root = _mapping(data, where, "provenance", tuple(PROVENANCE_KEYS), ())
    for key, value in root.items():
        allowed = PROVENANCE_KEYS[key]
        if not isinstance(value, allowed) or isinstance(value, bool):
            names = " or ".join(kind.__name__ for kind in allowed)
            _fail(where, f"provenance.{key}", value, names)
        if isinstance(value, float) and not math.isfinite(value):
            _fail(where, f"provenance.{key}", value, "a finite number")
    shape = root.get("input_shape", [1] * 4)
    if [type(size) for size in shape] != [int] * 4:
        expected = "[C, T, H, W], four whole numbers"
        _fail(where, "provenance.input_shape", shape, expected)
    return dict(root)


def _mapping(
    data: object,
    where: str,
    place: str,
    known: tuple[str, ...],
    required: tuple[str, ...],
) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        _fail(where, place, data, f"a mapping with the keys {', '.join(known)}")
    for key in data:
        if key not in known:
            expected = f"a key out of {', '.join(known)}"
            _fail(where, f"{place}, unknown key", key, expected)
    for key in required:
        if key not in data:
            _fail(where, place, sorted(data), f"the key {key!r} as well")
    return data


def _read_json(text: str, where: str) -> object:
    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                _fail(where, "duplicate key", key, "each key once")
            result[key] = value
        return result

    try:
        return json.loads(text, object_pairs_hook=without_duplicates)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        found = text[error.pos : error.pos + 20]
        _fail(where, place, found, f"JSON ({error.msg})")


def load_genotype(path: str | os.PathLike[str]) -> Genotype:
    """Read a genotype file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no genotype; names file, place, found and expected.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such genotype file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        _fail(str(path), f"byte {error.start}", error.object[error.start], "UTF-8 text")
    return parse_genotype(text, where=str(path))


def save_genotype(genotype: Genotype, path: str | os.PathLike[str]) -> None:
    """Write a genotype file, whole or not at all."""
    write_atomically(path, genotype.to_json())


def write_atomically(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file through a temporary one beside it, so that no reader and no
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
