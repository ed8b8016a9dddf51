"""Start of a search from a pretrained network, see docs/how_to/pretrained.md."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmaction.models.heads import BaseHead
from torch import Tensor, nn

from ..models.blocks import batch_norms
from ..models.supernet import Choices, find_supernet
from ..space.checks import COUNT, read, wrong
from ..space.cost_table import CostTable, Rows
from ..space.search_space import SearchSpace
from . import diversity
from .derive import Indices
from .steps import loss_of, switched_off

FIELD = "train_cfg.donor"
CLIPS = 64
NEAR = 1 / 4
"""Share of the layers in which a path may differ from the archive's first network."""
_SPAN = 20.0
"""Largest difference of two alphas of a layer, where D(p) alone would let it grow."""
_SAME = 1e-4
"""Relative difference of the outputs of two candidates that compute the same."""


@dataclass(frozen=True)
class DonorWarmup:
    """Settings of the start: candidate indices of the full network, weights steps that
    tune it, and clips of the alpha half on which single blocks are judged."""

    full: Indices
    tune_steps: int
    clips: int = CLIPS

    @classmethod
    def read(
        cls, config: Mapping[str, Any] | None, space: SearchSpace, head: nn.Module
    ) -> "DonorWarmup | None":
        """From ``train_cfg.donor``, or a ValueError, as for a head whose scores can't
        be had; None gives None."""
        if config is None:
            return None
        rules = dict(tune_steps=COUNT, clips=COUNT)
        settings = read(config, rules, ["tune_steps"], FIELD)
        if type(head).loss is not BaseHead.loss:
            expected = "a head with the loss of BaseHead, such as I3DHead"
            raise wrong("model.cls_head.type", expected, type(head).__name__)
        return cls(full_network(space), **settings)


def near(path: Choices, network: Choices, generator: torch.Generator) -> Choices:
    """``path`` in a share :data:`NEAR` of its layers, ``network`` in all others."""
    count = max(1, round(NEAR * len(path)))
    free = torch.randperm(len(path), generator=generator)[:count].tolist()
    return tuple((path if i in free else network)[i] for i in range(len(path)))


def full_network(space: SearchSpace) -> Indices:
    """In each layer the first candidate with a shift, else the first one; a ValueError
    if that has a temporal convolution, from which others could not inherit."""
    full = []
    for row in space.candidates:
        shifts = (i for i, text in enumerate(row) if text.startswith(("ts_", "rs_")))
        full.append(next(shifts, 0))
        if not re.match("ts_|rs_|.+_t1_", row[full[-1]]):
            expected = "first candidates without a temporal convolution, as a donor's"
            raise wrong("model.backbone.space", expected, f"{row[0]!r}", FIELD)
    return tuple(full)


@torch.no_grad()
def block_losses(
    model: nn.Module, full: Indices, batches: Iterable[dict]
) -> tuple[float, list[list[float]]]:
    """Mean loss of the full network, and for each layer and candidate that of the
    network with this candidate. Batch normalisation is by the batch, nothing is
    dropped; what stands in front of a changed block runs once."""
    supernet = find_supernet(model)
    path = supernet.path_of(full)
    training = model.training
    model.eval()
    norms = [m.train() for m in batch_norms(model) if m.track_running_stats]
    base, rows, count = 0.0, [[0.0] * n for n in supernet.counts], 0
    try:
        with switched_off(norms, "track_running_stats"):
            for batch in batches:
                data = model.data_preprocessor(batch, training=False)
                samples = data["data_samples"]

                def loss(x: Tensor, layer: int, samples: list = samples) -> float:
                    with supernet.use_path(path, layer):
                        return float(loss_of(model, x.unsqueeze(1), samples)[0])

                x = data["inputs"].flatten(0, 1)
                size = len(x)
                own = loss(x, 0)
                base, count = base + size * own, count + size
                x = supernet.stem(x.contiguous(memory_format=torch.channels_last_3d))
                pairs = zip(supernet.layers, full, strict=True)
                for i, (mixed, index) in enumerate(pairs):
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


def priced(rows: Rows, table: CostTable, price: float) -> list[list[float]]:
    """Loss of each block plus the price of its cost."""
    return [
        [loss + price * cost for loss, cost in zip(*pair, strict=True)]
        for pair in zip(rows, table.per_layer, strict=True)
    ]


def price_of(rows: Rows, table: CostTable, limit: float) -> float:
    """Lowest price of a unit of cost at which the blocks of least loss plus price keep
    a limit (the multiplier of the budget's Lagrangian)."""

    def keeps(price: float) -> bool:
        sums = priced(rows, table, price)
        return table.cost([row.index(min(row)) for row in sums]) <= limit

    low, high = 0.0, 1 / limit
    if keeps(low):
        return low
    while not keeps(high):
        high *= 2
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return high


def alphas_from(rows: Rows, target: float) -> tuple[list[list[float]], float]:
    """Alphas ``-loss / temperature`` about the mean of their layer, and the temperature
    at which D(p) is ``target``, or above where too many losses are the same."""
    span = max(max(row) - min(row) for row in rows)
    if span == 0:
        return [[0.0] * len(row) for row in rows], 1.0
    temperature = span / _SPAN
    sharp = [[-value / temperature for value in row] for row in rows]
    factor = diversity.shrink_to_diversity(sharp, target)
    centred = [[a - sum(row) / len(row) for a in row] for row in sharp]
    return diversity.shrink(centred, factor), temperature / factor
