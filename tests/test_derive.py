"""Derivation against brute force, and on problems that strain the solver."""

import itertools
import math
import random

import pytest

from pvnas_mmaction.search import derive as derive_module
from pvnas_mmaction.search.derive import derive
from pvnas_mmaction.space.cost_table import KINDS, CostTable


def Budget(kind, limit, fixed, per_layer):
    """A budget with its table."""
    return derive_module.Budget(
        CostTable(kind, KINDS[kind][0], fixed, per_layer), limit
    )


def log_softmax(row: list[float]) -> list[float]:
    total = math.log(sum(math.exp(x) for x in row))
    return [x - total for x in row]


def distance(a, b) -> int:
    return sum(x != y for x, y in zip(a, b, strict=True))


class BruteForce:
    """Every network of a small problem, with integer costs, listed."""

    def __init__(self, log_probs, budgets) -> None:
        self.budgets = budgets
        self.feasible = {}
        for network in itertools.product(*(range(len(row)) for row in log_probs)):
            if all(self.cost(network, b) <= b.limit for b in budgets):
                self.feasible[network] = sum(
                    max(row[o], math.log(1e-30))
                    for row, o in zip(log_probs, network, strict=True)
                )

    @staticmethod
    def cost(network, budget) -> int:
        rows = budget.table.per_layer
        chosen = [t[o] for t, o in zip(rows, network, strict=True)]
        return budget.table.fixed + sum(chosen)

    def next_best(self, found) -> float | None:
        """Log-probability of the best network but those found."""
        rest = [v for network, v in self.feasible.items() if network not in found]
        return max(rest, default=None)

    def check(self, results: list, num_candidates) -> None:
        for position, result in enumerate(results):
            assert result in self.feasible
            earlier = results[:position]
            best = self.next_best(earlier)
            assert self.feasible[result] == pytest.approx(best, abs=1e-9)
            assert result not in earlier
        assert len(results) <= num_candidates
        if len(results) < num_candidates:
            assert self.next_best(results) is None


def random_problem(seed: int):
    """A small problem, every fourth with ties, zeros, or two tight budgets."""
    generator = random.Random(seed)
    sizes = [generator.randint(1, 5) for _ in range(generator.randint(1, 5))]
    ties, zeros = seed % 4 == 1, seed % 4 == 2
    log_probs = []
    for size in sizes:
        row = [
            float(generator.randint(0, 1)) if ties else generator.gauss(0, 1.5)
            for _ in range(size)
        ]
        row = log_softmax(row)
        if zeros:
            row = [-math.inf if generator.random() < 0.4 else x for x in row]
        log_probs.append(row)
    magnitude = generator.choice([3, 1000, 10**9])
    budgets = []
    for kind in ("flops", "params", "latency")[: generator.randint(0, 3)]:
        table = [[generator.randint(0, magnitude) for _ in range(k)] for k in sizes]
        fixed = generator.randint(0, magnitude)
        # The exact cost of some network: the budget binds, or nearly so.
        limit = fixed + sum(generator.choice(row) for row in table)
        if generator.random() < 0.3:
            limit = int(limit * generator.uniform(0.7, 1.3))
        budgets.append(Budget(kind, max(limit, 1), fixed, table))
    return log_probs, budgets, generator.randint(1, 4)


@pytest.mark.parametrize("block", range(12))
@pytest.mark.parametrize("away", [False, True])
def test_equals_brute_force(block, away):
    """``away``: from some networks that were found earlier, too."""
    numbers = []
    for seed in range(25 * block, 25 * block + 25):
        log_probs, budgets, num_candidates = random_problem(seed)
        reference = BruteForce(log_probs, budgets)
        if not reference.feasible:
            with pytest.raises(ValueError, match=r"budgets?: expected"):
                derive(log_probs, budgets, num_candidates)
            continue
        generator = random.Random(seed)
        apart = generator.randint(1, len(log_probs))
        earlier = [
            tuple(generator.randrange(len(row)) for row in log_probs)
            for _ in range(3 * away)
        ]
        reference.feasible = {
            network: value
            for network, value in reference.feasible.items()
            if all(distance(network, other) >= apart for other in earlier)
        }
        results = derive(log_probs, budgets, num_candidates, earlier, apart)
        reference.check(results, num_candidates)
        numbers.append(len(results))
    assert any(numbers) and all(numbers) == (not away)


