#!/usr/bin/env python
# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""What the archives of searches are worth as ensembles, on the ground truth's clips.

    python benchmarks/archive_ensemble.py --data data/motion_clips_noisy --workers 2 \
        --out benchmarks/results/archive_ensemble.json

A search of this project ends with an archive of several networks. Each of them is
trained alone, by the table's recipe, and their class probabilities are averaged. Beside
that stand as many trainings of the one network that the search found, with other seeds,
and as many random networks. Archives come from a file of search_quality.py.

Each training is one line of WORK_DIR/predictions.jsonl; the command goes on from there
when it is started again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.clips import read_manifest
from benchmarks.ground_truth import DEFAULT, GroundTruth, load
from benchmarks.ground_truth.recipe import LATER, Recipe, fit, predict
from benchmarks.ground_truth.table import Indices
from benchmarks.ground_truth.train import Loader, State
from benchmarks.jobs import JobLog, provenance, run_jobs
from benchmarks.real_report import mean_and_error, points
from pvnas_mmaction.apis.cli import run
from pvnas_mmaction.profiling.timing import check_device
from pvnas_mmaction.search.randomness import derived_seed
from pvnas_mmaction.space.genotype import write_atomically

ROOT = Path(__file__).resolve().parent.parent
SEARCHES = ROOT / "benchmarks" / "results" / "search_quality.json"
LOG = "predictions"
FOUND, RANDOM = "the network found", "random networks"
MEASURES = ("members", "best_member", "ensemble", "disagreement", "macs")
# A network and the seed of its training.
Member = tuple[Indices, int]


def work(state: State, job: Member) -> dict[str, Any]:
    """Train one network; keep what it says about every validation clip."""
    indices, seed = job
    started = time.perf_counter()
    model, _ = fit(state.space, indices, state.train, state.recipe, seed)
    probabilities = predict(model, state.val)
    return dict(
        indices=list(indices),
        seed=seed,
        probabilities=[[round(p, 5) for p in row] for row in probabilities.tolist()],
        seconds=round(time.perf_counter() - started, 2),
    )


def ensembles(
    runs: Sequence[Mapping[str, Any]],
    variants: Sequence[str],
    table: GroundTruth,
    repeats: int = 1,
) -> dict[str, dict[tuple[int, int], list[Member]]]:
    """Which trainings are averaged.

    The archives of a search mode have as many networks as cycles, and the ensembles
    that they are compared with as many trainings as the first mode's archives. Every
    member has a training of its own, also where two searches found the same networks:
    a training that two ensembles share would make them look more alike than they are.

    Args:
        runs: Those of a file of search_quality.py.
        variants: Search modes; the first one's choice is trained several times too.
        table: The ground truth, whose space random networks are drawn from.
        repeats: Each ensemble is trained so often, with other seeds. Default 1.

    Returns:
        Name of the ensemble -> (seed of the search, repeat) -> members.

    Raises:
        ValueError: There is no run of a variant.
    """
    found: dict[str, dict[tuple[int, int], list[Member]]] = {}
    networks = [network.indices for network in table.values()]
    for variant in variants:
        own = [r for r in runs if r["variant"] == variant]
        if not own:
            there = sorted({r["variant"] for r in runs})
            raise ValueError(f"variants: found {variant!r}, expected some of {there}")
        for r in own:
            archive = [tuple(entry["indices"]) for entry in r["archive"]]
            groups = {f"archive of {variant}": archive}
            if variant == variants[0]:
                drawn = np.random.default_rng(r["seed"]).choice(
                    len(networks), len(archive), replace=False
                )
                groups[FOUND] = [tuple(r["found"])] * len(archive)
                groups[RANDOM] = [networks[index] for index in drawn]
            for name, members in groups.items():
                seed = derived_seed(r["seed"], *name.encode())
                found[name] = found.get(name, {}) | {
                    (r["seed"], repeat): [
                        (indices, seed + repeat * len(members) + number)
                        for number, indices in enumerate(members)
                    ]
                    for repeat in range(repeats)
                }
    return found


