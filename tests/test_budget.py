"""The cost term: expected cost, penalty, and a weight that keeps the budget."""

import math
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from searching import INPUT_SHAPE, NUM_CLASSES, SPACE, build_search

from pvnas_mmaction.models.supernet import padded
from pvnas_mmaction.search.derive import Budget, derive
from pvnas_mmaction.search.penalty import LOWEST, CostPenalty, build_penalty
from pvnas_mmaction.search.selection import Selection
from pvnas_mmaction.space import cost_table
from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.cost_table import CostTable, cost_tables
from pvnas_mmaction.space.latency_table import LatencyTable
from pvnas_mmaction.space.search_space import SearchSpace

TOY = SearchSpace.from_config(SPACE)
LAYERS = TOY.candidates
TABLES = cost_tables(TOY, INPUT_SHAPE, NUM_CLASSES)


def toy_budget(kind: str = "flops", budget: float = 10**9) -> Budget:
    return Budget(TABLES[kind], budget)


def small_budget(fixed: float = 0, rows=((1,),)) -> Budget:
    return Budget(CostTable("flops", "MACs", fixed, rows), 10.0)


@pytest.mark.parametrize(("kind", "field"), [("flops", "macs"), ("params", "params")])
def test_expected_cost_of_every_one_hot_is_the_counted_cost(kind, field):
    penalty = CostPenalty(toy_budget(kind))
    for indices in product(*(range(len(c)) for c in LAYERS)):
        # What softmax makes of alphas that are far apart, in float32.
        one_hot = [
            torch.softmax(200.0 * torch.eye(len(c))[i], 0).tolist()
            for c, i in zip(LAYERS, indices, strict=True)
        ]
        blocks = TOY.genotype(indices).blocks
        counted = network_cost(TOY.skeleton, blocks, INPUT_SHAPE, NUM_CLASSES)
        assert float(penalty.expected(padded(one_hot))) == getattr(counted, field)
        assert TABLES[kind].expected(one_hot) == getattr(counted, field)
        assert TABLES[kind].cost(indices) == getattr(counted, field)


def test_penalty_by_hand():
    budget = small_budget(2, [[4, 12]])
    even = torch.tensor([[0.5, 0.5]])  # costs 10: on the budget
    expensive, cheap = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    penalty = CostPenalty(budget)
    assert penalty.weight == 0.1
    penalty.weight = 3.0
    assert float(penalty.loss(even)) == 0
    assert float(penalty.loss(expensive)) == pytest.approx(3 * math.log(14 / 10))
    assert float(penalty.loss(cheap)) == pytest.approx(3 * math.log(10 / 6))


def test_weight_by_hand():
    # In cents of the log of (expected / budget): far off, falling fast, within, below.
    errors = [0.5, 0.5, 0.3, 0.01, -0.5]
    penalty = CostPenalty(small_budget())
    seen = [penalty.update(10 * math.exp(error)) for error in errors]
    log_weight, expected = math.log(0.1), []
    for move in [1, 1, 0, -0.5, 1]:
        log_weight += 0.1 * move
        expected.append(math.exp(log_weight))
    assert seen == pytest.approx(expected)
    for _ in range(200):
        penalty.update(10.0)
    assert penalty.weight == LOWEST


def test_a_latency_budget_is_that_of_the_table(tmp_path):
    rows = [[3.0 + layer + i for i in range(len(c))] for layer, c in enumerate(LAYERS)]
    latency = LatencyTable(TOY.to_config(), list(INPUT_SHAPE), 0.5, rows)
    latency.save(tmp_path / "table.json")
    cost = dict(kind="latency", budget=20, table=str(tmp_path / "table.json"))
    tables = cost_tables(TOY, INPUT_SHAPE, NUM_CLASSES, cost["table"])
    assert list(tables) == ["flops", "params", "latency"]
    budget = build_penalty(cost, tables).budget
    assert (budget.table, budget.limit) == (tables["latency"], 20)
    for indices in product(*(range(len(c)) for c in LAYERS)):
        expected = pytest.approx(latency.predict(indices), rel=1e-12)
        assert budget.table.cost(indices) == expected


