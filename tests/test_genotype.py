"""Block specs and genotype files: round trips, and what each wrong input is told."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnas_mmaction.space.genotype import (
    Genotype,
    Skeleton,
    Stage,
    Stem,
    load_genotype,
    parse_genotype,
    save_genotype,
)
from pvnas_mmaction.space.layout import ACTIVATIONS, FAMILIES, PADDINGS, BlockSpec

KERNELS = (1, 3, 5, 7, 9, 11)


@st.composite
def specs(draw: st.DrawFn) -> BlockSpec:
    """Any valid block spec but skip. Ratios have up to two decimals."""
    name = draw(st.sampled_from(sorted(FAMILIES)))
    (least, most), (low, high) = FAMILIES[name][1:]
    return BlockSpec(
        name,
        draw(st.sampled_from([k for k in KERNELS if least <= k <= most])),
        draw(st.sampled_from(KERNELS)),
        draw(st.integers(round(100 * low), round(100 * high))) / 100,
        draw(st.booleans()),
    )


@st.composite
def genotypes(draw: st.DrawFn) -> Genotype:
    """Any valid genotype: up to three stages, skip wherever it may stand."""
    widths, strides = st.integers(1, 600), st.sampled_from((1, 2))
    stage = st.builds(Stage, widths, st.integers(1, 3), strides, strides)
    skeleton = Skeleton(
        Stem(draw(widths), draw(st.sampled_from((1, 3, 7))), draw(st.none())),
        draw(st.none() | widths),
        tuple(draw(st.lists(stage, min_size=1, max_size=3))),
        draw(st.sampled_from(ACTIVATIONS)),
        draw(st.sampled_from((1e-5, 1))),
        draw(st.sampled_from(PADDINGS)),
    )
    blocks = tuple(
        "skip" if layer.keeps_shape and draw(st.booleans()) else str(draw(specs()))
        for layer in skeleton.layers
    )
    provenance = dict(macs=draw(widths), date=draw(st.text()), accuracy=None)
    return Genotype(draw(st.text(min_size=1)), skeleton, blocks, provenance)


@settings(deadline=None)
@given(specs(), genotypes())
def test_round_trips(spec: BlockSpec, genotype: Genotype) -> None:
    assert BlockSpec.parse(str(spec)) == spec
    assert parse_genotype(genotype.to_json()) == genotype
    assert parse_genotype(json.loads(genotype.to_json())) == genotype


def content() -> dict[str, Any]:
    """A genotype of two stages: layers 0 and 2 change the shape, layer 1 keeps it."""
    return {
        "format_version": 2,
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


# Path of keys into `content()`, new value, and the message after the file's name.
# A value of DELETE takes the key away.
DELETE = object()
STAGE = ("skeleton", "stages")
AS_WELL = "expected the key {!r} as well, got ["
# fmt: off
PLACES: list[tuple[tuple[str | int, ...], Any, str]] = [
    (("extra",), 1, ", unknown key: expected one of format_version, space, skeleton"),
    (("blocks",), DELETE, ": " + AS_WELL.format("blocks")),
    (("skeleton", "stem", "channels"), DELETE, "stem: " + AS_WELL.format("channels")),
    (("format_version",), 1, "expected 2, got 1; update this package"),
    (("space",), 7, ": space: expected a name, got 7"),
    (("skeleton", "stem", "channels"), 0, "stem: channels: expected a whole number f"),
    (("skeleton", "stem", "pool"), 2, "stem: pool: expected an odd number from 1 up,"),
    (("skeleton", "activation"), "gelu", "activation: expected one of relu, relu6, "),
    (STAGE, [], "skeleton: stages: expected a list of at least one stage, got []"),
    ((*STAGE, 1, "temporal_stride"), 3, "temporal_stride: expected one of 1, 2, got 3"),
    (("blocks",), ["skip"], ": number of blocks: expected 3, one for each layer of th"),
    (("blocks", 0), "skip", "[0]: expected an operation: 16 to 16 channels, stride (1"),
    (("provenance",), [1], "provenance: expected a mapping, got [1]"),
]
# fmt: on
GRAMMAR = "expected 'skip' or FAMILY_t<Kt>_k<Ks>_e<E>[_se], e.g."
SPECS = [
    ("mb_t3_k3_e4.0", GRAMMAR),
    ("mb_t3_k٣_e4", GRAMMAR),
    ("conv_t3_k3_e4", "expected a family out of mb, mb3d, ts, rb, rs"),
    ("mb_t2_k3_e4", "expected t odd and from 1 to 11 for mb"),
    ("mb_t3_k4_e4", "expected k odd and from 1 to 11 for mb"),
    ("rs_t1_k3_e1", "expected t odd and from 3 to 3 for rs"),
    ("mb_t3_k3_e0.5", "expected e from 1 to 16 for mb"),
    *((text, GRAMMAR) for text in ("mb_k3_t3_e4", "mb_t3_k3_e4\n", "skip_se", None)),
]
PLACES += [(("blocks", 1), text, f": blocks[1]: {message}") for text, message in SPECS]


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
    with pytest.raises(ValueError, match="^" + re.escape(str(path))) as info:
        load_genotype(path)
    assert message in str(info.value)


TEXT = json.dumps(content(), indent=1).encode()


def test_what_is_no_file_is_neither_read_nor_written(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    for text in (TEXT[:-1], b"[1, 2]", TEXT.replace(b"toy", b"t\xffy"), b"\x80\x04K."):
        path.write_bytes(text)
        with pytest.raises(ValueError, match="^" + re.escape(str(path))):
            load_genotype(path)
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(OSError, match=str(path)):
            load_genotype(path)


def test_crash_while_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = parse_genotype(content())
    new = Genotype("another", old.skeleton, old.blocks)
    path = tmp_path / "genotype.json"
    save_genotype(old, path)

    def crash(*_: object, **__: object) -> None:
        raise OSError("power cut")

    for step in ("replace", "write_text"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, step, crash)
            with pytest.raises(OSError, match="power cut"):
                save_genotype(new, path)
        assert load_genotype(path) == old
        assert os.listdir(tmp_path) == ["genotype.json"]
    save_genotype(new, path)
    assert load_genotype(path) == new
    assert path.stat().st_mode & 0o444 == 0o444