def judge(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """One ensemble.

    Args:
        probabilities: (M, N, classes) of its M members.
        labels: (N,), class ids.

    Returns:
        ``members`` (mean top-1 of the members), ``best_member``, ``ensemble`` (top-1 of
        the mean of the probabilities) and ``disagreement`` (share of the clips on which
        two members give different classes, mean over the pairs; 0 of one member).
    """
    classes = probabilities.argmax(axis=2)
    accuracies = (classes == labels).mean(axis=1)
    pairs = [float((a != b).mean()) for a, b in combinations(classes, 2)]
    return dict(
        members=float(accuracies.mean()),
        best_member=float(accuracies.max()),
        ensemble=float((probabilities.mean(axis=0).argmax(axis=1) == labels).mean()),
        disagreement=statistics.fmean(pairs) if pairs else 0.0,
    )


def judge_all(
    groups: Mapping[str, Mapping[tuple[int, int], Sequence[Member]]],
    records: Sequence[Mapping[str, Any]],
    labels: np.ndarray,
    table: GroundTruth,
) -> dict[str, Any]:
    """Every ensemble, and what their means differ by.

    Returns:
        ``ensembles`` (a record each) and ``rows`` (mean and standard error over the
        searches, of the means over repeats; ``gain``: ensemble less the mean of its
        members; ``against_found``: ensemble less that of the network found, search by
        search), in shares.
    """
    by_member = {
        (tuple(r["indices"]), r["seed"]): np.asarray(r["probabilities"])
        for r in records
    }
    macs = {network.indices: network.macs for network in table.values()}
    judged = []
    for name, by_run in groups.items():
        for (search, repeat), members in by_run.items():
            stacked = np.stack([by_member[member] for member in members])
            judged.append(
                dict(
                    name=name,
                    search_seed=search,
                    repeat=repeat,
                    networks=[list(indices) for indices, _ in members],
                    macs=sum(macs[indices] for indices, _ in members),
                    **judge(stacked, labels),
                )
            )
    rows = []
    baseline = _by_search(judged, FOUND)
    for name in groups:
        own = _by_search(judged, name)
        values: dict[str, list[float]] = {
            key: [each[key] for each in own.values()] for key in MEASURES
        }
        values["gain"] = [each["ensemble"] - each["members"] for each in own.values()]
        values["against_found"] = [
            each["ensemble"] - baseline[search]["ensemble"]
            for search, each in own.items()
            if search in baseline
        ]
        rows.append(
            dict(name=name, **{k: mean_and_error(v) for k, v in values.items()})
        )
    return dict(ensembles=judged, rows=rows)


def _by_search(
    judged: Sequence[Mapping[str, Any]], name: str
) -> dict[int, dict[str, float]]:
    """Seed of the search -> means over the repeats."""
    own = [each for each in judged if each["name"] == name]
    return {
        search: {
            key: statistics.fmean(
                each[key] for each in own if each["search_seed"] == search
            )
            for key in MEASURES
        }
        for search in sorted({each["search_seed"] for each in own})
    }


def markdown(result: Mapping[str, Any]) -> str:
    """Rows as Markdown."""
    lines = [
        "| ensemble of | mean of members, % | best member, % | ensemble, % | gain, "
        "points | against the network found | disagreement, % | MMACs |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        cells = [
            points(row[key])
            for key in (
                "members",
                "best_member",
                "ensemble",
                "gain",
                "against_found",
                "disagreement",
            )
        ]
        cells.append(f"{row['macs']['mean'] / 1e6:.1f}")
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, default=ROOT / "data" / "motion_clips_noisy")
    add("--table", type=Path, default=DEFAULT, help="default: the project's own")
    add("--searches", type=Path, default=SEARCHES, help="file of search_quality.py")
    add("--variants", nargs="+", default=["diversity", "cyclic"])
    add("--repeats", type=int, default=1, help="trainings of each ensemble")
    add("--workers", type=int, default=1, help="processes of one thread each")
    add("--device", default="cpu", help="cpu or cuda")
    add("--work-dir", type=Path, default=ROOT / "work_dirs" / "archive_ensemble")
    add("--out", type=Path, help="default: WORK_DIR/archive_ensemble.json")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    check_device(args.device)
    if args.repeats < 1:
        raise ValueError(f"--repeats: found {args.repeats}, expected 1 or more")
    table = load(args.table)
    table.check_clips(read_manifest(args.data), args.data.name)
    recipe = Recipe(**{**LATER, **table.settings["recipe"]})
    loader = Loader(
        table.settings["space"], recipe, args.data, args.work_dir, args.device
    )
    runs = json.loads(args.searches.read_text())["runs"]
    groups = ensembles(runs, args.variants, table, args.repeats)
    settings = dict(clips=table.settings["clips"], recipe=recipe.to_settings())
    log = JobLog(args.work_dir, LOG, settings)
    done = {(tuple(r["indices"]), r["seed"]) for r in log.records}
    # Each training once, whichever ensembles it is part of.
    wanted = dict.fromkeys(
        member
        for by_run in groups.values()
        for members in by_run.values()
        for member in members
    )
    labels = loader().val.labels.cpu().numpy()  # decodes the clips, before any process
    jobs = [member for member in wanted if member not in done]
    run_jobs(jobs, work, loader, log, args.workers, "Trainings")
    result = dict(
        provenance("benchmarks/archive_ensemble.py", args.device),
        searches=args.searches.name,
        settings=dict(asdict(recipe), repeats=args.repeats),
        seconds=round(sum(r["seconds"] for r in log.records), 2),
        **judge_all(groups, log.records, labels, table),
    )
    out = args.out or args.work_dir / "archive_ensemble.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, json.dumps(result, indent=1) + "\n")
    text = markdown(result)
    write_atomically(out.with_suffix(".md"), text + "\n")
    print(text)


if __name__ == "__main__":
    run(main)
