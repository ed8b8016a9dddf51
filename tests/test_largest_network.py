# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The largest network of a space, which runs beside the sampled ones."""

from __future__ import annotations

import itertools

import pytest
import torch
from searching import INPUT_SHAPE, NO_VALIDATION, QUIET, run_search

from pvnas_mmaction.engine import search_loop
from pvnas_mmaction.engine.search_loop import is_largest_step
from pvnas_mmaction.models.supernet import PVNASSupernet
from pvnas_mmaction.search.selection import costliest
from pvnas_mmaction.space.cost import layer_costs


def test_costliest_is_the_maximum_over_all_networks():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        # Few values, so that candidates tie.
        costs = torch.randint(0, 3, (3, 4), generator=generator).tolist()
        costs[1].pop()  # layers may differ in length
        networks = itertools.product(*(range(len(layer)) for layer in costs))

        def cost(network, costs=costs):
            return sum(layer[i] for layer, i in zip(costs, network, strict=True))

        # Indices ascend: of those that tie, the one that is last in every layer.
        assert costliest(costs) == max(networks, key=lambda n: (cost(n), n))
    assert costliest([[0.5, 0.25], [1, 1, 1]]) == (0, 2)


def test_when_the_largest_network_runs():
    def steps(every: int) -> list[int]:
        return [step for step in range(7) if is_largest_step(step, every)]

    assert [steps(every) for every in range(4)] == [
        [],
        list(range(7)),
        [0, 2, 4, 6],
        [0, 3, 6],
    ]


@pytest.mark.parametrize("cost", [None, dict(kind="params", budget=10_000)])
def test_the_largest_network_runs_in_the_first_cycle(tmp_path, monkeypatch, cost):
    run, drawn = [], []
    step, sample = search_loop.weights_step, PVNASSupernet.sample

    def step_seen(model, supernet, batch, path, *args):
        run.append(path)
        return step(model, supernet, batch, path, *args)

    def sample_seen(supernet, relaxation, generator=None):
        path = sample(supernet, relaxation, generator)
        if relaxation != "two_path":  # that of an alpha step
            drawn.append((relaxation, path))
        return path

    monkeypatch.setattr(search_loop, "weights_step", step_seen)
    monkeypatch.setattr(PVNASSupernet, "sample", sample_seen)
    options = dict(largest_every=2, cost=cost)
    runner = run_search(tmp_path, train_cfg=options, **NO_VALIDATION, **QUIET)
    kind = "macs" if cost is None else "params"
    rows = layer_costs(runner.train_loop.space, INPUT_SHAPE)
    largest = []
    for row in rows:
        values = [getattr(value, kind) for value in row]
        assert values.count(max(values)) == 1
        largest.append((values.index(max(values)),))
    # 2 cycles of 9 steps; the alphas rest in the first 3 of each. Only those of the
    # first cycle are the largest network's.
    forced = [0, 2, 4, 6, 8]
    assert len(run) == 18
    for number in forced:
        assert [choice.indices for choice in run[number]] == largest
    others = [number for number in range(18) if number not in forced]
    assert len(drawn) == len(others)
    for number, (relaxation, path) in zip(others, drawn, strict=True):
        assert run[number] is path
        assert relaxation == ("uniform" if number % 9 < 3 else "gumbel_st")
    # Even steps of the second run other networks, also where alphas rest.
    for even in ([10], range(12, 18, 2)):
        assert any(
            [choice.indices for choice in run[number]] != largest for number in even
        )
