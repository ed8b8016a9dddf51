#!/usr/bin/env python
# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Trainings on real clips in folds: means, standard errors, differences, a table.

python benchmarks/real_table.py FILE.json --against NAME
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


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


def markdown(
    result: Mapping[str, Any], against: Sequence[str] = (), seeds: Sequence[int] = ()
) -> str:
    """A table of the networks of a result.

    Args:
        result: Content of the file.
        against: Rows whose mean each network is compared with, fold by fold.
        seeds: Only trainings with these. Default: all.
    """
    records = [r for r in result["trainings"] if not seeds or r["seed"] in seeds]
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE.json")
    parser.add_argument("--against", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="default: all")
    args = parser.parse_args()
    print(markdown(json.loads(args.file.read_text()), args.against, args.seeds))
