# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Derivation: the most likely networks of a search that keep every budget.

Given the log-probabilities of the candidates of each layer, derivation solves

    maximise    sum_l log p_l[o_l]
    subject to  fixed + sum_l c_l[o_l] <= limit        for every budget

which is a multiple-choice knapsack, as an integer program with one binary
variable per layer and candidate (``scipy.optimize.milp``, HiGHS, with no gap
allowed). For several networks the program is solved again, each time with one
cut per network found, so that every network is the best of those that differ from
all earlier ones in at least ``min_distance`` layers.

HiGHS accepts constraints that are violated by its feasibility tolerance. Every
solution is therefore added up again in exact rational arithmetic; one that
exceeds a budget is cut off and the program solved again. No network returned
exceeds a budget, not by one multiply-accumulate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

UNITS = {"flops": "MACs", "params": "parameters", "latency": "ms"}
LOG_PROB_FLOOR = math.log(1e-30)
"""Log-probabilities are raised to this: a candidate of probability 0 is chosen
only where the budgets leave nothing else."""

# Objective and constraint rows are scaled to this magnitude, so that the absolute
# tolerances of HiGHS (1e-6) become small next to the numbers of the problem.
_SCALE = 1e4


class InfeasibleBudgetError(ValueError):
    """No network of the space keeps the budgets."""


@dataclass(frozen=True)
class Budget:
    """An upper limit on one cost of the network.

    Args:
        kind: ``flops`` (in multiply-accumulates), ``params`` or ``latency``
            (in milliseconds).
        limit: Highest cost allowed, in the unit of the kind.
        fixed: Cost of the parts outside the layers, such as stem and head.
        per_layer: Cost of every candidate, ``per_layer[layer][candidate]``.

    Raises:
        ValueError: Naming the field, what was expected and what was found.
    """

    kind: str
    limit: float
    fixed: float
    per_layer: Sequence[Sequence[float]]

    def __post_init__(self) -> None:
        if self.kind not in UNITS:
            raise ValueError(
                f"budget kind: expected one of {tuple(UNITS)}, found {self.kind!r}"
            )
        if not (math.isfinite(self.limit) and self.limit > 0):
            raise ValueError(
                f"{self.kind} budget, limit: expected a number of {self.unit} above "
                f"0, found {self.limit}"
            )
        costs = [self.fixed, *(cost for layer in self.per_layer for cost in layer)]
        for cost in costs:
            if not (math.isfinite(cost) and cost >= 0):
                raise ValueError(
                    f"{self.kind} budget: expected costs of 0 or more, found {cost}"
                )

    @property
    def unit(self) -> str:
        """Unit of the costs."""
        return UNITS[self.kind]

    def cost(self, indices: Sequence[int]) -> Fraction:
        """Return the exact cost of a network, with the fixed part."""
        chosen = (
            layer[index] for layer, index in zip(self.per_layer, indices, strict=True)
        )
        return sum(map(_exact, chosen), _exact(self.fixed))

    def cheapest(self) -> Fraction:
        """Return the exact cost of the cheapest network."""
        return sum(
            (min(map(_exact, layer)) for layer in self.per_layer), _exact(self.fixed)
        )


@dataclass(frozen=True)
class Derived:
    """A derived network.

    Args:
        indices: Chosen candidate of each layer.
        log_prob: Sum of the chosen log-probabilities, each raised to
            :data:`LOG_PROB_FLOOR`.
        costs: Cost by kind of budget, with the fixed part; an int where the sum is
            whole.
    """

    indices: tuple[int, ...]
    log_prob: float
    costs: dict[str, float]


