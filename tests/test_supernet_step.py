# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""What a step of a search saves for its backward pass."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

FILE = Path(__file__).resolve().parent.parent / "benchmarks" / "supernet_step.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("supernet_step", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bench(benchmark):
    return benchmark.Bench("light", (4, 32, 32))


def test_count_by_hand(benchmark):
    model = nn.Sequential(
        nn.Linear(3, 5, bias=False), nn.ReLU(inplace=True), nn.Linear(5, 2)
    )
    x = torch.randn(7, 3)
    # Both Linear save their input and their weight, ReLU its output, which is the
    # input of the second Linear. Weights do not count.
    assert benchmark.saved_bytes(model, lambda: model(x)) == 4 * (7 * 3 + 7 * 5)


def test_same_storage_counts_once(benchmark):
    model = nn.Linear(4, 4)
    x = torch.randn(6, 4)
    count = benchmark.saved_bytes(model, lambda: model(x) + model(x[:3]).sum())
    assert count == 4 * 6 * 4


@pytest.mark.parametrize(
    ("kind", "relaxation", "limit"),
    [
        ("weights", "uniform", 1.15),
        ("weights", "gumbel_st", 1.15),
        ("alpha", "gumbel_st", 1.15),
        ("alpha", "two_path", 2.2),
    ],
)
def test_step_saves_little_more_than_derived_network(
    benchmark, bench, kind, relaxation, limit
):
    row = benchmark.count_saved(bench, kind, relaxation, range(2))
    assert 0 < row["saved_ratio_max"] <= limit


def test_all_candidates_save_several_times_as_much(benchmark, bench):
    row = benchmark.count_saved(bench, "weights", "softmax", range(1))
    assert row["saved_ratio"] > 5


def test_count_grows_with_the_batch(benchmark, bench):
    """So that a count at batch size 1 tells that of any other."""
    one, four = (
        benchmark.saved_bytes(
            bench.model,
            bench.search_step("weights", "gumbel_st", 0, bench.batch(size)),
        )
        for size in (1, 4)
    )
    assert four == pytest.approx(4 * one, rel=0.05)