@pytest.mark.parametrize("seed", range(8))
def test_a_budget_below_the_tolerance_of_the_solver_is_kept(seed, monkeypatch):
    """One unit too much in 1e12 is within the tolerance of HiGHS, not within ours."""
    generator = random.Random(seed)
    calls, milp = [], derive_module.milp

    def solve(*args, **settings):
        return calls.append(1) or milp(*args, **settings)

    monkeypatch.setattr(derive_module, "milp", solve)
    table = [[0, 10**12 + generator.randint(0, 3)] for _ in range(4)]
    table += [[0, 1, 2, 3] for _ in range(3)]
    log_probs = [log_softmax([0.0, 1.0 + generator.random()]) for _ in range(4)]
    log_probs += [log_softmax([o + generator.random() for o in range(4)])] * 3
    limit = sum(sorted(row[1] for row in table[:4])[:2]) + 4
    budgets = [Budget("flops", limit, 0, table)]
    results = derive(log_probs, budgets, num_candidates=3)
    assert len(calls) > 3, "the problem is too easy to test the repair"
    BruteForce(log_probs, budgets).check(results, 3)


@pytest.mark.parametrize("seed", range(3))
def test_networks_that_nearly_tie_are_told_apart(seed):
    """By less than HiGHS takes for equal if it is let: a gap, or small numbers next
    to a candidate of probability 0."""
    generator = random.Random(seed)
    log_probs, table = [[0.0, -math.inf]], [[0, 0]]
    for _ in range(12):
        log_probs.append([0.0, *(-i - 1e-6 * generator.random() for i in (1, 2))])
        table.append([cost + generator.randint(0, 3) for cost in (100, 50, 0)])
    (result,) = derive(log_probs, [Budget("flops", 700, 0, table)])
    best = {0: 0.0}  # by cost, layer by layer
    for row, costs in zip(log_probs, table, strict=True):
        longer: dict[int, float] = {}
        for (spent, value), (p, cost) in itertools.product(
            best.items(), zip(row, costs, strict=True)
        ):
            if spent + cost <= 700:
                total = value + p
                longer[spent + cost] = max(longer.get(spent + cost, total), total)
        best = longer
    found = sum(row[i] for row, i in zip(log_probs, result, strict=True))
    assert found == pytest.approx(max(best.values()), abs=1e-10)


def test_a_limit_that_is_met_exactly_is_allowed():
    table = [[10**11 + 1, 7], [10**11 + 3, 5]]
    limit = 2 * 10**11 + 4 + 99
    log_probs = [[-0.1, -3.0], [-0.1, -3.0]]
    (result,) = derive(log_probs, [Budget("flops", limit, 99, table)])
    assert result == (0, 0)
    (result,) = derive(log_probs, [Budget("flops", limit - 1, 99, table)])
    assert result in {(0, 1), (1, 0)}
    (result,) = derive(log_probs, [Budget("flops", 111, 99, table)])
    assert result == (1, 1)


def test_infeasible_budget_names_the_cheapest_cost():
    budget = Budget("flops", 1_000, 200, [[500, 900], [301, 400]])
    message = "flops budget: expected 1001 MACs or more, the cheapest network, got 1000"
    with pytest.raises(ValueError, match=message):
        derive([[0.0, 0.0]] * 2, [budget])
    latency = Budget("latency", 1.0, 0.25, [[0.5], [0.5]])
    with pytest.raises(ValueError, match=r"latency budget: expected 1.25 ms"):
        derive([[0.0], [0.0]], [latency])


def test_budgets_that_exclude_each_other_are_named():
    # Candidate 0 has few MACs and many parameters, candidate 1 the reverse.
    flops = Budget("flops", 12, 0, [[5, 10], [5, 10]])
    params = Budget("params", 25, 5, [[10, 5], [10, 5]])
    assert derive([[0.0, 0.0]] * 2, [flops])[0] == (0, 0)
    less = Budget("params", 19, 5, params.table.per_layer)
    message = "at once, got flops 12 MACs, params 19 parameters; raise one"
    with pytest.raises(ValueError, match=message):
        derive([[0.0, 0.0]] * 2, [flops, less])
    assert derive([[0.0, 0.0]] * 2, [flops, params])[0] == (0, 0)


def test_most_expensive_is_the_maximum_over_all_networks():
    generator = random.Random(0)
    for _ in range(50):
        # Few values, so that candidates tie; layers may differ in length.
        costs = [[generator.randint(0, 2) for _ in range(k)] for k in (4, 3, 4)]
        table = CostTable("flops", "MACs", 1, costs)
        networks = itertools.product(*(range(len(layer)) for layer in costs))
        # Indices ascend: of those that tie, the one that is last in every layer.
        expected = max(networks, key=lambda n, table=table: (table.cost(n), n))
        assert table.most_expensive() == expected
