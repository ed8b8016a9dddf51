"""Cost tables: what each candidate of each layer costs, in any kind of cost.

**To add a kind**, add one line to :data:`KINDS`: budgets, the cost term of a search,
the archive and the tools take it from there.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

from .cost import layer_costs, skeleton_cost
from .latency_table import load_latency_table
from .search_space import SearchSpace

Rows = Sequence[Sequence[float]]


@dataclass(frozen=True)
class CostTable:
    """One kind of cost (a name out of :data:`KINDS`): ``fixed``, of what all networks
    of a space share, and ``per_layer[layer][candidate]``."""

    kind: str
    unit: str
    fixed: float
    per_layer: Rows

    def exact(self, indices: Sequence[int]) -> Fraction:
        """Cost of one network, without any rounding."""
        chosen = (row[i] for row, i in zip(self.per_layer, indices, strict=True))
        return sum(map(Fraction, chosen), Fraction(self.fixed))

    def cost(self, indices: Sequence[int]) -> float:
        """Cost of one network; an int where it is whole."""
        return plain(self.exact(indices))

    def expected(self, probabilities: Rows) -> float:
        """E[cost] of a network drawn from p: fixed + sum_l sum_o p_l[o] c_l[o]."""
        pairs = zip(probabilities, self.per_layer, strict=True)
        return self.fixed + math.fsum(
            p * cost for row, costs in pairs for p, cost in zip(row, costs, strict=True)
        )

    def cheapest(self) -> Fraction:
        """Cost of the cheapest network, without any rounding."""
        return sum((Fraction(min(row)) for row in self.per_layer), Fraction(self.fixed))

    def most_expensive(self) -> tuple[int, ...]:
        """Index of the most expensive candidate of each layer, the last of a tie."""
        return tuple(
            max(range(len(row)), key=lambda i: (row[i], i)) for row in self.per_layer
        )


def plain(value: Fraction) -> float:
    """A fraction as an int where it is whole, else as a float."""
    return value.numerator if value.denominator == 1 else float(value)


def _counted(
    field: str, space: SearchSpace, shape: Sequence[int], num_classes: int, table: Any
) -> tuple[float, Rows]:
    fixed = getattr(skeleton_cost(space.skeleton, shape, num_classes), field)
    rows = layer_costs(space, shape)
    return fixed, [[getattr(cost, field) for cost in row] for row in rows]


def _measured(
    space: SearchSpace, shape: Sequence[int], num_classes: int, table: Any
) -> tuple[float, Rows] | None:
    if table is None:
        return None
    latency = load_latency_table(table, space, shape)
    return latency.fixed_ms, latency.layer_ms


# Unit, and what gives the fixed cost and the rows; None where it is not known.
KINDS: dict[str, tuple[str, Callable[..., tuple[float, Rows] | None]]] = {
    "flops": ("MACs", partial(_counted, "macs")),
    "params": ("parameters", partial(_counted, "params")),
    "latency": ("ms", _measured),
}


def cost_tables(
    space: SearchSpace,
    input_shape: Sequence[int],
    num_classes: int,
    latency_table: str | os.PathLike[str] | None = None,
) -> dict[str, CostTable]:
    """The tables of all kinds that are known, for a view of (C, T, H, W); latency only
    with a file that ``tools/build_latency_table.py`` wrote."""
    tables = {}
    for kind, (unit, read) in KINDS.items():
        found = read(space, input_shape, num_classes, latency_table)
        if found is not None:
            tables[kind] = CostTable(kind, unit, *found)
    return tables
