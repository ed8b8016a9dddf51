# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Warm-up of a supernet that inherits from a pretrained network.

1. The *full network*, a block as wide as the donor's in each layer, is tuned alone.
2. Every other candidate inherits from the tuned blocks, so that none is behind because
   it has learnt less.
3. The loss of the full network with one block changed at a time says what each block
   is worth; the alphas start from it.
4. From then on a weights step runs the full network and a sampled path that is
   distilled from it (sandwich rule and in-place distillation, Yu and Huang, ICCV 2019).
   In the first cycle the number of layers in which the two may differ grows from one
   to all (progressive shrinking, Cai et al., ICLR 2020): features of a network all of
   whose layers are narrowed at once are of no use at first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..models.relaxation import Choice
from ..models.supernet import Choices, find_supernet
from ..space.checks import check_count, check_mapping, check_number, wrong
from ..space.search_space import SearchSpace
from . import diversity
from .derive import Indices
from .steps import losses, untracked

FIELD = "train_cfg.donor"
CLIPS = 64
FIRST_RISE = 0.1
"""Share of the tuning in which the learning rate rises."""
_SPAN = 20.0
"""Largest difference of two alphas of a layer, where D(p) alone would let it grow."""
_SAME = 1e-4
"""Relative difference of the outputs of two candidates that compute the same."""


@dataclass(frozen=True)
class DonorWarmup:
    """Settings of the warm-up, as ``train_cfg.donor`` has them.

    Args:
        full: Candidate index of each layer of the full network.
        tune_steps: Weights steps that tune it, before the cycles begin.
        sandwich: Whether later steps run the full network next to a path.
        distill: Share of a path's loss that is its distance from the full network
            (Kullback-Leibler divergence); the rest is its own loss.
        clips: Clips of the alpha half on which single blocks are judged; 0: alphas
            start uniform.
    """

    full: Indices
    tune_steps: int
    sandwich: bool
    distill: float
    clips: int

    @classmethod
    def read(
        cls, config: Mapping[str, Any] | None, space: SearchSpace
    ) -> DonorWarmup | None:
        """From ``dict(tune_steps=..., full="ts_t3", sandwich=True, distill=1.0,
        sensitivities=dict(clips=64))``; None gives None.

        ``full`` says which blocks the full network has: in each layer the first
        candidate that starts with it, or else the first one. ``sensitivities=None``:
        alphas start uniform.

        Raises:
            ValueError: A setting can't be used.
        """
        if config is None:
            return None
        check_mapping(FIELD, config)
        given = dict(full="ts_t3", sandwich=True, distill=1.0, sensitivities={})
        given |= config
        names = ["tune_steps", "full", "sandwich", "distill", "sensitivities"]
        if sorted(given) != sorted(names):
            expected = f"tune_steps and some of {', '.join(names[1:])}"
            raise wrong(FIELD, expected, ", ".join(sorted(config)) or "nothing")
        check_count(f"{FIELD}.tune_steps", given["tune_steps"], 1)
        check_number(f"{FIELD}.distill", given["distill"])
        if given["distill"] > 1:
            raise wrong(f"{FIELD}.distill", "a share up to 1", repr(given["distill"]))
        judged = given["sensitivities"]
        if judged is not None:
            field = f"{FIELD}.sensitivities"
            check_mapping(field, judged)
            if judged.keys() - {"clips"}:
                raise wrong(field, "dict(clips=...) or None", repr(dict(judged)))
            check_count(f"{field}.clips", judged.get("clips", CLIPS), 1)
        return cls(
            full_network(space, given["full"]),
            given["tune_steps"],
            bool(given["sandwich"]),
            float(given["distill"]),
            0 if judged is None else judged.get("clips", CLIPS),
        )

    def rate(self, step: int, floor: float) -> float:
        """Learning rate at a step of the tuning, as a share of the peak: a linear rise,
        then a cosine down to ``floor``."""
        rise = max(1, round(FIRST_RISE * self.tune_steps))
        if step < rise:
            return (step + 1) / (rise + 1)
        position = (step - rise) / max(1, self.tune_steps - rise)
        cosine = torch.tensor(position * torch.pi, dtype=torch.float64).cos().item()
        return floor + (1 - floor) * (1 + cosine) / 2

    def near_full(
        self, path: Choices, progress: float, generator: torch.Generator
    ) -> Choices:
        """A path with all but some layers, drawn by ``generator``, as in the full
        network: it keeps one at ``progress`` 0, and all from 1 on."""
        kept = 1 + int((len(path) - 1) * min(progress, 1.0))
        order = torch.randperm(len(path), generator=generator).tolist()
        free = set(order[:kept])
        return tuple(
            choice if layer in free else Choice((index,))
            for layer, (choice, index) in enumerate(zip(path, self.full, strict=True))
        )