def derive(
    log_probs: Sequence[Sequence[float]],
    budgets: Sequence[Budget] = (),
    num_candidates: int = 1,
    min_distance: int = 1,
    earlier: Sequence[Sequence[int]] = (),
    earlier_distance: int = 1,
) -> list[Derived]:
    """Find the most likely networks that keep every budget.

    Args:
        log_probs: Log-probability of every candidate, one list per layer.
            ``-inf`` is allowed, see :data:`LOG_PROB_FLOOR`.
        budgets: Limits, at most one of each kind. Defaults to none.
        num_candidates: Number of networks wanted. Defaults to 1.
        min_distance: Number of layers in which any two of them differ at
            least. Defaults to 1.
        earlier: Candidate indices of networks to stay away from. Defaults to none.
        earlier_distance: Number of layers in which a network differs from each of
            those at least. Defaults to 1: it is none of them.

    Returns:
        The networks, best first: each is the best among those that differ from
        all before it in ``min_distance`` layers. Fewer than wanted where no
        more exist; none only where ``earlier`` leaves none.

    Raises:
        InfeasibleBudgetError: If no network keeps the budgets; the message names
            the cheapest possible cost.
        ValueError: If an argument is out of range, or the table of a budget
            does not match the layers.
    """
    scores = _floored(log_probs)
    if num_candidates < 1:
        raise ValueError(f"num_candidates: expected 1 or more, found {num_candidates}")
    distances = dict(min_distance=min_distance, earlier_distance=earlier_distance)
    for name, layers in distances.items():
        if not 1 <= layers <= len(scores):
            raise ValueError(
                f"{name}: expected 1 to {len(scores)} layers, found {layers}"
            )
    _check_earlier(scores, earlier)
    _check_budgets(scores, budgets)

    program = _Program(scores, budgets)
    for indices in earlier:
        program.forbid(
            [[index] for index in indices], at_most=len(scores) - earlier_distance
        )
    found: list[Derived] = []
    while len(found) < num_candidates:
        indices = program.solve()
        if indices is None:
            break
        found.append(
            Derived(
                indices=indices,
                log_prob=math.fsum(
                    layer[index] for layer, index in zip(scores, indices, strict=True)
                ),
                costs={b.kind: _plain(b.cost(indices)) for b in budgets},
            )
        )
        program.forbid(
            [[index] for index in indices], at_most=len(scores) - min_distance
        )
    if not found and not earlier:
        raise InfeasibleBudgetError(_joint_message(budgets))
    return found


class _Program:
    """The integer program over x[layer, candidate], with a growing list of cuts."""

    def __init__(self, scores: list[list[float]], budgets: Sequence[Budget]) -> None:
        self.sizes = [len(layer) for layer in scores]
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)])
        self.budgets = budgets
        losses = np.array([max(layer) - score for layer in scores for score in layer])
        self.losses = losses * (_SCALE / (losses.max() or 1.0))
        self.rows: list[np.ndarray] = []
        self.limits: list[float] = []
        self.upper = np.ones(len(losses))
        for budget in budgets:
            self._add_budget(budget)

    def solve(self) -> tuple[int, ...] | None:
        """Return the best candidate indices, or None where none is left."""
        while True:
            indices = self._solve_once()
            if indices is None:
                return None
            exceeded = [b for b in self.budgets if b.cost(indices) > _exact(b.limit)]
            if not exceeded:
                return indices
            for budget in exceeded:
                self._forbid_cover(budget, indices)

    def forbid(self, choices: list[list[int]], at_most: int) -> None:
        """Allow at most so many layers to take one of their listed candidates."""
        row = np.zeros(len(self.losses))
        for start, candidates in zip(self.starts, choices, strict=False):
            row[start + np.array(candidates, dtype=int)] = 1
        self.rows.append(row)
        self.limits.append(at_most)

    def _add_budget(self, budget: Budget) -> None:
        # Costs above the cheapest network: small numbers lose no digits.
        slack = _exact(budget.limit) - budget.cheapest()
        extra: list[Fraction] = []
        for layer in budget.per_layer:
            lowest = min(map(_exact, layer))
            extra.extend(_exact(cost) - lowest for cost in layer)
        # A candidate that breaks the budget by itself never enters the program.
        self.upper[[cost > slack for cost in extra]] = 0
        scale = Fraction(_SCALE) / slack if slack else Fraction(1)
        self.rows.append(
            np.array([float(c * scale) if c <= slack else 0.0 for c in extra])
        )
        self.limits.append(float(slack * scale))

    def _solve_once(self) -> tuple[int, ...] | None:
        one_each = csr_array(
            (
                np.ones(len(self.losses)),
                np.arange(len(self.losses)),
                self.starts,
            ),
            shape=(len(self.sizes), len(self.losses)),
        )
        constraints = [LinearConstraint(one_each, 1, 1)]
        if self.rows:
            rows = csr_array(np.stack(self.rows))
            constraints.append(LinearConstraint(rows, -np.inf, self.limits))
        result = milp(
            self.losses,
            integrality=np.ones(len(self.losses)),
            bounds=Bounds(0, self.upper),
            constraints=constraints,
            options={"mip_rel_gap": 0.0},
        )
        if result.status == 2:
            return None
        if result.x is None:
            raise RuntimeError(f"the integer program failed: {result.message}")
        return tuple(
            int(np.argmax(result.x[start:stop]))
            for start, stop in zip(self.starts, self.starts[1:], strict=False)
        )

    def _forbid_cover(self, budget: Budget, indices: tuple[int, ...]) -> None:
        """Cut off a network over the budget, with all that cost at least as much.

        The layers that are not needed to exceed the limit are freed first, which
        makes the cut as strong as a cover inequality can be.
        """
        tables = [list(map(_exact, layer)) for layer in budget.per_layer]
        chosen = [table[i] for table, i in zip(tables, indices, strict=True)]
        extra = [cost - min(table) for cost, table in zip(chosen, tables, strict=True)]
        excess = budget.cost(indices) - _exact(budget.limit)
        needed = set(range(len(tables)))
        for layer in sorted(needed, key=lambda index: extra[index]):
            if extra[layer] < excess:
                excess -= extra[layer]
                needed.remove(layer)
        choices = [
            [o for o, cost in enumerate(table) if cost >= chosen[layer]]
            if layer in needed
            else []
            for layer, table in enumerate(tables)
        ]
        self.forbid(choices, at_most=len(needed) - 1)


