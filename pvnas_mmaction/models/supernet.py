# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The supernet: every candidate of every layer of a search space, as a backbone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmaction.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..space.genotype import Genotype
from ..space.search_space import SearchSpace
from .blocks import build_head, build_stem, init_weights
from .checkpoint_check import check_state
from .mixed_layer import MixedLayer
from .relaxation import Choice, get_relaxation

Path = tuple[Choice, ...]


@MODELS.register_module()
class PVNASSupernet(BaseModule):
    """Supernet of a search space, the backbone of a ``Recognizer3D``.

    The path, what each layer runs, comes from outside: as an argument of
    :meth:`forward`, or by :meth:`use_path` where a recognizer stands between. Without
    one, each layer runs its most probable candidate.

    Args:
        space: The search space, as config data (``SearchSpace.from_config``).
        tau: Temperature of p = softmax(alpha / tau). Default 1.
        init_cfg: As in MMEngine's ``BaseModule``. Default None.

    Attributes:
        alphas: One parameter (K_l,) per layer, in float32, part of the state dict.

    Raises:
        ValueError: The space is malformed, or tau is not above 0. Later: a checkpoint
            of another space is loaded.
    """

    def __init__(
        self,
        space: Mapping[str, Any],
        tau: float = 1.0,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if not tau > 0:
            raise ValueError(f"tau: found {tau!r}, expected a number above 0")
        self.space = SearchSpace.from_config(space)
        self.tau = float(tau)
        self.skeleton = skeleton = self.space.skeleton
        self.stem = build_stem(skeleton)
        self.layers = nn.ModuleList(
            MixedLayer(candidates, layer)
            for candidates, layer in zip(
                self.space.candidates, self.space.layers, strict=True
            )
        )
        self.head = build_head(skeleton)
        self.alphas = nn.ParameterList(
            torch.zeros(len(candidates)) for candidates in self.space.candidates
        )
        self._path: Path | None = None

    def init_weights(self) -> None:
        """Initialise the weights, then follow ``init_cfg``; once, as in MMEngine.
        Alphas keep their value."""
        if not self.is_init:
            init_weights(self)
        super().init_weights()

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any
    ) -> None:
        check_state(
            self,
            state_dict,
            prefix,
            network=f"the supernet of space {self.space.name!r}",
            hint="use the space that the checkpoint was trained with",
        )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def probabilities(self) -> list[Tensor]:
        """p of every layer, each (K_l,), with gradient."""
        return [torch.softmax(alpha / self.tau, dim=0) for alpha in self.alphas]

    def sample(self, relaxation: str, generator: torch.Generator | None = None) -> Path:
        """Draw a path.

        Args:
            relaxation: Name of a relaxation.
            generator: Source of the noise, on the CPU.
        """
        draw = get_relaxation(relaxation)
        return tuple(draw(alpha, self.tau, generator) for alpha in self.alphas)

    def path_of(self, genotype: Genotype | Sequence[int]) -> Path:
        """The path that runs one network.

        Args:
            genotype: A genotype of this space, or the candidate index of each layer.
        """
        if isinstance(genotype, Genotype):
            genotype = self.space.indices(genotype)
        return tuple(Choice((int(index),)) for index in genotype)

    def argmax_indices(self) -> tuple[int, ...]:
        """The most probable candidate of each layer."""
        return tuple(int(alpha.detach().argmax()) for alpha in self.alphas)

    @contextmanager
    def use_path(self, path: Path) -> Iterator[None]:
        """Run ``path`` in every forward within this context."""
        previous, self._path = self._path, path
        try:
            yield
        finally:
            self._path = previous

    def forward(self, x: Tensor, path: Path | None = None) -> Tensor:
        """(N, C, T, H, W) -> (N, head_channels, T', H', W')."""
        if path is None:
            path = self._path
        if path is None:
            path = self.path_of(self.argmax_indices())
        x = self.stem(x.contiguous(memory_format=torch.channels_last_3d))
        for layer, choice in zip(self.layers, path, strict=True):
            x = layer(x, choice)
        return self.head(x)


def inherit_weights(
    state: Mapping[str, Tensor], indices: Sequence[int], prefix: str = ""
) -> dict[str, Tensor]:
    """State dict of the derived network out of a supernet's.

    Args:
        state: State dict of a supernet, or of a recognizer around one.
        indices: Candidate index of each layer.
        prefix: What the supernet's keys start with, e.g. ``"backbone."``. Keys that
            start otherwise are kept as they are.
    """
    derived: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key[len(prefix) :] if key.startswith(prefix) else ""
        part, _, rest = name.partition(".")
        if part == "alphas":
            continue
        if part == "layers":
            layer, _, rest = rest.partition(".ops.")
            index, _, rest = rest.partition(".")
            if int(index) != indices[int(layer)]:
                continue
            key = f"{prefix}layers.{layer}.{rest}"
        derived[key] = value
    return derived
