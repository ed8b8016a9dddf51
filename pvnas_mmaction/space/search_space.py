"""Search spaces: a skeleton and, for each layer, a list of block specs; as config data,
see docs/reference/block_specs.md."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .checks import MAPPING, NAME, check, is_list, wrong
from .genotype import Genotype, Skeleton, parse_skeleton
from .layout import BlockSpec, Layer

_BRACES = re.compile(r"\{([^{}]*)\}")


def expand_braces(text: str) -> list[str]:
    """``"a{1,2}"`` -> ``["a1", "a2"]``; several braces give every combination."""
    parts = [part.split(",") for part in _BRACES.split(text)]
    parts[::2] = [[",".join(part)] for part in parts[::2]]  # outside of braces
    return ["".join(chosen) for chosen in itertools.product(*parts)]


@dataclass(frozen=True)
class SearchSpace:
    """A skeleton with candidates: for each layer, the block specs offered to it."""

    name: str
    skeleton: Skeleton
    candidates: tuple[tuple[str, ...], ...]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "SearchSpace":
        """Read a space from config data, or raise ValueError about what is wrong."""
        check("space", config, MAPPING)
        data = dict(config)
        name = data.pop("name", None)
        check("space: name", name, NAME)
        where = f"space {name!r}"
        stages = [dict(stage) for stage in data.get("stages") or ()]
        offered = [stage.pop("candidates", None) for stage in stages]
        skeleton = parse_skeleton(dict(data, stages=stages), where)
        candidates: list[tuple[str, ...]] = []
        for i, texts in enumerate(offered):
            layers = [layer for layer in skeleton.layers if layer.stage == i]
            place = f"{where}: stages[{i}].candidates"
            candidates.extend(_layer_candidates(texts, layers, place))
        return cls(name, skeleton, tuple(candidates))

    def to_config(self) -> dict[str, Any]:
        """Config data that this space can be read from."""
        config = dict(name=self.name, **asdict(self.skeleton))
        stages = config["stages"] = [dict(s, candidates=[]) for s in config["stages"]]
        for layer, texts in zip(self.layers, self.candidates, strict=True):
            stages[layer.stage]["candidates"].append(list(texts))
        return config

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.skeleton.layers

    @property
    def size(self) -> int:
        """Number of choices of one candidate per layer."""
        return math.prod(len(texts) for texts in self.candidates)

    def genotype(
        self, indices: Sequence[int], provenance: Mapping[str, Any] | None = None
    ) -> Genotype:
        blocks, facts = self.blocks(indices), dict(provenance or {})
        return Genotype(self.name, self.skeleton, blocks, facts)

    def blocks(self, indices: Sequence[int]) -> tuple[str, ...]:
        """Block specs of the network with these candidates."""
        pairs = zip(self.candidates, indices, strict=True)
        return tuple(texts[index] for texts, index in pairs)

    def indices_of_blocks(self, blocks: Sequence[str]) -> tuple[int, ...]:
        """Candidate index of each layer of a network of this space."""
        pairs = zip(blocks, self.candidates, strict=True)
        return tuple(texts.index(block) for block, texts in pairs)


def _layer_candidates(
    offered: Any, layers: Sequence[Layer], place: str
) -> list[tuple[str, ...]]:
    """Candidates of each layer of a stage: braces expanded, skip where it may stand."""
    per_layer = is_list(offered) and not any(isinstance(text, str) for text in offered)
    lists = offered if per_layer else [offered] * len(layers)
    if len(lists) != len(layers):
        raise wrong(place, f"{len(layers)} lists, one a layer", f"{len(lists)} lists")
    result = []
    for layer, patterns in zip(layers, lists, strict=True):
        if not is_list(patterns) or not all(isinstance(p, str) for p in patterns):
            raise wrong(place, "a list of block specs", repr(patterns))
        texts = [text for pattern in patterns for text in expand_braces(pattern)]
        for text in texts:
            BlockSpec.parse(text, place)
        kept = tuple(t for t in texts if t != "skip" or layer.keeps_shape)
        if len(set(texts)) != len(texts):
            raise wrong(place, "each block spec once", repr(texts))
        if not kept:
            expected = f"an operation, since layer {layer.index} changes its shape"
            raise wrong(place, expected, repr(texts))
        result.append(kept)
    return result
