# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The cost term: expected cost, penalty, and a weight that keeps the budget."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import pytest
import torch
from searching import INPUT_SHAPE, NUM_CLASSES, SPACE, build_search

from pvnas_mmaction.search.derive import Budget, InfeasibleBudgetError, derive
from pvnas_mmaction.search.penalty import CostPenalty, build_budget, expected_cost
from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.latency_table import LatencyTable
from pvnas_mmaction.space.search_space import SearchSpace

TOY = SearchSpace.from_config(SPACE)
LAYERS = TOY.candidates


def toy_budget(kind: str = "flops", budget: float = 10**9) -> Budget:
    return build_budget(dict(kind=kind, budget=budget), TOY, INPUT_SHAPE, NUM_CLASSES)


@pytest.mark.parametrize(("kind", "field"), [("flops", "macs"), ("params", "params")])
def test_expected_cost_of_every_one_hot_is_the_counted_cost(kind, field):
    budget = toy_budget(kind)
    for indices in product(*(range(len(c)) for c in TOY.candidates)):
        # What softmax makes of alphas that are far apart, in float32.
        one_hot = [
            torch.softmax(200.0 * torch.eye(len(c))[i], 0)
            for c, i in zip(TOY.candidates, indices, strict=True)
        ]
        blocks = TOY.genotype(indices).blocks
        counted = network_cost(TOY.skeleton, blocks, INPUT_SHAPE, NUM_CLASSES)
        expected = expected_cost(budget.fixed, budget.per_layer, one_hot)
        assert float(expected) == getattr(counted, field)


def test_expected_cost_is_the_mean_over_networks_and_has_its_gradient():
    budget = toy_budget()
    generator = torch.Generator().manual_seed(0)
    alphas = [torch.randn(len(c), generator=generator) for c in TOY.candidates]
    p = [torch.softmax(a.double(), 0).requires_grad_() for a in alphas]
    mean = Fraction(0)
    for indices in product(*(range(len(c)) for c in TOY.candidates)):
        chance = math.prod(
            Fraction(row[i].item()) for row, i in zip(p, indices, strict=True)
        )
        mean += chance * budget.cost(indices)
    total = expected_cost(budget.fixed, budget.per_layer, p)
    assert total.item() == pytest.approx(float(mean), rel=1e-12)
    total.backward()
    for row, costs in zip(p, budget.per_layer, strict=True):
        assert row.grad.tolist() == costs


def test_penalty_by_hand():
    budget = Budget("flops", 10.0, 2, [[4, 12]])
    even = [torch.tensor([0.5, 0.5])]  # costs 10: on the budget
    dear, cheap = [torch.tensor([0.0, 1.0])], [torch.tensor([1.0, 0.0])]
    two_sided = CostPenalty(budget, weight=3.0)
    assert float(two_sided.loss(even)) == 0
    assert float(two_sided.loss(dear)) == pytest.approx(3 * math.log(14 / 10))
    assert float(two_sided.loss(cheap)) == pytest.approx(3 * math.log(10 / 6))
    one_sided = CostPenalty(budget, weight=3.0, one_sided=True)
    assert float(one_sided.loss(dear)) == pytest.approx(3 * math.log(14 / 10))
    assert float(one_sided.loss(cheap)) == 0


def test_weight_by_hand():
    # In cents of the log of (expected / budget): far off, falling fast, within, below.
    errors = [0.5, 0.5, 0.3, 0.01, -0.5]
    for one_sided, moves in (
        (False, [1, 1, 0, -0.5, 1]),
        (True, [1, 1, 0, -0.5, -0.5]),
    ):
        penalty = CostPenalty(
            Budget("flops", 10.0, 0, [[1]]), weight=1.0, one_sided=one_sided
        )
        seen = [penalty.update(10 * math.exp(error)) for error in errors]
        log_weight, expected = 0.0, []
        for move in moves:
            log_weight += 0.1 * move
            expected.append(math.exp(log_weight))
        assert seen == pytest.approx(expected)
    fixed = CostPenalty(Budget("flops", 10.0, 0, [[1]]), weight=7.0, rate=0.0)
    assert [fixed.update(10.0**n) for n in range(4)] == [7.0] * 4


@pytest.mark.parametrize("weight", [1e-3, 0.1, 100])
def test_weight_never_jumps(weight):
    """From either bound, too, it moves by no more than its rate."""
    for expected in (9.0, 10.0, 20.0):
        penalty = CostPenalty(Budget("flops", 10.0, 0, [[1]]), weight=weight, rate=0.1)
        assert abs(math.log(penalty.update(expected) / weight)) <= 0.1 + 1e-12


def test_a_latency_budget_is_that_of_the_table(tmp_path):
    rows = [[3.0 + layer + i for i in range(len(c))] for layer, c in enumerate(LAYERS)]
    table = LatencyTable(TOY.to_config(), list(INPUT_SHAPE), 0.5, rows)
    table.save(tmp_path / "table.json")
    settings = dict(kind="latency", budget=20, table=str(tmp_path / "table.json"))
    budget = build_budget(settings, TOY, INPUT_SHAPE, NUM_CLASSES)
    assert (budget.kind, budget.limit) == ("latency", 20)
    for indices in product(*(range(len(c)) for c in LAYERS)):
        assert budget.cost(indices) == pytest.approx(table.predict(indices), rel=1e-12)


