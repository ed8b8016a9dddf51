# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Trainings on real clips: means, standard errors, differences, table and plots."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

from pvnas_mmaction.space.genotype import write_atomically

TSM = ("TSM-R50", "TSM-MobileNetV2")
SEARCHED = "<= TSM-MobileNetV2"
MARGIN = 4.6


def fold_means(records: Sequence[Mapping[str, Any]], name: str) -> dict[int, float]:
    """Mean accuracy of a network over the seeds, fold by fold, a share."""
    by_fold: dict[int, list[float]] = {}
    for record in records:
        if record["name"] == name:
            by_fold.setdefault(record["fold"], []).append(record["accuracy"])
    return {fold: statistics.fmean(values) for fold, values in sorted(by_fold.items())}


def mean_and_error(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and its standard error; None below two values."""
    error = (
        statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    )
    return dict(mean=statistics.fmean(values), standard_error=error)


def difference(
    records: Sequence[Mapping[str, Any]], name: str, *others: str
) -> dict[str, float | None]:
    """Mean accuracy of one network minus that of another, or minus the mean of several,
    in points, with the standard error over the folds, which all share."""
    ours = fold_means(records, name)
    theirs = [fold_means(records, other) for other in others]
    return mean_and_error(
        [
            100 * (ours[fold] - statistics.fmean(means[fold] for means in theirs))
            for fold in ours
            if all(fold in means for means in theirs)
        ]
    )


def summarise(
    records: Sequence[Mapping[str, Any]],
    costs: Mapping[str, Sequence[Mapping[str, float]]],
    names: Sequence[str],
) -> dict[str, Any]:
    """Rows and what is required.

    The standard error is over folds, of the means over seeds: seeds of one fold are
    tested on the same few clips and are no independent samples.

    Args:
        records: A record per training.
        costs: For each network what ``measure`` gave; several where folds differ.
        names: Of the networks, in the order of the table.

    Returns:
        ``rows`` and ``requirements``.
    """
    rows = []
    for name in names:
        own = [r for r in records if r["name"] == name]
        seeds_error = mean_and_error([r["accuracy"] for r in own])["standard_error"]
        row = dict(
            name=name,
            trainings=len(own),
            **mean_and_error(list(fold_means(records, name).values())),
            standard_error_over_trainings=seeds_error,
            folds=fold_means(records, name),
            learning_rates={
                str(fold): sorted({r["lr"] for r in own if r["fold"] == fold})
                for fold in fold_means(records, name)
            },
        )
        for key in ("macs", "params", "latency_ms"):
            row[key] = statistics.fmean(cost[key] for cost in costs[name])
        row["max_macs"] = max(cost["macs"] for cost in costs[name])
        rows.append(row)
    return dict(rows=rows, requirements=requirements(records, rows))


def requirements(
    records: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Each network searched under TSM-MobileNetV2's MACs against the best TSM: the
    difference less its standard error is to be 4.6 points or more."""
    baselines = [row for row in rows if row["name"] in TSM]
    found = []
    for row in rows:
        if not row["name"].endswith(SEARCHED) or not baselines:
            continue
        best = max(baselines, key=lambda r: r["mean"])["name"]
        gain = difference(records, row["name"], best)
        error = gain["standard_error"]
        met = error is not None and gain["mean"] - error >= MARGIN
        found.append(
            dict(
                name=f"{row['name']} against {best}, points",
                found=gain["mean"],
                standard_error=error,
                limit=MARGIN,
                met=met,
            )
        )
    return found


def _rates(settings: Mapping[str, Any]) -> str:
    """How networks came by their learning rates."""
    rates = ", ".join(map(str, settings["learning_rates"]))
    if len(settings["learning_rates"]) == 1:
        return f"Learning rate {rates}"
    splits = settings.get("tuning_splits", 1)  # at first there was one alone
    return (
        f"Learning rate out of {rates} by clips held out of each fold's training part "
        f"({splits} of its splits)"
    )


def markdown(result: Mapping[str, Any]) -> str:
    """Rows and requirements as Markdown."""
    settings = result["settings"]
    shape = f"3x{settings['frames']}x{settings['crop']}x{settings['crop']}"
    lines = [
        f"From scratch, input {shape}, {settings['epochs']} epochs, folds "
        f"{settings['folds']}, seeds {settings['seeds']}. {_rates(settings)}, for "
        "every network alike. Standard error over folds.",
    ]
    if settings.get("keep_best") is not None:
        lines[0] += (
            f" Of the searches {settings['search_seeds']} of a fold the network that "
            f"trains best on those splits, at {settings['keep_best']:g}."
        )
    if result["reduced"]:
        lines += ["", "A REDUCED setting: it shows that everything runs, no more."]
    lines += [
        "",
        "| network | top-1, % | MACs, G | parameters, M | latency, ms | trainings |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['name']} | {points(row)} | {row['macs'] / 1e9:.3f} | "
            f"{row['params'] / 1e6:.2f} | {row['latency_ms']:.1f} | "
            f"{row['trainings']} |"
        )
    for item in result["requirements"]:
        error = item["standard_error"]
        spread = "" if error is None else f" ± {error:.1f}"
        verdict = "met" if item["met"] else "MISSED"
        lines += [
            "",
            f"{item['name']}: {item['found']:+.1f}{spread}, required at least "
            f"{item['limit']} beyond one standard error: {verdict}",
        ]
    return "\n".join(lines)


def points(row: Mapping[str, Any]) -> str:
    """``mean`` and ``standard_error``, shares, in points."""
    text = f"{100 * row['mean']:.1f}"
    if row["standard_error"] is not None:
        text += f" ± {100 * row['standard_error']:.1f}"
    return text


def draw(rows: Sequence[Mapping[str, Any]], key: str, label: str, path: Path) -> None:
    """Plot accuracy against a cost, on a logarithmic axis."""
    figure, axes = pyplot.subplots(figsize=(6.5, 4.2), layout="constrained")
    for row in rows:
        axes.errorbar(
            row[key],
            100 * row["mean"],
            yerr=100 * (row["standard_error"] or 0),
            fmt="o",
            capsize=3,
            label=row["name"],
        )
    axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel("top-1 (%), mean and standard error over folds")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def write_report(result: Mapping[str, Any], path: Path) -> str:
    """Write ``path`` (JSON), beside it the table (``.md``) and two plots
    (``_macs.png``, ``_latency.png``); gives the table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(result, indent=1) + "\n")
    text = markdown(result)
    write_atomically(path.with_suffix(".md"), text + "\n")
    rows = result["rows"]
    label = "multiply-accumulates of one view"
    draw(rows, "macs", label, path.with_name(f"{path.stem}_macs.png"))
    label = "latency of one view (ms)"
    draw(rows, "latency_ms", label, path.with_name(f"{path.stem}_latency.png"))
    return text