def full_network(space: SearchSpace, start: str) -> Indices:
    """In each layer the first candidate whose spec starts with ``start``, or else the
    first one.

    Raises:
        ValueError: No candidate starts with it, or one that is taken has a temporal
            convolution, from which others could not inherit.
    """
    field = f"{FIELD}.full"
    fits = [[spec.startswith(start) for spec in row] for row in space.candidates]
    if not any(map(any, fits)):
        expected = "what a candidate of the space starts with"
        raise wrong(field, expected, repr(start), "'mb_t1' is the donor's own block")
    full = tuple(row.index(True) if any(row) else 0 for row in fits)
    for row, index in zip(space.candidates, full, strict=True):
        family, *rest = row[index].split("_")
        if not rest or (rest[0] != "t1" and family not in ("ts", "rs")):
            expected = "blocks without a temporal convolution, as a donor has them"
            raise wrong(field, expected, f"{row[index]!r}")
    return full


@torch.no_grad()
def block_losses(
    model: nn.Module, full: Indices, batches: Iterable[dict]
) -> tuple[float, list[list[float]]]:
    """Loss of the full network, and of those that have one block changed.

    Batch normalisation is by the batch, and nothing is dropped. What stands in front
    of a changed block runs once, and candidates of the same output count once.

    Args:
        model: The recognizer around a supernet.
        full: Candidate index of each layer of the full network.
        batches: Of training clips. The mean over clips counts.

    Returns:
        The loss of the full network, and for each layer and candidate that of the
        network with this candidate.
    """
    supernet = find_supernet(model)
    path = supernet.path_of(full)
    training = model.training
    model.eval()
    norms = [
        m
        for m in model.modules()
        if isinstance(m, _BatchNorm) and m.track_running_stats
    ]
    for module in norms:
        module.train()
    base, rows, count = 0.0, [[0.0] * n for n in supernet.counts], 0
    try:
        with untracked(norms):
            for batch in batches:
                data = model.data_preprocessor(batch, training=False)
                samples = data["data_samples"]

                def loss(x: Tensor, layer: int, samples: list = samples) -> float:
                    with supernet.use_path(path, layer):
                        found, _ = losses(model, x.unsqueeze(1), samples)
                    return float(model.parse_losses(found)[0])

                x = data["inputs"].flatten(0, 1)
                size = len(x)
                own = loss(x, 0)
                base, count = base + size * own, count + size
                x = supernet.stem(x.contiguous(memory_format=torch.channels_last_3d))
                for i, (mixed, index) in enumerate(
                    zip(supernet.layers, full, strict=True)
                ):
                    seen = [(mixed.ops[index](x), own)]
                    for j, op in enumerate(mixed.ops):
                        y = seen[0][0] if j == index else op(x)
                        value = next((v for z, v in seen if _same(y, z)), None)
                        if value is None:
                            value = loss(y, i + 1)
                            seen.append((y, value))
                        rows[i][j] += size * value
                    x = seen[0][0]
    finally:
        model.train(training)
    return base / count, [[value / count for value in row] for row in rows]


def _same(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).norm() <= _SAME * b.norm())


def alphas_from(
    base: float, rows: Sequence[Sequence[float]], target: float, tau: float = 1.0
) -> tuple[list[list[float]], float]:
    """Alphas ``-(loss - base) / temperature``, so that D(p) is ``target``.

    Args:
        base: Loss of the full network.
        rows: Loss of each layer's candidates.
        target: Wanted diversity.
        tau: Temperature of p.

    Returns:
        Alphas and temperature. All alphas are 0 where all losses are the same; D(p) is
        above ``target`` where too many candidates are equally good for it.
    """
    gains = [[base - value for value in row] for row in rows]
    span = max(max(row) - min(row) for row in gains)
    if span == 0:
        return [[0.0] * len(row) for row in gains], 1.0
    temperature = span / (_SPAN * tau)
    sharp = [[gain / temperature for gain in row] for row in gains]
    factor = diversity.shrink_to_diversity(sharp, target, tau)
    return [[alpha * factor for alpha in row] for row in sharp], temperature / factor