def test_penalty_continues_from_its_state():
    """The last costs fall by less than a 30th of the error: alone by what the trend
    remembers of the steep fall before them, lambda stays."""
    budget = toy_budget(budget=10**4)
    costs = [2e4, 1.9e4, 1.5e4, 1.499e4, 1.498e4, 1.4e4, 1.01e4, 0.9e4]
    whole, first, second = (CostPenalty(budget) for _ in range(3))
    expected = [whole.update(cost) for cost in costs]
    for cost in costs[:3]:
        first.update(cost)
    second.load_state_dict(first.state_dict())
    assert [second.update(cost) for cost in costs[3:]] == expected[3:]


def shorten(budget: Budget, share: float) -> Budget:
    """The same with a limit between the cheapest and the dearest network."""
    dearest = budget.fixed + sum(max(row) for row in budget.per_layer)
    limit = float(budget.cheapest()) * (dearest / budget.cheapest()) ** share
    return Budget(budget.kind, limit, budget.fixed, budget.per_layer)


def search_alphas(penalty: CostPenalty, slope: float, steps: int) -> list[float]:
    """Optimise alphas alone, on a loss that falls by ``slope`` from the cheapest to the
    dearest network; gives E[cost] / budget at each step."""
    torch.manual_seed(0)
    rows = penalty.budget.per_layer
    worth = [torch.tensor(row, dtype=torch.float32) for row in rows]
    worth = [(w - w.min()) / (w.max() - w.min()) / len(rows) for w in worth]
    alphas = [torch.zeros(len(row), requires_grad=True) for row in rows]
    optimizer = torch.optim.Adam(alphas, lr=0.02, betas=(0.5, 0.999))
    ratios = []
    for _ in range(steps):
        p = [torch.softmax(alpha, 0) for alpha in alphas]
        loss = -slope * sum((q * w).sum() for q, w in zip(p, worth, strict=True))
        loss = loss + sum(q @ torch.randn(len(q)) for q in p) / len(p)  # a noisy one
        loss = loss + penalty.loss(p)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        p = [torch.softmax(alpha.detach(), 0) for alpha in alphas]
        expected = float(penalty.expected(p))
        penalty.update(expected)
        ratios.append(expected / penalty.budget.limit)
    indices = derive(
        [torch.log_softmax(a.detach(), 0).tolist() for a in alphas], [penalty.budget]
    )[0].indices
    assert penalty.budget.cost(indices) <= Fraction(penalty.budget.limit)
    return ratios


@pytest.mark.parametrize(("slope", "share"), [(0.1, 0.3), (1.0, 0.6), (10.0, 0.3)])
@pytest.mark.parametrize("one_sided", [False, True])
def test_expected_cost_ends_within_five_percent_of_the_budget(slope, share, one_sided):
    budget = shorten(toy_budget(), share)
    ratios = search_alphas(CostPenalty(budget, one_sided=one_sided), slope, steps=250)
    assert ratios[-1] < 1.05
    if slope >= 1 or not one_sided:
        assert ratios[-1] > 0.95
    # Without the penalty the dear networks win.
    if slope >= 1 and not one_sided:
        free = search_alphas(CostPenalty(budget, weight=0, rate=0), slope, steps=250)
        assert free[-1] > 1.1


def test_a_loss_that_prefers_cheap_networks():
    budget = shorten(toy_budget(), 0.6)
    pulled_up = search_alphas(CostPenalty(budget), -1.0, steps=250)
    assert 0.95 < pulled_up[-1] < 1.05
    let_be = search_alphas(CostPenalty(budget, one_sided=True), -1.0, steps=250)
    assert let_be[-1] < 0.9


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (dict(kind="watts", budget=1), "cost.kind: found 'watts', expected one of"),
        (dict(budget=1), "cost.kind: found None"),
        (dict(kind="flops"), "cost.budget: found none, expected a limit on the flops"),
        (dict(kind="flops", budget="2G"), "cost.budget: found '2G', expected a number"),
        (dict(kind="latency", budget=1), "cost.table: found None, expected a latency"),
        (dict(kind="flops", budget=1, table="t.json"), "cost.table: found 't.json'"),
        (dict(kind="flops", budget=1, colour=2), r"cost: found the keys \['colour'\]"),
        (dict(kind="flops", budget=1e9, rate=-1), "cost.rate: found -1, expected"),
        (dict(kind="flops", budget=1e9, rate=math.inf), "cost.rate: found inf, exp"),
        (dict(kind="flops", budget=1e9, rate="a"), "cost.rate: found 'a', expected"),
        (dict(kind="flops", budget=1e9, weight=None), "cost.weight: found None,"),
        (dict(kind="flops", budget=1e9, tolerance=True), "cost.tolerance: found True"),
        (dict(kind="flops", budget=1e9, weight=500), "weight: found 500, expected"),
        (dict(kind="flops", budget=1e9, weight=0), r"found 0, .* 0\.001 to 100"),
        (dict(kind="flops", budget=0), "limit: expected a number of MACs above 0"),
    ],
)
def test_wrong_settings(tmp_path, cost, message):
    runner = build_search(tmp_path, train_cfg=dict(cost=cost))
    with pytest.raises(ValueError, match=message):
        runner.build_train_loop(runner._train_loop)


def test_a_budget_that_no_network_keeps_fails_before_training(tmp_path):
    cheapest = int(toy_budget().cheapest())
    cost = dict(kind="flops", budget=cheapest - 1)
    runner = build_search(tmp_path, train_cfg=dict(cost=cost))
    message = f"the cheapest possible costs {cheapest} MACs"
    with pytest.raises(InfeasibleBudgetError, match=message):
        runner.train()
    assert not (tmp_path / "search").exists()
    kept = build_search(tmp_path, train_cfg=dict(cost=dict(cost, budget=cheapest)))
    assert kept.train_loop.penalty.budget.limit == cheapest
