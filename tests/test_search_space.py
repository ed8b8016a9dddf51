# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Search spaces: size and indices against enumeration, and what wrong ones are told."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config

from pvnas_mmaction.models import PVNASSupernet
from pvnas_mmaction.space.genotype import Genotype, parse_genotype
from pvnas_mmaction.space.search_space import SearchSpace

SPACES = Path(__file__).parent.parent / "configs" / "pvnas" / "_base_" / "spaces"
FILES = sorted(SPACES.glob("*.py"))


def toy() -> dict[str, Any]:
    """Layers 0 and 3 change the shape, 1 and 2 keep it: 2 * 3 * 3 * 1 networks."""
    return dict(
        name="toy",
        stem=dict(channels=16),
        head_channels=32,
        stages=[
            dict(
                out_channels=16,
                num_layers=3,
                spatial_stride=2,
                candidates=["mb_t1_k3_e2", "skip", "ts_t3_k3_e2"],
            ),
            dict(
                out_channels=24,
                num_layers=1,
                temporal_stride=2,
                candidates=["rb_t3_k3_e0.5", "skip"],
            ),
        ],
    )


def test_candidates_and_size_of_a_space() -> None:
    space = SearchSpace.from_config(toy())
    three = ("mb_t1_k3_e2", "skip", "ts_t3_k3_e2")
    assert space.candidates == (
        ("mb_t1_k3_e2", "ts_t3_k3_e2"),
        three,
        three,
        ("rb_t3_k3_e0.5",),
    )
    networks = list(itertools.product(*space.candidates))
    assert space.size == len(networks) == 18
    choices = itertools.product(range(2), range(3), range(3), range(1))
    genotypes = [space.genotype(indices) for indices in choices]
    assert [genotype.blocks for genotype in genotypes] == networks


def test_a_config_is_read_and_written() -> None:
    config = toy()
    space = SearchSpace.from_config(config)
    assert SearchSpace.from_config(space.to_config()) == space
    assert SearchSpace.from_config(Config(dict(space=config)).space) == space
    flow = SearchSpace.from_config(dict(config, in_channels=2))
    assert SearchSpace.from_config(flow.to_config()) == flow != space
    assert config == toy(), "the caller's config must stay as it is"
    assert space.to_config() == dict(
        config,
        in_channels=3,
        stages=[
            dict(dict(spatial_stride=1, temporal_stride=1), **stage)
            for stage in config["stages"]
        ],
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_space(path: Path) -> None:
    config = Config.fromfile(path).space.to_dict()
    space = SearchSpace.from_config(config)
    assert space.name == path.stem
    assert SearchSpace.from_config(space.to_config()) == space
    if space.name not in ("tiny", "compact"):
        assert space.size > 10**15
    if space.name == "tiny":
        assert space.size == len(list(itertools.product(*space.candidates))) == 256
    for texts in space.candidates:
        assert len(set(texts)) == len(texts) > 1
    with torch.device("meta"):  # without memory for the weights
        supernet = PVNASSupernet(config)
    assert [len(layer.ops) for layer in supernet.layers] == [
        len(texts) for texts in space.candidates
    ]


def test_the_spaces_are_shipped() -> None:
    names = {path.stem for path in FILES}
    assert names >= {"tiny", "compact", "lite0", "lite2", "mobilenet_v2", "resnet50"}


@settings(deadline=None, max_examples=30)
@given(data=st.data(), path=st.sampled_from(FILES))
def test_indices_of_a_genotype_are_its_own(data: st.DataObject, path: Path) -> None:
    space = SearchSpace.from_config(Config.fromfile(path).space)
    choice = [st.integers(0, len(texts) - 1) for texts in space.candidates]
    indices = data.draw(st.tuples(*choice))
    genotype = space.genotype(indices, dict(seed=1))
    assert space.indices(genotype) == indices
    assert space.indices(parse_genotype(genotype.to_json())) == indices
    assert genotype.provenance == {"seed": 1}


def with_stage(number: int, **changes: Any) -> dict[str, Any]:
    space = toy()
    space["stages"][number].update(changes)
    return space


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in toy().items() if name != key}


