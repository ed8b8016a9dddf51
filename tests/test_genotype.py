# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Block specs and genotype files: round trips, and what each wrong input is told."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pvnas_mmaction.space.genotype import (
    FAMILIES,
    PROVENANCE_KEYS,
    BlockSpec,
    Genotype,
    Skeleton,
    Stage,
    load_genotype,
    parse_genotype,
    round_channels,
    save_genotype,
)

KERNELS = (1, 3, 5, 7, 9, 11)


@st.composite
def specs(draw: st.DrawFn) -> BlockSpec:
    """Any valid block spec but skip. Ratios have up to two decimals."""
    family = draw(st.sampled_from(FAMILIES))
    temporal = {"ts": (3,), "mb3d": KERNELS[1:]}.get(family, KERNELS)
    low, high = (1, 100) if family == "rb" else (100, 1600)
    return BlockSpec(
        family,
        draw(st.sampled_from(temporal)),
        draw(st.sampled_from(KERNELS)),
        draw(st.integers(low, high)) / 100,
        draw(st.booleans()),
    )


PROVENANCE_VALUES = {
    str: st.text(max_size=20),
    int: st.integers(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    type(None): st.none(),
    list: st.lists(st.integers(1, 512), min_size=4, max_size=4),
}


@st.composite
def genotypes(draw: st.DrawFn) -> Genotype:
    """Any valid genotype: up to three stages, skip wherever it may stand."""
    widths, strides = st.integers(1, 600), st.sampled_from((1, 2))
    stage = st.builds(Stage, widths, st.integers(1, 3), strides, strides)
    skeleton = Skeleton(
        draw(widths),
        draw(widths),
        tuple(draw(st.lists(stage, min_size=1, max_size=3))),
        draw(st.integers(1, 4)),
    )
    blocks = tuple(
        "skip" if layer.keeps_shape and draw(st.booleans()) else str(draw(specs()))
        for layer in skeleton.layers
    )
    optional = {
        key: st.one_of(*(PROVENANCE_VALUES[kind] for kind in kinds))
        for key, kinds in PROVENANCE_KEYS.items()
    }
    provenance = draw(st.fixed_dictionaries({}, optional=optional))
    return Genotype(draw(st.text(min_size=1)), skeleton, blocks, provenance)


@settings(deadline=None)
@given(specs())
def test_spec_round_trip(spec: BlockSpec) -> None:
    assert BlockSpec.parse(str(spec)) == spec


def test_spec_reads_each_part() -> None:
    spec = BlockSpec.parse("mb3d_t5_k7_e2.25_se")
    assert spec == BlockSpec("mb3d", 5, 7, 2.25, True)
    assert spec.is_temporal and not spec.is_skip
    assert not BlockSpec.parse("mb_t1_k3_e4").is_temporal
    assert BlockSpec.parse("skip").is_skip and str(BlockSpec.parse("skip")) == "skip"


@pytest.mark.parametrize(
    ("spec", "hidden"),
    # 2.25 * 24 = 54 -> 56; half goes up: 60 -> 64; never below 8; E = 1 keeps 20;
    # rb counts from the output width: 0.25 * 40 = 10 -> 8.
    [("mb_t3_k5_e2.25", 56), ("ts_t3_k3_e2.5", 64), ("rb_t1_k3_e0.25", 8)],
)
def test_hidden_channels(spec: str, hidden: int) -> None:
    assert BlockSpec.parse(spec).hidden_channels(24, 40) == hidden
    assert BlockSpec.parse("mb_t1_k3_e1").hidden_channels(20, 40) == 20
    assert [round_channels(c) for c in (0.1, 11.9, 12, 20)] == [8, 8, 16, 24]


@settings(deadline=None, max_examples=40)
@given(genotypes())
def test_genotype_round_trip(genotype: Genotype) -> None:
    assert parse_genotype(genotype.to_json()) == genotype
    assert parse_genotype(json.loads(genotype.to_json())) == genotype


@settings(
    deadline=None,
    max_examples=10,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(genotype=genotypes())
def test_file_round_trip(genotype: Genotype, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "genotype.json"
    save_genotype(genotype, path)
    assert load_genotype(path) == genotype
    assert os.listdir(path.parent) == ["genotype.json"]


def content() -> dict[str, Any]:
    """A genotype of two stages: layers 0 and 2 change the shape, layer 1 keeps it."""
    return {
        "format_version": 1,
        "space": "toy",
        "skeleton": {
            "in_channels": 3,
            "stem": {"channels": 16},
            "head_channels": 64,
            "stages": [
                {"out_channels": 16, "num_layers": 2, "spatial_stride": 2},
                {"out_channels": 24, "num_layers": 1, "temporal_stride": 2},
            ],
        },
        "blocks": ["mb_t3_k3_e2", "skip", "rb_t1_k3_e0.25"],
        "provenance": {"macs": 12, "input_shape": [3, 8, 32, 32], "accuracy": None},
    }


def test_layers_of_the_skeleton() -> None:
    layers = parse_genotype(content()).skeleton.layers
    assert [(x.in_channels, x.out_channels, x.stride) for x in layers] == [
        (16, 16, (1, 2, 2)),
        (16, 16, (1, 1, 1)),
        (16, 24, (2, 1, 1)),
    ]
    assert [layer.keeps_shape for layer in layers] == [False, True, False]
    assert layers[0].out_shape((5, 17, 9)) == (5, 9, 5)
    assert layers[2].out_shape((5, 17, 9)) == (3, 17, 9)


# Path of keys into `content()`, new value, and the message after the file's name.
# A value of DELETE takes the key away.
DELETE = object()
STAGE_KEYS = "out_channels, num_layers, spatial_stride, temporal_stride"
PLACES: list[tuple[tuple[str | int, ...], Any, str]] = [
    (
        ("extra",),
        1,
        "genotype, unknown key: found 'extra', expected a key out of format_version, "
        "space, skeleton, blocks, provenance",
    ),
    (
        ("skeleton", "extra"),
        1,
        "skeleton, unknown key: found 'extra', expected a key out of stem_channels, "
        "head_channels, stages, in_channels",
    ),
    (
        ("skeleton", "stages", 1, "extra"),
        1,
        "skeleton.stages[1], unknown key: found 'extra', expected a key out of "
        + STAGE_KEYS,
    ),
    (
        ("provenance", "extra"),
        1,
        "provenance, unknown key: found 'extra', expected a key out of data, config",
    ),
    (("blocks",), DELETE, "expected the key 'blocks' as well"),
    (("format_version",), DELETE, "expected the key 'format_version' as well"),
    (("skeleton", "head_channels"), DELETE, "expected the key 'head_channels' as well"),
    (
        ("skeleton", "stages", 0, "num_layers"),
        DELETE,
        "skeleton.stages[0]: found ['out_channels', 'spatial_stride'], expected the "
        "key 'num_layers' as well",
    ),
    (
        ("format_version",),
        2,
        "format_version: found 2, expected at most 1; update pvnas_mmaction to read it",
    ),
    (("format_version",), "1", "format_version: found '1', expected a whole number"),
    (("format_version",), True, "format_version: found True, expected a whole number"),
    (("space",), 7, "space: found 7, expected the name of a search space"),
    (("space",), "", "space: found '', expected the name of a search space"),
    (("skeleton",), [], "skeleton: found [], expected a mapping with the keys stem_"),
    (
        ("skeleton", "stem_channels"),
        0,
        "skeleton.stem_channels: found 0, expected a whole number from 1 up",
    ),
    (
        ("skeleton", "head_channels"),
        64.0,
        "skeleton.head_channels: found 64.0, expected a whole number from 1 up",
    ),
    (
        ("skeleton", "in_channels"),
        "3",
        "skeleton.in_channels: found '3', expected a whole number from 1 up",
    ),
    (
        ("skeleton", "stages"),
        [],
        "skeleton.stages: found [], expected a list of at least one stage",
    ),
    (
        ("skeleton", "stages", 0),
        16,
        "skeleton.stages[0]: found 16, expected a mapping with the keys " + STAGE_KEYS,
    ),
    (
        ("skeleton", "stages", 0, "out_channels"),
        True,
        "skeleton.stages[0].out_channels: found True, expected a whole number from 1",
    ),
    (
        ("skeleton", "stages", 0, "num_layers"),
        -1,
        "skeleton.stages[0].num_layers: found -1, expected a whole number from 1 up",
    ),
    (
        ("skeleton", "stages", 1, "temporal_stride"),
        3,
        "skeleton.stages[1].temporal_stride: found 3, expected 1 or 2",
    ),
    (
        ("skeleton", "stages", 0, "spatial_stride"),
        True,
        "skeleton.stages[0].spatial_stride: found True, expected 1 or 2",
    ),
    (("blocks",), "skip", "blocks: found 'skip', expected a list of block specs"),
    (
        ("blocks",),
        ["mb_t3_k3_e2", "skip"],
        "number of blocks: found 2, expected 3, one for each layer of the skeleton",
    ),
    (
        ("blocks", 0),
        "skip",
        "blocks[0]: found 'skip', expected an operation: this layer goes from 16 to 16 "
        "channels with stride (1, 2, 2)",
    ),
    (("blocks", 1), None, "blocks[1]: found None, expected a block spec as text"),
    (
        ("provenance",),
        "me",
        "provenance: found 'me', expected a mapping with the keys data, config",
    ),
    (("provenance", "macs"), 1.5, "provenance.macs: found 1.5, expected int"),
    (("provenance", "seed"), False, "provenance.seed: found False, expected int"),
    (("provenance", "date"), 2020, "provenance.date: found 2020, expected str"),
    (
        ("provenance", "accuracy"),
        "0.9",
        "provenance.accuracy: found '0.9', expected int or float or NoneType",
    ),
    (
        ("provenance", "latency_ms"),
        math.inf,
        "provenance.latency_ms: found inf, expected a finite number",
    ),
    (
        ("provenance", "input_shape"),
        [8, 32, 32],
        "provenance.input_shape: found [8, 32, 32], expected [C, T, H, W], four",
    ),
]
NORMAL_FORM = "found {!r}, expected its normal form {!r}"
GRAMMAR = "found {!r}, expected 'skip' or FAMILY_t<Kt>_k<Ks>_e<E>[_se]"
SPECS = [
    ("mb_t3_k3_e4.0", NORMAL_FORM.format("mb_t3_k3_e4.0", "mb_t3_k3_e4")),
    ("mb_t03_k3_e4", NORMAL_FORM.format("mb_t03_k3_e4", "mb_t3_k3_e4")),
    ("mb_t3_k٣_e4", NORMAL_FORM.format("mb_t3_k٣_e4", "mb_t3_k3_e4")),
    ("conv_t3_k3_e4", "found 'conv_t3_k3_e4', expected a family out of mb, mb3d, ts"),
    ("mb_t2_k3_e4", "found 'mb_t2_k3_e4', expected t odd and from 1 to 11"),
    ("mb_t3_k4_e4", "found 'mb_t3_k4_e4', expected k odd and from 1 to 11"),
    ("mb_t13_k3_e4", "found 'mb_t13_k3_e4', expected t odd and from 1 to 11"),
    ("mb3d_t1_k3_e4", "found 'mb3d_t1_k3_e4', expected t of 3 or more for mb3d"),
    ("ts_t5_k3_e4", "found 'ts_t5_k3_e4', expected t3 for ts, the reach of its shift"),
    ("rb_t3_k3_e2", "found 'rb_t3_k3_e2', expected e above 0 and at most 1 for rb"),
    ("rb_t3_k3_e0", "found 'rb_t3_k3_e0', expected e above 0 and at most 1 for rb"),
    ("mb_t3_k3_e0.5", "found 'mb_t3_k3_e0.5', expected e from 1 to 16 for mb"),
    ("mb_t3_k3_e17", "found 'mb_t3_k3_e17', expected e from 1 to 16 for mb"),
    ("mb_k3_t3_e4", GRAMMAR.format("mb_k3_t3_e4")),
    ("mb_t3_k3_e4_cbam", GRAMMAR.format("mb_t3_k3_e4_cbam")),
    ("mb_t3_k3_e4\n", GRAMMAR.format("mb_t3_k3_e4\n")),
    ("mb_t3_k3_e-4", GRAMMAR.format("mb_t3_k3_e-4")),
    ("skip_se", GRAMMAR.format("skip_se")),
    ("", GRAMMAR.format("")),
]
PLACES += [(("blocks", 1), text, f"blocks[1]: {message}") for text, message in SPECS]


def test_a_later_version_is_named_whatever_keys_it_has() -> None:
    data = content() | dict(format_version=2, ema_decay=0.9)
    with pytest.raises(ValueError, match="at most 1; update pvnas_mmaction to read it"):
        parse_genotype(data)


@pytest.mark.parametrize(("keys", "value", "message"), PLACES)
def test_malformed_content(
    keys: tuple[str | int, ...], value: Any, message: str, tmp_path: Path
) -> None:
    data = content()
    *parents, last = keys
    inner: Any = data
    for key in parents:
        inner = inner[key]
    if value is DELETE:
        del inner[last]
    else:
        inner[last] = value
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="^" + re.escape(f"{path}: ")) as info:
        load_genotype(path)
    assert message in str(info.value)


TEXT = json.dumps(content(), indent=1).encode()
FILES: list[tuple[bytes, str]] = [
    (b"", "line 1, column 1: found '', expected JSON (Expecting value)"),
    (TEXT[:-1], "expected JSON (Expecting ',' delimiter)"),
    (
        TEXT.replace(b'"toy",', b'"toy"'),
        """line 4, column 2: found '"skeleton": {\\n  "in_', expected JSON""",
    ),
    (b"[1, 2]", "genotype: found [1, 2], expected a mapping with the keys format_"),
    (b"12", "genotype: found 12, expected a mapping with the keys format_version"),
    (
        TEXT.replace(b'"space"', b'"space": "a", "space"'),
        "duplicate key: found 'space', expected each key once",
    ),
    (
        TEXT.replace(b'"out_channels": 24', b'"out_channels": 24, "out_channels": 8'),
        "duplicate key: found 'out_channels', expected each key once",
    ),
    (TEXT.replace(b"toy", b"t\xffy"), ": found 255, expected UTF-8 text"),
    (TEXT.replace(b"null", b"NaN"), "provenance.accuracy: found nan, expected a fin"),
    (b"\x80\x04K\x01.", "byte 0: found 128, expected UTF-8 text"),  # a pickle
]


@pytest.mark.parametrize(("text", "message"), FILES)
def test_malformed_file(text: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(text)
    with pytest.raises(ValueError, match="^" + re.escape(f"{path}: ")) as info:
        load_genotype(path)
    assert message in str(info.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"{path}: no such genotype file"):
            load_genotype(path)


def test_what_a_file_can_not_hold_is_no_genotype() -> None:
    good = parse_genotype(content())
    with pytest.raises(ValueError, match=r"provenance.input_shape: found \(3, 8"):
        Genotype(
            good.space, good.skeleton, good.blocks, {"input_shape": (3, 8, 32, 32)}
        )
    with pytest.raises(ValueError, match="number of blocks: found 1, expected 3"):
        Genotype(good.space, good.skeleton, good.blocks[:1])


def test_crash_while_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = parse_genotype(content())
    new = Genotype("another", old.skeleton, old.blocks)
    path = tmp_path / "genotype.json"
    save_genotype(old, path)

    def crash(*args: object) -> None:
        raise OSError("power cut")

    for step in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, crash)
            with pytest.raises(OSError, match="power cut"):
                save_genotype(new, path)
        assert load_genotype(path) == old
        assert os.listdir(tmp_path) == ["genotype.json"]
    save_genotype(new, path)
    assert load_genotype(path) == new
    assert path.stat().st_mode & 0o444 == 0o444


def test_reads_genotypes_and_spaces_without_torch() -> None:
    """As on a machine that has neither torch nor MMAction2."""
    names = ["genotype", "search_space", "cost", "diversity", "derive"]
    code = (
        "import sys\n"
        "absent = ('torch', 'mmengine', 'mmcv', 'mmaction')\n"
        "sys.modules.update(dict.fromkeys(absent))\n"
        + "".join(f"import pvnas_mmaction.{name}\n" for name in names)
        + "from pvnas_mmaction.space.genotype import parse_genotype\n"
        "print(parse_genotype(sys.stdin.read()).blocks[2])\n"
        "loaded = {name.split('.')[0] for name, m in sys.modules.items() if m}\n"
        "assert not loaded.intersection(absent), loaded\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=TEXT, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().strip() == "rb_t1_k3_e0.25"