def _floored(log_probs: Sequence[Sequence[float]]) -> list[list[float]]:
    if len(log_probs) == 0:
        raise ValueError("log_probs: expected at least one layer, found none")
    for index, layer in enumerate(log_probs):
        if len(layer) == 0:
            raise ValueError(
                f"log_probs of layer {index}: expected at least one candidate, found "
                "none"
            )
        for value in layer:
            if math.isnan(value) or value == math.inf:
                raise ValueError(
                    f"log_probs of layer {index}: expected finite numbers or -inf, "
                    f"found {value}"
                )
    return [[max(float(v), LOG_PROB_FLOOR) for v in layer] for layer in log_probs]


def _joint_message(budgets: Sequence[Budget]) -> str:
    """Say by how much each budget would have to give way to the others."""
    parts = []
    for budget in budgets:
        others = [other for other in budgets if other is not budget]
        losses = [[-float(cost) for cost in layer] for layer in budget.per_layer]
        indices = _Program(losses, others).solve()
        # None: the others exclude each other, whatever this one allows.
        if indices is not None:
            parts.append(
                f"{budget.kind}: limit {budget.limit} {budget.unit}, at least "
                f"{_plain(budget.cost(indices))} where the others are kept"
            )
    details = "; ".join(parts) or "no limit alone is the cause"
    return (
        "no network keeps all budgets at once, though each can be kept alone; raise "
        f"one: {details}"
    )


def _check_earlier(scores: list[list[float]], earlier: Sequence[Sequence[int]]) -> None:
    for network in earlier:
        if len(network) != len(scores) or not all(
            0 <= index < len(layer)
            for index, layer in zip(network, scores, strict=True)
        ):
            raise ValueError(
                f"earlier: expected a candidate index for each of {len(scores)} "
                f"layers, found {list(network)}"
            )


def _check_budgets(scores: list[list[float]], budgets: Sequence[Budget]) -> None:
    kinds = [budget.kind for budget in budgets]
    if len(set(kinds)) != len(kinds):
        raise ValueError(f"budgets: expected one of each kind at most, found {kinds}")
    expected = [len(layer) for layer in scores]
    for budget in budgets:
        sizes = [len(layer) for layer in budget.per_layer]
        if sizes != expected:
            raise ValueError(
                f"{budget.kind} budget, per_layer: expected {expected} candidates in "
                f"the layers, found {sizes}"
            )
        cheapest = budget.cheapest()
        if cheapest > _exact(budget.limit):
            raise InfeasibleBudgetError(
                f"no network keeps the {budget.kind} budget of {budget.limit} "
                f"{budget.unit}: the cheapest possible costs {_plain(cheapest)} "
                f"{budget.unit} ({_plain(_exact(budget.fixed))} of them fixed)"
            )


def _exact(value: float) -> Fraction:
    return Fraction(value) if isinstance(value, int) else Fraction(float(value))


def _plain(value: Fraction) -> float:
    return value.numerator if value.denominator == 1 else float(value)