BAD_CONFIGS: list[tuple[Any, str]] = [
    (["toy"], "space: found ['toy'], expected a dict"),
    (dict(toy(), depth=3), "space 'toy': unknown key 'depth', expected a key out of"),
    (without("name"), "space None: the key 'name' is missing"),
    (without("stages"), "space 'toy': the key 'stages' is missing"),
    (dict(toy(), name=3), "space: name: found 3, expected text"),
    (
        dict(toy(), stem=dict(channels=0)),
        "space 'toy': stem_channels: found 0, expected a",
    ),
    (dict(toy(), head_channels="9"), "head_channels: found '9', expected a whole"),
    (dict(toy(), in_channels=True), "in_channels: found True, expected a whole number"),
    (dict(toy(), stages=[]), "stages: found [], expected a list of at least one stage"),
    (dict(toy(), stages=["a"]), "stages[0]: found 'a', expected a mapping"),
    (dict(toy(), stages=3), "stages: found 3, expected a list of at least one stage"),
    (with_stage(1, width=3), "stages[1], unknown key: found 'width', expected a key"),
    (with_stage(1, num_layers=0), "stages[1].num_layers: found 0, expected a whole"),
    (with_stage(0, spatial_stride=4), "stages[0].spatial_stride: found 4, expected 1"),
    (
        with_stage(0, candidates="skip"),
        "space 'toy': stages[0].candidates: found 'skip', expected a list of block",
    ),
    (
        with_stage(0, candidates=["mb_t1_k3_e2", "mb_t2_k3_e2"]),
        "space 'toy': stages[0].candidates[1]: found 'mb_t2_k3_e2', expected t odd",
    ),
    (with_stage(1, candidates=[3]), "stages[1].candidates[0]: found 3, expected a"),
    (
        with_stage(1, candidates=["rb_t3_k3_e1", "rb_t3_k3_e1"]),
        "stages[1].candidates: found ['rb_t3_k3_e1', 'rb_t3_k3_e1'], expected each",
    ),
    (
        with_stage(1, candidates=["skip"]),
        "stages[1].candidates: layer 3 changes its shape and is left without a "
        "candidate, expected at least one block spec other than 'skip'",
    ),
    (
        with_stage(0, candidates=[], spatial_stride=1),  # its layers keep their shape
        "stages[0].candidates: found none, expected at least one block spec",
    ),
]


@pytest.mark.parametrize(("config", "message"), BAD_CONFIGS)
def test_malformed_config(config: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        SearchSpace.from_config(config)


def test_missing_candidates() -> None:
    config = toy()
    del config["stages"][1]["candidates"]
    with pytest.raises(ValueError, match=r"stages\[1\].*the key 'candidates' as well"):
        SearchSpace.from_config(config)


def test_indices_of_blocks() -> None:
    space = SearchSpace.from_config(toy())
    blocks = space.genotype((0, 1, 1, 0)).blocks
    assert space.indices_of_blocks(blocks) == (0, 1, 1, 0)
    with pytest.raises(ValueError, match="found 3, expected 4, one for each layer of"):
        space.indices_of_blocks(blocks[:3])
    with pytest.raises(ValueError, match=r"blocks\[2\]: found 'mb', expected a cand"):
        space.indices_of_blocks((*blocks[:2], "mb", blocks[3]))


def test_genotype_of_another_space() -> None:
    space = SearchSpace.from_config(toy())
    skeleton, blocks = space.skeleton, ("mb_t1_k3_e2", "skip", "skip", "rb_t3_k3_e0.5")
    assert space.indices(Genotype("toy", skeleton, blocks)) == (0, 1, 1, 0)
    with pytest.raises(ValueError, match="space: found 'tiny', expected 'toy'"):
        space.indices(Genotype("tiny", skeleton, blocks))
    wider = SearchSpace.from_config(dict(toy(), head_channels=40)).skeleton
    with pytest.raises(ValueError, match=r"skeleton: found .*head_channels=40.*=32"):
        space.indices(Genotype("toy", wider, blocks))
    other = (*blocks[:3], "rb_t1_k3_e0.5")
    message = (
        "blocks[3]: found 'rb_t1_k3_e0.5', expected a candidate of space 'toy': "
        "rb_t3_k3_e0.5"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        space.indices(Genotype("toy", skeleton, other))


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ((0, 1, 1), "indices: found 3, expected 4, one for each layer of space 'toy'"),
        ((0, 3, 1, 0), "indices[1]: found 3, expected 0 to 2, a candidate of space"),
        ((-1, 1, 1, 0), "indices[0]: found -1, expected 0 to 1, a candidate of space"),
    ],
)
def test_indices_without_a_network(indices: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        SearchSpace.from_config(toy()).genotype(indices)
