# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Searches judged by the ground truth table: figures, requirements, table, plots."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from scipy.stats import kendalltau

from benchmarks.baselines import BASELINES, affordable, run_baseline
from benchmarks.ground_truth import GroundTruth
from pvnas_mmaction.space.genotype import write_atomically

DEFAULT_VARIANT = "diversity"
MODES = ("constant", "cosine", "cyclic", "diversity")
MEASURES = (
    "regret",
    "unrefined_regret",
    "archive_regret",
    "rank",
    "rank_percentile",
    "kendall_tau",
    "archive_size",
    "distinct",
    "mean_pairwise_hamming",
    "wall_s",
    "clips",
    "path_clips",
    "forward_clips",
)


def judge(record: dict[str, Any], table: GroundTruth) -> dict[str, Any]:
    """What the table says about one run.

    Args:
        record: ``found``, and for a search also ``archive`` and ``inherited``;
            ``max_macs`` where it had a budget.
        table: The ground truth.

    Returns:
        ``regret`` (points of top-1: best of the table, within the budget, minus found),
        ``unrefined_regret`` (the same by the table's main seeds alone),
        ``rank`` (1 is best, within the budget), ``rank_percentile`` (rank over number
        of networks, percent), ``accuracy`` (of the table, a share), ``kendall_tau``
        (inherited against table accuracy), ``archive_regret`` (see
        :func:`regret_of_archive`, points), ``archive_size`` and ``feasible`` (whether
        the budget is kept). None where the table does not hold what is needed.
    """
    found, max_macs = tuple(record["found"]), record.get("max_macs")
    regret = table.regret(found, max_macs)
    rank = table.rank(found, max_macs)
    unrefined = table.unrefined.regret(found, max_macs)
    size = len(table.ranked(max_macs))
    return dict(
        regret=None if regret is None else 100 * regret,
        unrefined_regret=None if unrefined is None else 100 * unrefined,
        archive_regret=regret_of_archive(record, table),
        rank=rank,
        rank_percentile=None if rank is None else 100 * rank / size,
        accuracy=table[found].accuracy if found in table else None,
        kendall_tau=inherited_tau(record.get("inherited", ()), table),
        archive_size=len(record["archive"]) if "archive" in record else None,
        feasible=None if max_macs is None else record["macs"] <= max_macs,
    )


def regret_of_archive(record: dict[str, Any], table: GroundTruth) -> float | None:
    """Regret in points where every network of the archive is trained once, and the one
    that comes out best is taken: the mean over the table's main seeds. What was taken
    is judged by its other seeds, for the one that chose it flatters it; an archive of
    one network has nothing to choose and is judged by all of its seeds. None without
    an archive, or where the table lacks a training that this asks for."""
    archive = {tuple(entry["indices"]) for entry in record.get("archive", ())}
    if not archive or any(indices not in table for indices in archive):
        return None
    best = table.best(record.get("max_macs")).accuracy
    if len(archive) == 1:
        return 100 * (best - table[archive.pop()].accuracy)
    networks = [table[indices] for indices in sorted(archive)]
    regrets = []
    for position in table.main_seeds.values():
        trained = [network.accuracies[position] for network in networks]
        if None in trained:
            return None
        chosen = networks[max(range(len(networks)), key=lambda i: trained[i] or 0.0)]
        others = [
            accuracy
            for index, accuracy in enumerate(chosen.accuracies)
            if index != position and accuracy is not None
        ]
        if not others:
            return None
        regrets.append(100 * (best - statistics.fmean(others)))
    return statistics.fmean(regrets)


def inherited_tau(
    inherited: Sequence[tuple[Sequence[int], float]], table: GroundTruth
) -> float | None:
    """Kendall's tau (b) between inherited-weight accuracy and table accuracy, over the
    networks that the table holds; None below three of them or where all tie."""
    pairs = [
        (accuracy, table[indices].accuracy)
        for indices, accuracy in ((tuple(i), a) for i, a in inherited)
        if indices in table
    ]
    if len(pairs) < 3:
        return None
    tau = float(kendalltau(*zip(*pairs, strict=True)).statistic)
    return None if math.isnan(tau) else tau


