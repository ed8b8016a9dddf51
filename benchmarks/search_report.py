"""Searches judged by the ground truth table."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import kendalltau

from benchmarks.baselines import BASELINES, run_baseline
from benchmarks.ground_truth import GroundTruth

DEFAULT_VARIANT = "diversity"
# Column -> measure of a run, its digits, and whether its standard error is shown.
COLUMNS = {
    "regret, points": ("regret", 2, True),
    "rank, %": ("rank_percentile", 1, True),
    "Kendall tau": ("kendall_tau", 2, True),
    "networks in archive": ("distinct", 1, False),
    "their distance": ("mean_pairwise_hamming", 2, True),
    "clips": ("clips", 0, False),
    "clips x paths": ("path_clips", 0, False),
}


def judge(record: Mapping[str, Any], table: GroundTruth) -> dict[str, Any]:
    """What the table says about one run.

    Args:
        record: ``found``, and for a search also ``inherited``; ``max_macs`` where it
            had a budget.
        table: The ground truth.

    Returns:
        ``regret`` (points of top-1: best of the table, within the budget, minus found),
        ``rank`` (1 is best, within the budget), ``rank_percentile`` (rank over number
        of networks, percent), ``kendall_tau`` (inherited against table accuracy) and
        ``feasible`` (whether the budget is kept). None where the table does not hold
        what is needed.
    """
    found, max_macs = tuple(record["found"]), record.get("max_macs")
    regret, rank = table.regret(found, max_macs), table.rank(found, max_macs)
    size = len(table.ranked(max_macs))
    return dict(
        regret=None if regret is None else 100 * regret,
        rank=rank,
        rank_percentile=None if rank is None else 100 * rank / size,
        kendall_tau=inherited_tau(record.get("inherited", ()), table),
        feasible=None if max_macs is None else record["macs"] <= max_macs,
    )


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


def summarise(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Number of runs, and mean and standard error of every measure that is there."""
    summary: dict[str, Any] = dict(runs=len(runs))
    for name in (*(name for name, *_ in COLUMNS.values()), "rank", "wall_s"):
        values = [run[name] for run in runs if run.get(name) is not None]
        if values:
            error = None
            if len(values) > 1:
                error = statistics.stdev(values) / math.sqrt(len(values))
            summary[name] = dict(mean=statistics.fmean(values), standard_error=error)
    kept = [run["feasible"] for run in runs if run.get("feasible") is not None]
    return dict(summary, feasible=sum(kept)) if kept else summary


def judge_all(
    records: Sequence[Mapping[str, Any]], table: GroundTruth, baseline_seeds: int
) -> dict[str, Any]:
    """Judge every run, and run the baselines at equal compute.

    The baselines run twice: with as many trainings as the default's clips are worth,
    and ("all compute") as they are worth where a clip counts once for every candidate
    that it runs through per layer, with the validations at the ends of cycles on top.

    Args:
        records: Runs of ``search_quality.py``, each with its variant and seed.
        table: The ground truth.
        baseline_seeds: Number of runs of each baseline: they are cheap.

    Returns:
        ``table`` (what the table is), ``runs`` and ``rows`` (variant or baseline ->
        summary).
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
                rows[f"{name}{kind}{suffix}"] = summarise(
                    [{**run, **judge(run, table)} for run in found]
                )
    return dict(
        table=dict(
            networks=len(table),
            of=table.space.size,
            seeds=list(table.seeds),
            best_accuracy=table.best().accuracy,
            views_per_training=table.views_per_training,
        ),
        runs=runs,
        rows=rows,
    )


def markdown(result: Mapping[str, Any]) -> str:
    """The rows as Markdown: means, with standard errors over runs."""
    lines = [
        f"| search | runs | {' | '.join(COLUMNS)} |",
        f"| --- |{' ---: |' * (1 + len(COLUMNS))}",
    ]
    for name, row in result["rows"].items():
        cells = [name, str(row["runs"])]
        for measure, digits, with_error in COLUMNS.values():
            figure = row.get(measure)
            cells.append(f"{figure['mean']:.{digits}f}" if figure else "-")
            if with_error and figure and figure["standard_error"] is not None:
                cells[-1] += f" ± {figure['standard_error']:.{digits}f}"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def by_rate(result: Mapping[str, Any]) -> str:
    """Regrets of each variant at each of the alphas' rates (``NAME xF``), over all of
    them, the highest, and how many runs end in the worse half of the networks."""
    runs, half = result["runs"], result["table"]["networks"] / 2
    names = dict.fromkeys(run["variant"] for run in runs)
    rates = dict.fromkeys(name.partition(" x")[2] or "1" for name in names)
    heads = ["default" if rate == "1" else f"x{rate}" for rate in rates]
    heads += ["mean", "worst", "collapsed"]
    lines = [
        f"| regret, points, by rate | {' | '.join(heads)} |",
        f"| --- |{' ---: |' * len(heads)}",
    ]
    for variant in dict.fromkeys(name.partition(" x")[0] for name in names):
        own = [run for run in runs if run["variant"].partition(" x")[0] == variant]
        cells = []
        for rate in (*rates, None):
            name = variant if rate == "1" else f"{variant} x{rate}"
            regret = summarise([r for r in own if rate is None or r["variant"] == name])
            regret = regret["regret"]
            cells.append(f"{regret['mean']:.2f} ± {regret['standard_error'] or 0:.2f}")
        collapsed = sum(run["rank"] > half for run in own)
        cells += [f"{max(run['regret'] for run in own):.2f}"]
        lines.append(f"| {variant} | {' | '.join(cells)} | {collapsed} of {len(own)} |")
    return "\n".join(lines)
