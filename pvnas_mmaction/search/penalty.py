# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The cost term of the search loss.

With E = fixed + sum_l sum_o p_l[o] c_l[o], the expected cost, the loss of an alpha step
is CE + lambda * |log(E / budget)| (FBNet, Wu et al., 2019; ProxylessNAS, Cai et al.,
2019), or lambda * max(0, log(E / budget)) in the one-sided form.

A fixed lambda is too weak or too strong, depending on the data, so lambda follows the
error e = |log(E / budget)| (one-sided: without the absolute value). After an alpha step

- e within the tolerance: lambda shrinks, by half of ``rate``;
- e above it, and not falling by a share of 1 / HORIZON per step: lambda grows by
  ``rate``;
- e above it and falling: lambda stays. The alphas are on their way and take as many
  steps as their learning rate lets them; a lambda that grew meanwhile would drown CE.

It moves in proportion, since the gradient of CE that it has to stand up to may be of
any size.

A restart, which shrinks the alphas at once, may make e jump. That counts as any rise
does: lambda grows, to a few times what it was at a ``rate`` of 0.1, until e falls fast
enough in the smoothed change too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..models.supernet import padded
from ..space.checks import check_mapping, check_number, wrong
from ..space.cost_table import KINDS, CostTable
from .derive import Budget

HORIZON = 30
"""Steps in which an error should fall to 1/e."""
SMOOTHING = 0.8
"""Share of the past in the error's smoothed change per step."""
LOWEST, HIGHEST = 1e-3, 100.0
"""Bounds of lambda, so that it finds back in time."""
SETTINGS = ("weight", "rate", "tolerance", "one_sided")


def build_penalty(
    cost: Mapping[str, Any] | None, tables: Mapping[str, CostTable]
) -> CostPenalty | None:
    """The cost term that a config asks for.

    Args:
        cost: ``kind`` (a name out of :data:`KINDS`) and ``budget``, a limit in the unit
            of the kind; for latency also ``table``, the file that
            ``tools/build_latency_table.py`` wrote. Further keys are those of
            :class:`CostPenalty`. None: no budget.
        tables: Costs by kind.

    Raises:
        ValueError: An unknown kind or key, or a missing one.
    """
    if cost is None:
        return None
    check_mapping("train_cfg.cost", cost)
    settings = dict(cost)
    if unknown := sorted(settings.keys() - {"kind", "budget", "table", *SETTINGS}):
        expected = f"'kind', 'budget', and maybe 'table' or some of {SETTINGS}"
        raise wrong("train_cfg.cost", expected, f"the keys {unknown}")
    kind, limit = settings.pop("kind", None), settings.pop("budget", None)
    table = settings.pop("table", None)
    if kind not in KINDS:
        raise wrong("train_cfg.cost.kind", f"one of {tuple(KINDS)}", repr(kind))
    if isinstance(limit, bool) or not isinstance(limit, int | float):
        expected = f"a limit on the {kind}, a number of {KINDS[kind][0]}"
        raise wrong("train_cfg.cost.budget", expected, repr(limit))
    if (table is None) == (kind == "latency"):
        expected = "a latency table for kind 'latency', and none for other kinds"
        raise wrong("train_cfg.cost.table", expected, repr(table))
    return CostPenalty(Budget(tables[kind], limit), **settings)


class CostPenalty:
    """lambda * |log(E / budget)| with a lambda that follows the error.

    Args:
        budget: The budget, with the costs it is about.
        weight: First lambda, from 0.001 to 100 unless ``rate`` is 0. Default 0.1.
        rate: Largest relative change of lambda per alpha step; 0 leaves lambda as it
            is. Default 0.1.
        tolerance: |log(E / budget)| that is tolerated. Default 0.02, two percent.
        one_sided: Whether a cost under the budget is not penalised. Default False.

    Raises:
        ValueError: No number of 0 or more, or a first lambda out of its bounds.
    """

    def __init__(
        self,
        budget: Budget,
        weight: float = 0.1,
        rate: float = 0.1,
        tolerance: float = 0.02,
        one_sided: bool = False,
    ) -> None:
        for name, value in dict(weight=weight, rate=rate, tolerance=tolerance).items():
            check_number(f"train_cfg.cost.{name}", value)
        if not isinstance(one_sided, bool):
            raise wrong("train_cfg.cost.one_sided", "True or False", repr(one_sided))
        if rate > 0 and not LOWEST <= weight <= HIGHEST:
            expected = f"a number from {LOWEST:g} to {HIGHEST:g}, the bounds of lambda"
            hint = "with rate=0, which keeps lambda, it may lie outside"
            raise wrong("train_cfg.cost.weight", expected, repr(weight), hint)
        self.budget = budget
        self.weight, self.rate = float(weight), float(rate)
        self.tolerance, self.one_sided = float(tolerance), one_sided
        self.error: float | None = None
        self.trend = 0.0
        self._costs = padded(budget.table.per_layer)

    def expected(self, probabilities: Tensor) -> Tensor:
        """E[cost] in the budget's own unit, a scalar with gradient.

        Args:
            probabilities: p of all layers, (L, K), 0 where there is no candidate.
        """
        self._costs = self._costs.to(probabilities.device)
        return (probabilities.double() * self._costs).sum() + self.budget.table.fixed

    def loss(self, probabilities: Tensor) -> Tensor:
        """The term to add to the loss of an alpha step."""
        error = torch.log(self.expected(probabilities) / self.budget.limit)
        error = error.clamp_min(0) if self.one_sided else error.abs()
        return self.weight * error.float()

    def update(self, expected: float) -> float:
        """Adapt lambda to an expected cost; gives the new lambda."""
        error = math.log(expected / self.budget.limit)
        error = error if self.one_sided else abs(error)
        if self.error is not None:
            change = error - self.error
            self.trend = SMOOTHING * self.trend + (1 - SMOOTHING) * change
        self.error = error
        if self.rate == 0:
            return self.weight
        if error <= self.tolerance:
            self.weight *= math.exp(-self.rate / 2)
        elif self.trend > -error / HORIZON:
            self.weight *= math.exp(self.rate)
        self.weight = min(max(self.weight, LOWEST), HIGHEST)
        return self.weight

    def state_dict(self) -> dict[str, Any]:
        """What changes from step to step."""
        return dict(weight=self.weight, error=self.error, trend=self.trend)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.weight, self.error = state["weight"], state["error"]
        self.trend = state["trend"]
