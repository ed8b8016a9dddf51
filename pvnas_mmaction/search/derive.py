"""Derivation: the most likely networks of a search that meet every budget.

The knapsack of docs/explanation/derivation.md as an integer program
(``scipy.optimize.milp``, HiGHS, with no gap allowed). HiGHS accepts constraints that
are violated by its feasibility tolerance, so every solution is added up again in exact
rational arithmetic; one that exceeds a budget is cut off.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from ..space.checks import wrong
from ..space.cost_table import CostTable, plain

LOG_PROB_FLOOR = math.log(1e-30)
"""Log-probabilities are raised to this: a candidate of probability 0 is chosen
only where the budgets leave nothing else."""

# Objective and constraint rows are scaled to this magnitude, so that the absolute
# tolerances of HiGHS (1e-6) become small next to the numbers of the problem.
_SCALE = 1e4

Indices = tuple[int, ...]


@dataclass(frozen=True)
class Budget:
    """An upper limit on one cost of the network, in the unit of its table."""

    table: CostTable
    limit: float


def derive(
    log_probs: Sequence[Sequence[float]],
    budgets: Sequence[Budget] = (),
    num_candidates: int = 1,
    earlier: Sequence[Sequence[int]] = (),
    distance: int = 1,
) -> list[Indices]:
    """Find the most likely networks that meet every budget.

    Args:
        log_probs: Log-probability of every candidate, one list per layer.
        budgets: Limits, at most one of each kind.
        num_candidates: Number of networks wanted.
        earlier: Candidate indices of networks to stay away from, by at least
            ``distance`` layers.

    Returns:
        Candidate indices of the networks, best first; fewer than wanted where no more
        exist, none only where ``earlier`` leaves none.

    Raises:
        ValueError: No network meets the budgets; names the lowest cost.
    """
    scores = [[max(float(v), LOG_PROB_FLOOR) for v in layer] for layer in log_probs]
    for table, limit in ((budget.table, budget.limit) for budget in budgets):
        if table.cheapest() > limit:
            expected = f"{plain(table.cheapest())} {table.unit} or more, the cheapest"
            raise wrong(f"{table.kind} budget", f"{expected} network", f"{limit}")
    program = _Program(scores, budgets)
    for indices in earlier:
        program.forbid(indices, distance)
    found: list[Indices] = []
    while len(found) < num_candidates and (indices := program.solve()) is not None:
        found.append(indices)
        program.forbid(indices, distance=1)
    if not found and not earlier:
        asked = ", ".join(f"{b.table.kind} {b.limit} {b.table.unit}" for b in budgets)
        raise wrong("budgets", "a network that keeps all at once", asked, "raise one")
    return found


class _Program:
    """The integer program over x[layer, candidate], with a growing list of cuts."""

    def __init__(self, scores: list[list[float]], budgets: Sequence[Budget]) -> None:
        self.sizes = [len(layer) for layer in scores]
        self.starts = np.cumsum([0, *self.sizes[:-1]])
        self.budgets = budgets
        losses = np.array([max(layer) - score for layer in scores for score in layer])
        self.losses = losses * (_SCALE / (losses.max() or 1.0))
        self.rows: list[np.ndarray] = []
        self.limits: list[float] = []
        self.upper = np.ones(len(losses))
        for table, limit in ((budget.table, budget.limit) for budget in budgets):
            # Costs above the cheapest network: small numbers lose no digits.
            slack = Fraction(limit) - table.cheapest()
            rows = [list(map(Fraction, row)) for row in table.per_layer]
            extra = [cost - min(row) for row in rows for cost in row]
            # A candidate that breaks the budget by itself never enters the program.
            self.upper[[cost > slack for cost in extra]] = 0
            scale = Fraction(_SCALE) / slack if slack else Fraction(1)
            row = [float(c * scale) if c <= slack else 0.0 for c in extra]
            self.rows.append(np.array(row))
            self.limits.append(float(slack * scale))

    def solve(self) -> Indices | None:
        """The best network that the cuts leave and that meets every budget exactly."""
        one_each = np.repeat(np.eye(len(self.sizes)), self.sizes, axis=1)
        while True:
            constraints = [LinearConstraint(one_each, 1, 1)]
            if self.rows:
                rows = np.stack(self.rows)
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
            parts = np.split(result.x, self.starts[1:])
            indices = tuple(int(np.argmax(part)) for part in parts)
            if all(b.table.exact(indices) <= b.limit for b in self.budgets):
                return indices
            self.forbid(indices, distance=1)

    def forbid(self, indices: Sequence[int], distance: int) -> None:
        """Allow only networks that differ from one in so many layers."""
        row = np.zeros(len(self.losses))
        row[self.starts + np.array(indices)] = 1
        self.rows.append(row)
        self.limits.append(len(indices) - distance)
