#!/usr/bin/env python
# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Compare the networks of a result of benchmarks/real_clips.py.

    python benchmarks/real_compare.py FILE.json --against TSM-MobileNetV2

For each network: its accuracy with the standard error over folds, and each fold's.
With --against, the difference from the baseline, or from the mean of several, and its
error; then how far trainings of one fold lie apart; and, where searches of a fold were
judged by clips held out, how far the best two lie apart. With --seeds, all of that for
some of the seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.real_report import difference, fold_means, mean_and_error
from pvnas_mmaction.apis.cli import run


def seed_ranges(records: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Best minus worst of the trainings of one network on one fold, in points, for
    every network and fold of a row that was trained with more than one seed."""
    groups: dict[tuple, dict[int, float]] = {}
    for record in records:
        if record["name"] == name:
            group = groups.setdefault((record["fold"], record["blocks"]), {})
            group[record["seed"]] = 100 * record["accuracy"]
    by_seed = [group.values() for group in groups.values() if len(group) > 1]
    return [max(accuracies) - min(accuracies) for accuracies in by_seed]


def finalist_gaps(
    tuning: Sequence[Mapping[str, Any]], name: str, lr: float
) -> list[float]:
    """Mean accuracy on the inner splits of the best network of a row less that of the
    second best, in points, for each fold.

    Args:
        tuning: Records of the trainings on inner splits.
        name: Of the row.
        lr: Learning rate that the networks were judged with.
    """
    found: dict[int, dict[str, list[float]]] = {}
    for record in tuning:
        if (record["name"], record["lr"]) == (name, lr):
            networks = found.setdefault(record["fold"], {})
            networks.setdefault(record["blocks"], []).append(100 * record["accuracy"])
    gaps = []
    for networks in found.values():
        means = sorted(sum(values) / len(values) for values in networks.values())
        if len(means) > 1:
            gaps.append(means[-1] - means[-2])
    return gaps


def plus_minus(figure: Mapping[str, float | None], mean: str = "{:.1f}") -> str:
    """A mean and its standard error, where there is one."""
    text = mean.format(figure["mean"])
    error = figure["standard_error"]
    return text if error is None else f"{text} ± {error:.1f}"


def accuracies(result: Mapping[str, Any]) -> list[str]:
    """A line for each network of a file: mean over folds and each fold, in percent."""
    lines = []
    for row in result["rows"]:
        means = fold_means(result["trainings"], row["name"])
        percent = [100 * mean for mean in means.values()]
        folds = ", ".join(f"{value:.1f}" for value in percent)
        figure = plus_minus(mean_and_error(percent))
        lines.append(f"{row['name']}: {figure} %; folds {folds}")
    return lines


def with_seeds(result: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """The result of some seeds of the trainings alone.

    Raises:
        ValueError: There is none of some seed.
    """
    found = sorted({record["seed"] for record in result["trainings"]})
    if not set(seeds) <= set(found):
        raise ValueError(f"--seeds: found {list(seeds)}, expected some of {found}")
    trainings = [r for r in result["trainings"] if r["seed"] in seeds]
    return dict(result, trainings=trainings)


def compare(result: Mapping[str, Any], against: Sequence[str]) -> list[str]:
    """Lines of text.

    Args:
        result: Content of the file.
        against: Names of rows: the baseline, or several, whose mean it is.

    Raises:
        ValueError: There is no such row.
    """
    names = [row["name"] for row in result["rows"]]
    for name in against:
        if name not in names:
            raise ValueError(f"--against: found {name!r}, expected some of {names}")
    lines = []
    for name in names:
        if [name] == list(against):
            continue
        gain = difference(result["trainings"], name, *against)
        text = plus_minus(gain, "{:+.1f}")
        parts = [f"{name}: {text} against {', '.join(against)}"]
        if ranges := seed_ranges(result["trainings"], name):
            parts.append(f"trainings of a fold {min(ranges):.1f} to {max(ranges):.1f}")
        rate = result["settings"].get("keep_best")
        if rate and (gaps := finalist_gaps(result["tuning"], name, rate)):
            parts.append(f"best two searches {min(gaps):.1f} to {max(gaps):.1f} apart")
        lines.append("; ".join(parts))
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, metavar="FILE.json")
    parser.add_argument("--against", nargs="+", metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: all")
    args = parser.parse_args(argv)
    result = json.loads(args.file.read_text())
    if args.seeds is not None:
        result = with_seeds(result, args.seeds)
    print("\n".join(accuracies(result)))
    if args.against is not None:
        print("\n".join(compare(result, args.against)))


if __name__ == "__main__":
    run(main)
