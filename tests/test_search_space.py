"""Search spaces: size and indices against enumeration, and what wrong ones are told."""

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
from pvnas_mmaction.space.genotype import parse_genotype
from pvnas_mmaction.space.search_space import SearchSpace, expand_braces

SPACES = Path(__file__).parent.parent / "configs" / "pvnas" / "_base_" / "spaces"
FILES = sorted(SPACES.glob("*.py"))
THREE = ["mb_t1_k3_e2", "skip", "ts_t3_k3_e2"]


def toy() -> dict[str, Any]:
    """Layers 0 and 3 change the shape, 1 and 2 keep it: 2 * 3 * 3 * 1 networks."""
    first = dict(out_channels=16, num_layers=3, spatial_stride=2, candidates=THREE)
    last = ["rb_t3_k3_e0.5", "skip"]
    second = dict(out_channels=24, num_layers=1, temporal_stride=2, candidates=last)
    return dict(
        name="toy", stem=dict(channels=16), head_channels=32, stages=[first, second]
    )


def with_stage(number: int, **changes: Any) -> dict[str, Any]:
    space = toy()
    space["stages"][number].update(changes)
    return space


def test_candidates_and_size_of_a_space() -> None:
    space = SearchSpace.from_config(toy())
    first, last = ("mb_t1_k3_e2", "ts_t3_k3_e2"), ("rb_t3_k3_e0.5",)
    assert space.candidates == (first, tuple(THREE), tuple(THREE), last)
    networks = list(itertools.product(*space.candidates))
    assert space.size == len(networks) == 18
    choices = itertools.product(range(2), range(3), range(3), range(1))
    assert [space.genotype(indices).blocks for indices in choices] == networks


def test_a_config_is_read_and_written() -> None:
    assert expand_braces("{a,b}_{1,2}c{,_se}")[:3] == ["a_1c", "a_1c_se", "a_2c"]
    config = toy()
    space = SearchSpace.from_config(config)
    assert SearchSpace.from_config(space.to_config()) == space
    assert SearchSpace.from_config(Config(dict(space=config)).space) == space
    assert config == toy(), "the caller's config must stay as it is"
    for change in (
        dict(in_channels=2),
        dict(head_channels=None),
        dict(stem=dict(channels=16, kernel=7, pool=3)),
        dict(activation="silu"),
        dict(bn_eps=1e-3),
        dict(padding="tf_same"),
    ):
        other = SearchSpace.from_config(dict(config, **change))
        assert SearchSpace.from_config(other.to_config()) == other != space


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


@settings(deadline=None, max_examples=30)
@given(data=st.data(), path=st.sampled_from(FILES))
def test_indices_of_a_genotype_are_its_own(data: st.DataObject, path: Path) -> None:
    space = SearchSpace.from_config(Config.fromfile(path).space)
    choice = [st.integers(0, len(texts) - 1) for texts in space.candidates]
    indices = data.draw(st.tuples(*choice))
    genotype = space.genotype(indices, dict(seed=1))
    again = parse_genotype(genotype.to_json())
    assert space.indices_of_blocks(again.blocks) == indices
    assert genotype.provenance == {"seed": 1}


LISTS = "expected a list of block specs, got "
# fmt: off
BAD_CONFIGS: list[tuple[Any, str]] = [
    (["toy"], "space: expected a mapping, got ['toy']"),
    (dict(toy(), depth=3), "space 'toy', unknown key: expected one of stem, head_chan"),
    ({k: v for k, v in toy().items() if k != "stem"},
     "space 'toy': expected the key 'stem' as well"),
    (dict(toy(), name=3), "space: name: expected a name, got 3"),
    (dict(toy(), stages=[]), "space 'toy': stages: expected a list of at least one st"),
    (with_stage(1, width=3), "'toy': stages[1], unknown key: expected one of out_chan"),
    (with_stage(0, candidates="skip"), "'toy': stages[0].candidates: " + LISTS + "'sk"),
    (with_stage(0, candidates=[["skip"]]), "candidates: expected 3 lists, one a layer"),
    (with_stage(0, candidates=["mb_t{1,2}_k3_e2"]), "candidates: expected t odd and"),
    (with_stage(0, candidates=["mb_t1_k3_e2", "mb_t{3,1}_k3_e2"]), "each block spec o"),
    (with_stage(1, candidates=["skip"]), "expected an operation, since layer 3 change"),
]
# fmt: on


@pytest.mark.parametrize(("config", "message"), BAD_CONFIGS)
def test_malformed_config(config: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        SearchSpace.from_config(config)