def test_another_kind_of_cost_is_one_line(monkeypatch):
    """It can be budgeted and is in every network's costs."""
    rows = [[1.5 * i for i in range(len(c))] for c in LAYERS]
    monkeypatch.setitem(cost_table.KINDS, "energy", ("mJ", lambda *_: (0.5, rows)))
    tables = cost_tables(TOY, INPUT_SHAPE, NUM_CLASSES)
    penalty = build_penalty(dict(kind="energy", budget=3), tables)
    (best,) = derive([[0.0, 1.0, 2.0, 3.0][: len(c)] for c in LAYERS], [penalty.budget])
    assert penalty.budget.table.cost(best) <= 3
    selection = Selection(TOY, tables, penalty.budget)
    entry = selection.finish_cycle(
        [[0.0] * len(c) for c in LAYERS], 0, step=1, diversity=1, planned_diversity=1
    )
    assert entry.costs.keys() == {"flops", "params", "energy"}
    assert entry.costs["energy"] <= 3


def search_alphas(penalty: CostPenalty, slope: float, steps: int) -> list[float]:
    """Optimise alphas alone, on a loss that falls by ``slope`` from the cheapest to the
    most expensive network; gives E[cost] / budget at each step."""
    torch.manual_seed(0)
    worth = torch.tensor(penalty.budget.table.per_layer, dtype=torch.float32)
    low, high = worth.amin(1, keepdim=True), worth.amax(1, keepdim=True)
    worth = (worth - low) / (high - low) / len(worth)
    alphas = torch.zeros(worth.shape, requires_grad=True)
    optimizer = torch.optim.Adam([alphas], lr=0.02, betas=(0.5, 0.999))
    ratios = []
    for _ in range(steps):
        p = torch.softmax(alphas, 1)
        loss = -slope * (p * worth).sum()
        loss = loss + (p * torch.randn(p.shape)).sum() / len(p)  # a noisy one
        loss = loss + penalty.loss(p)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        p = torch.softmax(alphas.detach(), 1)
        expected = penalty.budget.table.expected(p.tolist())
        penalty.update(expected)
        ratios.append(expected / penalty.budget.limit)
    log_probs = torch.log_softmax(alphas.detach(), 1).tolist()
    (found,) = derive(log_probs, [penalty.budget])
    assert penalty.budget.table.exact(found) <= penalty.budget.limit
    return ratios


@pytest.mark.parametrize(("slope", "share"), [(0.1, 0.3), (1.0, 0.6), (10.0, 0.3)])
def test_expected_cost_ends_within_five_percent_of_the_budget(slope, share):
    table = TABLES["flops"]
    cheapest, most = float(table.cheapest()), table.cost(table.most_expensive())
    budget = Budget(table, cheapest * (most / cheapest) ** share)
    ratios = search_alphas(CostPenalty(budget), slope, steps=250)
    assert 0.95 < ratios[-1] < 1.05
    # Without the penalty the expensive networks win.
    if slope >= 1:
        none = SimpleNamespace(budget=budget, loss=lambda p: 0, update=lambda cost: 0)
        free = search_alphas(none, slope, steps=250)
        assert free[-1] > 1.1


def test_wrong_settings():
    for cost, message in (
        ("flops", "cost: expected a mapping with the keys kind, .*, got 'flops'"),
        (dict(budget=1), "cost: expected the key 'kind' as well, got .*budget"),
        (dict(kind="flops", budget="2G"), "cost: budget: expected .*, got '2G'"),
        (dict(kind="flops", budget=0), "budget: expected a number above 0, got 0"),
        (dict(kind="latency", budget=1), "table: expected a latency .*, got None"),
        (dict(kind="flops", budget=1, colour=2), "unknown key: .*, got 'colour'"),
    ):
        with pytest.raises(ValueError, match=message):
            build_penalty(cost, TABLES)


def test_a_budget_that_no_network_keeps_fails_before_training(tmp_path):
    cheapest = int(TABLES["flops"].cheapest())
    cost = dict(kind="flops", budget=cheapest - 1)
    runner = build_search(tmp_path, train_cfg=dict(cost=cost))
    message = f"expected {cheapest} MACs or more, the cheapest network"
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert not (tmp_path / "search").exists()
    Selection(TOY, TABLES, toy_budget(budget=cheapest))
