#!/usr/bin/env python
"""Trainings on real clips in folds: means, errors, paired differences, as a table.

python benchmarks/real_table.py FILE.json --against NAME [NAME ...]
python benchmarks/real_table.py SET_A.json SET_B.json --against "random at 0.333"
"""

import argparse
import json
import math
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from pvnas_mmaction.apis.comparison import bootstrap_interval


def fold_means(records: Sequence[Mapping[str, Any]], name: str) -> dict[int, float]:
    """Mean accuracy of a network over the seeds, fold by fold, in percent."""
    by_fold: dict[int, list[float]] = {}
    for record in records:
        if record["name"] == name:
            by_fold.setdefault(record["fold"], []).append(100 * record["accuracy"])
    return {fold: statistics.fmean(values) for fold, values in sorted(by_fold.items())}


def with_error(values: Sequence[float], sign: str = "") -> str:
    """Mean and standard error. Seeds of one fold are tested on the same few clips and
    are no independent samples: values are means of folds."""
    text = f"{statistics.fmean(values):{sign}.1f}"
    if len(values) < 2:
        return text
    return f"{text} ± {statistics.stdev(values) / math.sqrt(len(values)):.1f}"


def markdown(result: Mapping[str, Any], against: Sequence[str] = ()) -> str:
    """A table of the networks of a result.

    Args:
        result: Content of the file.
        against: Rows whose mean each network is compared with, fold by fold.
    """
    records = result["trainings"]
    base = [fold_means(records, name) for name in against]
    lines = [
        "| network | top-1, % | difference | MMACs | M parameters | trainings |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        own = fold_means(records, row["name"])
        less = [own[f] - statistics.fmean(m[f] for m in base) for f in own if base]
        lines.append(
            f"| {row['name']} | {with_error(list(own.values()))} | "
            f"{with_error(less, '+') if less and row['name'] not in against else ''} | "
            f"{row['macs'] / 1e6:.0f} | {row['params'] / 1e6:.2f} | "
            f"{sum(r['name'] == row['name'] for r in records)} |"
        )
    return "\n".join(lines)


def pooled(record: Mapping[str, Any]) -> str:
    """Name of a network, with one name for all random ones of a budget."""
    return re.sub(r"^random \d+", "random", record["name"])


def difference(pairs: Sequence[tuple[float, float]]) -> str:
    """Mean of paired differences with its 95 % interval; empty where they are none."""
    less = [a - b for a, b in pairs]
    if len(less) < 2 or not any(less):
        return ""
    low, high = bootstrap_interval(np.array(less))
    return f"{statistics.fmean(less):+.1f} ({low:+.1f} to {high:+.1f})"


def comparison(results: Mapping[str, Mapping[str, Any]], against: str) -> str:
    """A table of networks on several data sets, and by how much each is better than one
    of them: paired by data set, fold and seed, the mean over pairs with a 95 %
    bootstrap interval over them, for each set and all; and in percent of the other's
    accuracy.

    Args:
        results: Content of a file by data set.
        against: A network; ``random at B`` is the mean of all ``random K at B``.
    """
    cells: dict[str, dict[tuple, list[float]]] = {}
    for data, result in results.items():
        for record in result["trainings"]:
            cell = data, record["fold"], record["seed"]
            own = cells.setdefault(pooled(record), {}).setdefault(cell, [])
            own.append(100 * record["accuracy"])
    mean_of = statistics.fmean
    means = {n: {c: mean_of(v) for c, v in own.items()} for n, own in cells.items()}
    other = means[against]
    lines = [
        f"| network | {' | '.join(results)} | minus {against} | relative | pairs |",
        "| --- |" + " ---: |" * (len(results) + 3),
    ]
    for name, own in means.items():
        columns = []
        for data in (*results, None):
            mine = [c for c in own if data in (None, c[0])]
            pairs = [(own[c], other[c]) for c in mine if c in other]
            mean = f"{mean_of(own[c] for c in mine):.1f}" if data and mine else ""
            columns.append(", ".join(filter(None, [mean, difference(pairs)])))
        relative = count = ""
        if any(a != b for a, b in pairs):
            relative = mean_of(a for a, _ in pairs) / mean_of(b for _, b in pairs) - 1
            relative, count = f"{relative:+.0%}", len(pairs)
        columns += [relative, str(count)]
        lines.append(f"| {name} | {' | '.join(columns)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.json")
    parser.add_argument("--against", nargs="+", default=[], metavar="NAME")
    args = parser.parse_args()
    results = [json.loads(file.read_text()) for file in args.files]
    if len(results) > 1:
        if len(args.against) != 1:
            parser.error("several files: give one name with --against")
        sets = {result["settings"]["data"]: result for result in results}
        print(comparison(sets, *args.against))
    else:
        print(markdown(results[0], args.against))
