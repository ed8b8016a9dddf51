# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Search spaces: a skeleton and, for each layer, a list of block specs.

A space is plain config data::

    space = dict(
        name="tiny", stem_channels=16, head_channels=64,
        stages=[dict(out_channels=16, num_layers=2, spatial_stride=2,
                     temporal_stride=1,
                     candidates=["mb_t1_k3_e2", "mb_t3_k3_e2", "skip"])])

``skip`` may stand in the list of any stage; it is offered only to those layers of the
stage that keep their shape. Nothing is built and torch is not imported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .genotype import (
    BlockSpec,
    Genotype,
    Layer,
    Skeleton,
    Stage,
    parse_stage,
    positive_int,
)


@dataclass(frozen=True)
class SearchSpace:
    """A skeleton with candidates.

    Args:
        name: Name that genotypes of the space carry.
        skeleton: What every network of the space has in common.
        stage_candidates: For each stage, the block specs offered to its layers.

    Raises:
        ValueError: A stage without candidates, a block spec that does not parse or
            stands twice, or a layer left without any candidate.
    """

    name: str
    skeleton: Skeleton
    stage_candidates: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if len(self.stage_candidates) != len(self.skeleton.stages):
            raise ValueError(
                f"space {self.name!r}: found candidates for "
                f"{len(self.stage_candidates)} stages, expected one list for each of "
                f"the {len(self.skeleton.stages)} stages"
            )
        for number, candidates in enumerate(self.stage_candidates):
            place = f"stages[{number}].candidates"
            if not candidates:
                raise ValueError(
                    f"space {self.name!r}: {place}: found none, expected at least one "
                    "block spec"
                )
            for i, text in enumerate(candidates):
                BlockSpec.parse(text, f"space {self.name!r}", f"{place}[{i}]")
            if len(set(candidates)) != len(candidates):
                raise ValueError(
                    f"space {self.name!r}: {place}: found {list(candidates)}, "
                    "expected each block spec once"
                )
        for layer, candidates in zip(self.layers, self.candidates, strict=True):
            if not candidates:
                raise ValueError(
                    f"space {self.name!r}: stages[{layer.stage}].candidates: layer "
                    f"{layer.index} changes its shape and is left without a "
                    "candidate, expected at least one block spec other than 'skip'"
                )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SearchSpace:
        """Read a space from config data.

        Raises:
            ValueError: Says the place, what was found and what was expected.
        """
        if not isinstance(config, Mapping):
            raise ValueError(f"space: found {config!r}, expected a dict")
        required = ("name", "stem_channels", "head_channels", "stages")
        known = (*required, "in_channels")
        name = config.get("name")
        where = f"space {name!r}"
        for key in config:
            if key not in known:
                raise ValueError(
                    f"{where}: unknown key {key!r}, expected a key out of "
                    f"{', '.join(known)}"
                )
        for key in required:
            if key not in config:
                raise ValueError(f"{where}: the key {key!r} is missing")
        if not isinstance(name, str) or not name:
            raise ValueError(f"space: name: found {name!r}, expected text")
        if not isinstance(config["stages"], Sequence) or not config["stages"]:
            raise ValueError(
                f"{where}: stages: found {config['stages']!r}, expected a list of at "
                "least one stage"
            )
        stages: list[Stage] = []
        candidates: list[tuple[str, ...]] = []
        for i, data in enumerate(config["stages"]):
            place = f"stages[{i}]"
            stages.append(parse_stage(data, where, place, extra=("candidates",)))
            offered = data["candidates"]
            if isinstance(offered, str) or not isinstance(offered, Sequence):
                raise ValueError(
                    f"{where}: {place}.candidates: found {offered!r}, expected a list "
                    "of block specs"
                )
            candidates.append(tuple(offered))
        skeleton = Skeleton(
            stem_channels=positive_int(config, "stem_channels", where),
            head_channels=positive_int(config, "head_channels", where),
            stages=tuple(stages),
            in_channels=positive_int(
                {"in_channels": 3, **config}, "in_channels", where
            ),
        )
        return cls(name, skeleton, tuple(candidates))

    def to_config(self) -> dict[str, Any]:
        """The config data this space is read from."""
        skeleton = asdict(self.skeleton)
        stages = [
            dict(stage, candidates=list(candidates))
            for stage, candidates in zip(
                skeleton.pop("stages"), self.stage_candidates, strict=True
            )
        ]
        return dict(name=self.name, **skeleton, stages=stages)

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.skeleton.layers

    @property
    def candidates(self) -> tuple[tuple[str, ...], ...]:
        """Block specs offered to each layer; ``skip`` only where the shape is kept."""
        return tuple(
            tuple(
                text
                for text in self.stage_candidates[layer.stage]
                if text != "skip" or layer.keeps_shape
            )
            for layer in self.layers
        )

    @property
    def size(self) -> int:
        """Number of choices of one candidate per layer."""
        return math.prod(len(candidates) for candidates in self.candidates)

    def genotype(
        self, indices: Sequence[int], provenance: Mapping[str, Any] | None = None
    ) -> Genotype:
        """The genotype that takes candidate ``indices[l]`` at layer l.

        Raises:
            ValueError: Not one index per layer, or one without a candidate.
        """
        candidates = self.candidates
        if len(indices) != len(candidates):
            raise ValueError(
                f"indices: found {len(indices)}, expected {len(candidates)}, one for "
                f"each layer of space {self.name!r}"
            )
        for layer, (offered, i) in enumerate(zip(candidates, indices, strict=True)):
            if not 0 <= i < len(offered):
                raise ValueError(
                    f"indices[{layer}]: found {i}, expected 0 to {len(offered) - 1}, a "
                    f"candidate of space {self.name!r}"
                )
        blocks = tuple(
            offered[int(i)] for offered, i in zip(candidates, indices, strict=True)
        )
        return Genotype(self.name, self.skeleton, blocks, dict(provenance or {}))

    def indices(self, genotype: Genotype) -> tuple[int, ...]:
        """Candidate index of each layer of a genotype.

        Raises:
            ValueError: The genotype belongs to another space: its name, its skeleton
                or one of its blocks differs.
        """
        if genotype.space != self.name:
            raise ValueError(
                f"genotype: space: found {genotype.space!r}, expected {self.name!r}"
            )
        if genotype.skeleton != self.skeleton:
            raise ValueError(
                f"genotype: skeleton: found {genotype.skeleton}, expected that of "
                f"space {self.name!r}: {self.skeleton}"
            )
        return self.indices_of_blocks(genotype.blocks)

    def indices_of_blocks(self, blocks: Sequence[str]) -> tuple[int, ...]:
        """Candidate index of each layer of a network that is given by its blocks.

        Raises:
            ValueError: Another number of layers, or a block that is no candidate.
        """
        candidates = self.candidates
        if len(blocks) != len(candidates):
            raise ValueError(
                f"genotype: blocks: found {len(blocks)}, expected {len(candidates)}, "
                f"one for each layer of space {self.name!r}"
            )
        indices = []
        for layer, (block, offered) in enumerate(zip(blocks, candidates, strict=True)):
            if block not in offered:
                raise ValueError(
                    f"genotype: blocks[{layer}]: found {block!r}, expected a "
                    f"candidate of space {self.name!r}: {', '.join(offered)}"
                )
            indices.append(offered.index(block))
        return tuple(indices)
