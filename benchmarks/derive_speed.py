#!/usr/bin/env python
# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Time exact derivation under one budget and under two.

Probabilities are random, from nearly uniform to nearly one-hot; budgets lie between the
cost of the cheapest network and that of the most likely one, and two may exclude each
other. ``synthetic`` has 25 layers of 12 candidates with unrelated random costs.

    python benchmarks/derive_speed.py --out benchmarks/results/derive_speed.json
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mmengine.config import Config

from benchmarks.jobs import provenance
from pvnas_mmaction.search.derive import Budget, InfeasibleBudgetError, derive
from pvnas_mmaction.search.diversity import softmax
from pvnas_mmaction.space.cost_table import CostTable, cost_tables
from pvnas_mmaction.space.genotype import write_atomically
from pvnas_mmaction.space.search_space import SearchSpace

SPACES = Path(__file__).resolve().parent.parent / "configs/pvnas/_base_/spaces"
KINDS = dict(flops=10**8, params=10**5)  # and the largest cost of the synthetic space
SHARPNESS = (0.1, 1.0, 4.0)
TIGHTNESS = (0.1, 0.5, 0.9)


def costs_of(name: str) -> dict[str, CostTable]:
    """Costs of a space by kind."""
    if name == "synthetic":
        draw = random.Random(0).randint
        return {
            kind: CostTable(
                kind, "", 0, [[draw(1, top) for _ in range(12)] for _ in range(25)]
            )
            for kind, top in KINDS.items()
        }
    space = SearchSpace.from_config(Config.fromfile(SPACES / f"{name}.py").space)
    return cost_tables(space, (3, 8, 112, 112), 400)


def measure(name: str, kinds: list[str], repeats: int) -> dict[str, Any]:
    """Time one derivation of each of many random problems."""
    costs, seconds, infeasible = costs_of(name), [], 0
    for seed, sharpness, tightness in product(range(repeats), SHARPNESS, TIGHTNESS):
        gauss = random.Random(f"{seed} {sharpness}").gauss
        rows = costs["flops"].per_layer
        alphas = [[gauss(0, sharpness) for _ in row] for row in rows]
        log_probs = [[math.log(p) for p in row] for row in softmax(alphas)]
        likely = [row.index(max(row)) for row in log_probs]
        budgets = []
        for kind in kinds:
            table = costs[kind]
            least = float(table.cheapest())
            limit = least + math.ceil(tightness * (table.cost(likely) - least))
            budgets.append(Budget(table, limit))
        start = time.perf_counter()
        try:
            derive(log_probs, budgets)
        except InfeasibleBudgetError:
            infeasible += 1
        seconds.append(time.perf_counter() - start)
    return dict(
        space=name,
        budgets=kinds,
        problems=len(seconds),
        infeasible=infeasible,
        median_s=round(statistics.median(seconds), 4),
        max_s=round(max(seconds), 4),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spaces", nargs="+", default=["synthetic", "lite0", "lite2"])
    parser.add_argument("--repeats", type=int, default=5, help="seeds; default: 5")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    pairs = product(args.spaces, (["flops"], ["flops", "params"]))
    rows = [measure(name, kinds, args.repeats) for name, kinds in pairs]
    result = dict(provenance("benchmarks/derive_speed.py"), results=rows)
    print(*rows, sep="\n")
    write_atomically(args.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
