# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Time exact derivation under a budget, and write the times as JSON.

For each space, derivation is timed under a FLOPs budget, and under a FLOPs and a
parameter budget, for random probabilities: alphas drawn from a normal
distribution, from nearly uniform to nearly one-hot. Budgets lie between the cost
of the cheapest network and that of the most likely one; two that exclude each
other count as infeasible. ``synthetic`` has 25 layers of 12 candidates with
unrelated random costs.

    python benchmarks/derive_speed.py --out benchmarks/results/derive_speed.json
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import statistics
import sys
import time
from pathlib import Path

import scipy
from mmengine.config import Config

from pvnas_mmaction.search.derive import Budget, InfeasibleBudgetError, derive
from pvnas_mmaction.search.diversity import softmax
from pvnas_mmaction.space.cost import layer_costs, skeleton_cost
from pvnas_mmaction.space.search_space import SearchSpace

ROOT = Path(__file__).resolve().parent.parent
SPACES = ROOT / "configs" / "pvnas" / "_base_" / "spaces"
SHARPNESS = (0.1, 1.0, 4.0)
TIGHTNESS = (0.1, 0.5, 0.9)


def cost_tables(name: str, input_shape: list[int], num_classes: int) -> dict:
    """Return fixed and per-layer costs by kind of budget."""
    if name == "synthetic":
        generator = random.Random(0)
        return {
            kind: (
                0,
                [[generator.randint(1, top) for _ in range(12)] for _ in range(25)],
            )
            for kind, top in (("flops", 10**8), ("params", 10**5))
        }
    config = Config.fromfile(SPACES / f"{name}.py")
    space = SearchSpace.from_config(config.space)
    costs = layer_costs(space, input_shape)
    fixed = skeleton_cost(space.skeleton, input_shape, num_classes)
    return {
        "flops": (fixed.macs, [[c.macs for c in layer] for layer in costs]),
        "params": (fixed.params, [[c.params for c in layer] for layer in costs]),
    }


def make_budget(kind: str, table: tuple, likely: list[int], tightness: float) -> Budget:
    """Put the limit between the cheapest and the most likely network."""
    fixed, layers = table
    cheapest = fixed + sum(map(min, layers))
    wanted = fixed + sum(layer[o] for layer, o in zip(layers, likely, strict=True))
    limit = cheapest + math.ceil(tightness * (wanted - cheapest))
    return Budget(kind, limit, fixed, layers)


def measure(tables: dict, kinds: list[str], repeats: int) -> dict:
    """Time one derivation of each random problem."""
    seconds, infeasible = [], 0
    sizes = [len(layer) for layer in tables["flops"][1]]
    for seed in range(repeats):
        generator = random.Random(seed)
        for sharpness in SHARPNESS:
            alphas = [[generator.gauss(0, sharpness) for _ in range(k)] for k in sizes]
            log_probs = [[math.log(p) for p in layer] for layer in softmax(alphas)]
            likely = [layer.index(max(layer)) for layer in log_probs]
            for tightness in TIGHTNESS:
                budgets = [
                    make_budget(kind, tables[kind], likely, tightness) for kind in kinds
                ]
                start = time.perf_counter()
                try:
                    derive(log_probs, budgets)
                except InfeasibleBudgetError:
                    infeasible += 1
                seconds.append(time.perf_counter() - start)
    return {
        "budgets": kinds,
        "problems": len(seconds),
        "infeasible": infeasible,
        "median_s": round(statistics.median(seconds), 4),
        "max_s": round(max(seconds), 4),
    }


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--spaces", nargs="+", default=["synthetic", "light", "medium"])
    parser.add_argument("--input-shape", type=int, nargs=4, default=[3, 8, 112, 112])
    parser.add_argument("--num-classes", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5, help="seeds per setting")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    results = []
    for name in args.spaces:
        tables = cost_tables(name, args.input_shape, args.num_classes)
        sizes = [len(layer) for layer in tables["flops"][1]]
        for kinds in (["flops"], ["flops", "params"]):
            row = {"space": name, "layers": len(sizes), "candidates": sum(sizes)}
            results.append({**row, **measure(tables, kinds, args.repeats)})
    report = {
        "command": " ".join(["python", "benchmarks/derive_speed.py", *sys.argv[1:]]),
        "input_shape": args.input_shape,
        "num_classes": args.num_classes,
        "sharpness": SHARPNESS,
        "tightness": TIGHTNESS,
        "python": platform.python_version(),
        "scipy": scipy.__version__,
        "machine": platform.machine(),
        "results": results,
    }
    text = json.dumps(report, indent=2)
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
