"""The cost term of the search loss.

With E = fixed + sum_l sum_o p_l[o] c_l[o], the expected cost, the loss of an alpha step
is CE + lambda * |log(E / budget)| (FBNet, Wu et al., 2019; ProxylessNAS, Cai et al.,
2019). Lambda follows the error e = |log(E / budget)|. After an alpha step

- e within the tolerance: lambda shrinks, by half of RATE;
- e above it, and not falling by a share of 1 / HORIZON per step: lambda grows by RATE;
- e above it and falling: lambda stays; if it grew meanwhile it would drown CE.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..models.supernet import padded
from ..space.checks import NAME, POSITIVE, one_of, or_none, read, wrong
from ..space.cost_table import KINDS, CostTable
from .derive import Budget

HORIZON = 30
"""Steps in which an error should fall to 1/e."""
SMOOTHING = 0.8
"""Share of the past in the error's smoothed change per step."""
FIRST, LOWEST, HIGHEST = 0.1, 1e-3, 100.0
"""First lambda and its bounds, so that it finds back in time."""
RATE = 0.1
"""Largest relative change of lambda per alpha step."""
TOLERANCE = 0.02
"""|log(E / budget)| that is tolerated: two percent."""
_STATE = ("weight", "error", "trend")


def build_penalty(
    cost: Mapping[str, Any] | None, tables: Mapping[str, CostTable]
) -> "CostPenalty | None":
    """The cost term that ``train_cfg.cost`` asks for, or a ValueError: ``kind`` and
    ``budget``, in the unit of the kind; for latency also ``table``, the file that
    ``tools/build_latency_table.py`` wrote. None: no budget."""
    if cost is None:
        return None
    rules = dict(kind=one_of(*KINDS), budget=POSITIVE, table=or_none(NAME))
    settings = read(cost, rules, ("kind", "budget"), "train_cfg.cost")
    kind, table = settings["kind"], settings.get("table")
    if (table is None) == (kind == "latency"):
        expected = "a latency table for kind 'latency', and none for other kinds"
        raise wrong("train_cfg.cost: table", expected, repr(table))
    return CostPenalty(Budget(tables[kind], settings["budget"]))


class CostPenalty:
    """lambda * |log(E / budget)| with a lambda, ``weight``, that follows the error."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.weight, self.trend = FIRST, 0.0
        self.error: float | None = None
        self._costs = padded(budget.table.per_layer)

    def expected(self, probabilities: Tensor) -> Tensor:
        """E[cost], a scalar with gradient, for p (L, K), 0 without a candidate."""
        self._costs = self._costs.to(probabilities.device)
        return (probabilities.double() * self._costs).sum() + self.budget.table.fixed

    def loss(self, probabilities: Tensor) -> Tensor:
        error = torch.log(self.expected(probabilities) / self.budget.limit).abs()
        return self.weight * error.float()

    def update(self, expected: float) -> float:
        """Adapt lambda to an expected cost; gives the new lambda."""
        error = abs(math.log(expected / self.budget.limit))
        if self.error is not None:
            change = error - self.error
            self.trend = SMOOTHING * self.trend + (1 - SMOOTHING) * change
        self.error = error
        if error <= TOLERANCE:
            self.weight *= math.exp(-RATE / 2)
        elif self.trend > -error / HORIZON:
            self.weight *= math.exp(RATE)
        self.weight = min(max(self.weight, LOWEST), HIGHEST)
        return self.weight

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name in _STATE:
            setattr(self, name, state[name])
