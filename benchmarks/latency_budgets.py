#!/usr/bin/env python
"""Do derived networks keep a budget in milliseconds when they are measured whole?

    pvnas latency CONFIG --backend onnxruntime --threads 1 --out TABLE.json
    python benchmarks/latency_budgets.py TABLE.json

Budgets go from 1.2 times the quickest network to the mean one. The networks of the
table's calibration are measured in the same rounds: how much slower or quicker the
machine is than it was for the table is divided out.
"""

import argparse
import json
import random
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pvnas_mmaction.profiling.latency import Networks, measure_networks
from pvnas_mmaction.search.derive import Budget, derive
from pvnas_mmaction.space.cost_table import cost_tables
from pvnas_mmaction.space.search_space import SearchSpace

NUMBER = 20

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path, metavar="TABLE.json")
    path = parser.parse_args().table
    data = json.loads(path.read_text())
    setting, space = data["setting"], SearchSpace.from_config(data["space"])
    shape, classes = data["input_shape"], setting["num_classes"]
    table = cost_tables(space, shape, classes, path)["latency"]
    low = 1.2 * float(table.cheapest())
    high = table.expected([[1 / len(row)] * len(row) for row in table.per_layer])
    limits = [low + (high - low) * i / (NUMBER - 1) for i in range(NUMBER)]
    generator, chosen = random.Random(0), []
    for limit in limits:
        # Slower candidates are better, as they would be in a search.
        scores = [
            [ms**0.5 * generator.random() for ms in row] for row in table.per_layer
        ]
        chosen.append(derive(scores, [Budget(table, limit)])[0])
    known = setting["calibration"]["networks"]
    names = ("threads", "rounds", "backend")
    how = {name: setting[name] for name in names}
    networks = Networks(space, shape, classes, **how)
    whole = [*chosen, *(tuple(row["indices"]) for row in known)]
    times = measure_networks(networks, whole, generator)
    pairs = zip(times[NUMBER:], known, strict=True)
    drift = statistics.median(ms / row["measured_ms"] for ms, row in pairs)
    shares = [
        ms / drift / limit for ms, limit in zip(times[:NUMBER], limits, strict=True)
    ]
    errors = [
        abs(table.cost(network) * drift / ms - 1)
        for network, ms in zip(chosen, times[:NUMBER], strict=True)
    ]
    print(f"within the budget: {sum(s <= 1 for s in shares)} of {NUMBER}")
    print(f"most of a budget: {max(shares):.1%}")
    print(f"median error of the table: {statistics.median(errors):.1%}")