def summarise(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean, standard error and number of runs of every measure that is there."""
    summary: dict[str, Any] = dict(runs=len(runs))
    summary["not_in_table"] = sum(run["regret"] is None for run in runs)
    for name in MEASURES:
        values = [run[name] for run in runs if run.get(name) is not None]
        if not values:
            continue
        error = (
            statistics.stdev(values) / math.sqrt(len(values))
            if len(values) > 1
            else None
        )
        summary[name] = dict(mean=statistics.fmean(values), standard_error=error)
    kept = [run["feasible"] for run in runs if run.get("feasible") is not None]
    if kept:
        summary["feasible"] = sum(kept)
    return summary


def judge_all(
    records: Sequence[dict[str, Any]], table: GroundTruth, baseline_seeds: int
) -> dict[str, Any]:
    """Judge every run, run the baselines at equal compute, and check what is required.

    The baselines run twice: with as many trainings as the default's clips are worth,
    and ("all compute") as they are worth where a clip counts once for every candidate
    that it runs through per layer, with the validations at the ends of cycles on top.

    Args:
        records: Runs of ``search_quality.py``, each with its variant and seed.
        table: The ground truth.
        baseline_seeds: Number of runs of each baseline: they are cheap.

    Returns:
        ``table`` (what the table is), ``runs``, ``rows`` (variant or baseline ->
        summary) and ``requirements``.
    """
    runs = [{**record, **judge(record, table)} for record in records]
    groups: dict[str, list[dict]] = {}
    for run in runs:
        groups.setdefault(run["variant"], []).append(run)
    rows = {name: summarise(members) for name, members in groups.items()}
    for variant, suffix in ((DEFAULT_VARIANT, ""), ("budget", " (budget)")):
        if variant not in groups:
            continue
        clips = statistics.median(run["clips"] for run in groups[variant])
        # A forward alone is a third of forward and backward.
        everything = statistics.median(
            run["path_clips"] + run["forward_clips"] / 3 for run in groups[variant]
        )
        max_macs = groups[variant][0]["max_macs"]
        for name in BASELINES:
            for allowed, kind in ((clips, ""), (everything, ", all compute")):
                found = run_baseline(name, table, allowed, baseline_seeds, max_macs)
                judged = [
                    {**run, **judge(_priced(run, table, max_macs), table)}
                    for run in found
                ]
                rows[f"{name}{kind}{suffix}"] = dict(
                    summarise(judged), trainings=affordable(allowed, table)
                )
    return dict(
        table=dict(
            networks=len(table),
            of=table.space.size,
            complete=table.is_complete,
            seeds=list(table.seeds),
            main_seeds=list(table.main_seeds),
            best_accuracy=table.best().accuracy,
            views_per_training=table.views_per_training,
        ),
        runs=runs,
        rows=rows,
        requirements=requirements(rows),
    )


def _priced(run: dict, table: GroundTruth, max_macs: float | None) -> dict:
    return dict(run, max_macs=max_macs, macs=table[tuple(run["found"])].macs)


def requirements(rows: dict[str, dict]) -> list[dict[str, Any]]:
    """What is required of the default, what was found, and whether it is met; what was
    not measured is left out."""

    def mean(row: str, measure: str) -> float | None:
        value = rows.get(row, {}).get(measure)
        return value["mean"] if value else None

    checks: list[tuple[str, float | None, str, float | None]] = [
        ("mean regret, points", mean(DEFAULT_VARIANT, "regret"), "<=", 1.0),
        (
            "mean regret, points, against half of random search's",
            mean(DEFAULT_VARIANT, "regret"),
            "<=",
            _half(mean("random", "regret")),
        ),
        ("mean rank, percent", mean(DEFAULT_VARIANT, "rank_percentile"), "<=", 3.0),
        ("Kendall tau", mean(DEFAULT_VARIANT, "kendall_tau"), ">=", 0.5),
        ("regret under the budget, points", mean("budget", "regret"), "<=", 1.5),
    ]
    for mode in MODES[:-1]:
        for measure, sign in (("regret", "<="), ("mean_pairwise_hamming", ">")):
            checks.append(
                (
                    f"{measure} against mode {mode}",
                    mean(DEFAULT_VARIANT, measure),
                    sign,
                    mean(mode, measure),
                )
            )
    if "feasible" in rows.get("budget", {}):
        kept, total = rows["budget"]["feasible"], rows["budget"]["runs"]
        checks.append(("runs that keep the budget", kept, ">=", total))
    compare = {"<=": float.__le__, ">=": float.__ge__, ">": float.__gt__}
    return [
        dict(
            name=name,
            found=found,
            sign=sign,
            limit=limit,
            met=compare[sign](float(found), float(limit)),
        )
        for name, found, sign, limit in checks
        if found is not None and limit is not None
    ]


def _half(value: float | None) -> float | None:
    return None if value is None else value / 2


def markdown(result: dict[str, Any]) -> str:
    """The rows and the requirements as Markdown."""
    about = result["table"]
    whole = (
        "the complete table"
        if about["complete"]
        else "a PARTIAL table: regret and rank are among the networks in it"
    )
    lines = [
        f"Judged by {whole}: {about['networks']} of {about['of']} networks, seeds "
        f"{about['seeds']}. Mean and standard error over runs; a training counts "
        f"{about['views_per_training']} clips.",
        "",
        f"| search | runs | regret, points | by seeds {about['main_seeds']} alone "
        "| rank, % | archive trained: regret | Kendall tau | archive (distinct) "
        "| pairwise Hamming | clips | clips x paths | wall s | not in table |",
        f"| --- |{' ---: |' * 12}",
    ]
    for name, row in result["rows"].items():
        archive = _cell(row, "archive_size", 1)
        if "distinct" in row:
            archive += f" ({_cell(row, 'distinct', 1)})"
        cells = [
            name,
            str(row["runs"]),
            _cell(row, "regret", 2),
            _cell(row, "unrefined_regret", 2),
            _cell(row, "rank_percentile", 1),
            _cell(row, "archive_regret", 2),
            _cell(row, "kendall_tau", 3),
            archive,
            _cell(row, "mean_pairwise_hamming", 2),
            _cell(row, "clips", 0, error=False),
            _cell(row, "path_clips", 0, error=False),
            _cell(row, "wall_s", 0, error=False),
            str(row["not_in_table"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| required of the default | found | limit | |"]
    lines.append("| --- | ---: | ---: | --- |")
    for item in result["requirements"]:
        verdict = "met" if item["met"] else "MISSED"
        lines.append(
            f"| {item['name']} | {item['found']:.3f} | {item['sign']} "
            f"{item['limit']:.3f} | {verdict} |"
        )
    return "\n".join(lines)


def _cell(row: dict[str, Any], measure: str, digits: int, error: bool = True) -> str:
    if measure not in row:
        return "-"
    text = f"{row[measure]['mean']:.{digits}f}"
    if error and row[measure]["standard_error"] is not None:
        text += f" ± {row[measure]['standard_error']:.{digits}f}"
    return text


def draw_regret(result: dict[str, Any], path: Path) -> None:
    """Plot every run's regret, and the mean of each search."""
    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    names = [name for name, row in result["rows"].items() if "regret" in row]
    for position, name in enumerate(names):
        own = [r["regret"] for r in result["runs"] if r["variant"] == name]
        own = [value for value in own if value is not None]
        axes.scatter([position] * len(own), own, s=16, color="C0", alpha=0.6)
        axes.errorbar(
            position,
            result["rows"][name]["regret"]["mean"],
            yerr=result["rows"][name]["regret"]["standard_error"] or 0,
            fmt="_",
            color="black",
            markersize=18,
            capsize=3,
        )
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_ylabel("regret (points of top-1)")
    axes.set_ylim(bottom=0)
    axes.set_title("Runs, with mean and standard error")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_ranking(result: dict[str, Any], table: GroundTruth, path: Path) -> None:
    """Plot accuracy with inherited weights against table accuracy, run by run of the
    default."""
    figure, axes = pyplot.subplots(figsize=(5, 4.5), layout="constrained")
    for run in result["runs"]:
        if run["variant"] != DEFAULT_VARIANT or run["kendall_tau"] is None:
            continue
        pairs = [(tuple(i), a) for i, a in run["inherited"] if tuple(i) in table]
        x = [100 * table[indices].accuracy for indices, _ in pairs]
        y = [100 * accuracy for _, accuracy in pairs]
        label = f"seed {run['seed']}, tau {run['kendall_tau']:.2f}"
        axes.scatter(x, y, s=12, alpha=0.6, label=label)
    axes.set_xlabel("top-1 (%), trained from scratch")
    axes.set_ylabel("top-1 (%), inherited weights")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def write_report(result: dict[str, Any], table: GroundTruth, path: Path) -> str:
    """Write ``path`` (JSON), beside it the table (``.md``) and two plots
    (``_regret.png``, ``_ranking.png``); gives the table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(result, indent=1) + "\n")
    text = markdown(result)
    write_atomically(path.with_suffix(".md"), text + "\n")
    draw_regret(result, path.with_name(f"{path.stem}_regret.png"))
    draw_ranking(result, table, path.with_name(f"{path.stem}_ranking.png"))
    return text
