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
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..space.checks import check_number
from ..space.cost import fixed_cost, layer_costs
from ..space.latency_table import load_latency_table
from ..space.search_space import SearchSpace
from .derive import Budget

KINDS = ("flops", "params", "latency")
HORIZON = 30
"""Steps in which an error should fall to 1/e."""
SMOOTHING = 0.8
"""Share of the past in the error's smoothed change per step."""
LOWEST, HIGHEST = 1e-3, 100.0
"""Bounds of lambda, so that it finds back in time."""
PENALTY_SETTINGS = ("weight", "rate", "tolerance", "one_sided")
OTHER_BUDGET = (
    "resume with the budget that the search was started with, or start anew in another "
    "work_dir; tools/derive_genotype.py takes networks under other budgets out of a "
    "search"
)


def build_budget(
    settings: dict[str, Any],
    space: SearchSpace,
    input_shape: Sequence[int],
    num_classes: int,
) -> Budget:
    """The budget that a config asks for; its keys are taken out of ``settings``.

    Args:
        settings: ``kind`` (``"flops"``, ``"params"`` or ``"latency"``) and ``budget``
            (multiply-accumulates, number of parameters, or milliseconds); for latency
            also ``table``, the file that ``tools/build_latency_table.py`` wrote.
        space: The search space.
        input_shape: (C, T, H, W) of one view.
        num_classes: Outputs of the head.

    Raises:
        ValueError: An unknown kind or key, or a missing one.
    """
    unknown = sorted(set(settings) - {"kind", "budget", "table", *PENALTY_SETTINGS})
    if unknown:
        raise ValueError(
            f"cost: found the keys {unknown}, expected 'kind' and 'budget', and maybe "
            f"'table' or some of {PENALTY_SETTINGS}"
        )
    kind = settings.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"cost.kind: found {kind!r}, expected one of {KINDS}")
    if "budget" not in settings:
        raise ValueError(f"cost.budget: found none, expected a limit on the {kind}")
    limit = settings.pop("budget")
    if isinstance(limit, bool) or not isinstance(limit, int | float):
        raise ValueError(f"cost.budget: found {limit!r}, expected a number")
    table = settings.pop("table", None)
    if (table is None) == (kind == "latency"):
        raise ValueError(
            f"cost.table: found {table!r}, expected a latency table for kind "
            "'latency', and none for other kinds"
        )
    if kind == "latency":
        latency = load_latency_table(table, space, input_shape)
        return Budget(kind, limit, latency.fixed_ms, latency.layer_ms)
    field = "macs" if kind == "flops" else "params"
    return Budget(
        kind,
        limit,
        getattr(fixed_cost(space, input_shape, num_classes), field),
        [[getattr(c, field) for c in row] for row in layer_costs(space, input_shape)],
    )


def expected_cost(
    fixed: float, per_layer: Sequence[Sequence[float]], probabilities: Sequence[Tensor]
) -> Tensor:
    """E[cost], a scalar with gradient to the probabilities.

    Args:
        fixed: Cost of what every network shares.
        per_layer: Cost of each candidate of each layer.
        probabilities: p of each layer, (K_l,).
    """
    total = probabilities[0].new_tensor(0.0, dtype=torch.float64)
    for p, costs in zip(probabilities, per_layer, strict=True):
        total = total + (p.double() * p.new_tensor(costs, dtype=torch.float64)).sum()
    return total + fixed


class CostPenalty:
    """lambda * |log(E / budget)| with a lambda that follows the error.

    Args:
        budget: The budget, with the costs it is about.
        weight: First lambda, from 0.001 to 100 unless ``rate`` is 0. Default 0.1.
        rate: Largest relative change of lambda per alpha step; 0 leaves lambda as it
            is. Default 0.1.
        tolerance: |log(E / budget)| that is let be. Default 0.02, two percent.
        one_sided: Whether a cost under the budget goes free. Default False.

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
        for name, value in (
            ("weight", weight),
            ("rate", rate),
            ("tolerance", tolerance),
        ):
            check_number(f"cost.{name}", value)
        if not isinstance(one_sided, bool):
            raise ValueError(
                f"cost.one_sided: found {one_sided!r}, expected True or False"
            )
        if rate > 0 and not LOWEST <= weight <= HIGHEST:
            raise ValueError(
                f"cost.weight: found {weight!r}, expected a number from {LOWEST:g} to "
                f"{HIGHEST:g}, the bounds of lambda; with rate=0, which keeps lambda, "
                "it may lie outside"
            )
        self.budget = budget
        self.weight = float(weight)
        self.rate = float(rate)
        self.tolerance = float(tolerance)
        self.one_sided = one_sided
        self.error: float | None = None
        self.trend = 0.0

    def expected(self, probabilities: Sequence[Tensor]) -> Tensor:
        """E[cost] in the budget's own unit, a scalar with gradient."""
        return expected_cost(self.budget.fixed, self.budget.per_layer, probabilities)

    def loss(self, probabilities: Sequence[Tensor]) -> Tensor:
        """The term to add to the loss of an alpha step."""
        error = torch.log(self.expected(probabilities) / self.budget.limit)
        error = error.clamp_min(0) if self.one_sided else error.abs()
        return self.weight * error.float()

    def update(self, expected: float) -> float:
        """Adapt lambda to an expected cost; gives the new lambda."""
        error = math.log(expected / self.budget.limit)
        if not self.one_sided:
            error = abs(error)
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
        return {
            "kind": self.budget.kind,
            "limit": self.budget.limit,
            "weight": self.weight,
            "error": self.error,
            "trend": self.trend,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`.

        Raises:
            ValueError: The state is one of another budget.
        """
        found = (state["kind"], state["limit"])
        expected = (self.budget.kind, self.budget.limit)
        if found != expected:
            raise ValueError(
                f"checkpoint, cost: found kind and budget {found}, expected {expected} "
                f"as in this config; {OTHER_BUDGET}"
            )
        self.weight, self.error, self.trend = (
            state["weight"],
            state["error"],
            state["trend"],
        )
