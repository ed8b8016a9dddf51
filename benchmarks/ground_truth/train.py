#!/usr/bin/env python
"""Train every network of the space `tiny` from scratch, and write the table.

    python benchmarks/ground_truth/train.py train --workers 2
    python benchmarks/ground_truth/train.py pack
    python benchmarks/ground_truth/train.py summary --plot FILE.png

`train` appends each result to WORK_DIR/trainings.jsonl and continues from there when it
is started again; what a table of the same settings holds is not trained again, so that
one may be extended by seeds: for all networks, or for the best of them (`--seeds 2 3
--best 32`). `pack` writes what is there as one compressed file, a random sample of the
space where it is not complete. `summary` says how informative a table is;
with `--plot` it draws accuracy against cost.
"""

import argparse
import json
import lzma
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from mmengine.config import Config

from benchmarks.clips import MotionClips, read_manifest
from benchmarks.ground_truth import DEFAULT, load
from benchmarks.ground_truth.recipe import Recipe, train_network
from benchmarks.ground_truth.summary import draw, summarise
from benchmarks.ground_truth.table import (
    GroundTruth,
    Indices,
    Network,
    shuffled_indices,
)
from benchmarks.jobs import JobLog, missing, provenance, run_jobs
from pvnas_mmaction.apis.cli import run
from pvnas_mmaction.profiling.clock import check_device
from pvnas_mmaction.space.checks import wrong
from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.genotype import write_json
from pvnas_mmaction.space.search_space import SearchSpace

ROOT = Path(__file__).resolve().parent.parent.parent
TINY = ROOT / "configs" / "pvnas" / "_base_" / "spaces" / "tiny.py"
LOG = "trainings"
MADE = "made.json"


@dataclass(frozen=True)
class State:
    """What the trainings of one process share."""

    space: SearchSpace
    recipe: Recipe
    train: MotionClips
    val: MotionClips


@dataclass(frozen=True)
class Loader:
    """Builds the state in the process that needs it."""

    space: dict[str, Any]
    recipe: Recipe
    data: Path
    cache: Path
    device: str = "cpu"

    def __call__(self) -> State:
        shape = (self.recipe.size, self.recipe.clip_len)
        train = MotionClips.read(
            self.data, "train", *shape, self.recipe.train_clips, self.cache
        )
        val = MotionClips.read(self.data, "val", *shape, None, self.cache)
        space = SearchSpace.from_config(self.space)
        return State(space, self.recipe, train.to(self.device), val.to(self.device))


def work(state: State, job: tuple[Indices, int]) -> dict[str, Any]:
    """Train one network with one seed."""
    indices, seed = job
    result = train_network(
        state.space, indices, state.train, state.val, state.recipe, seed
    )
    blocks = state.space.genotype(indices).blocks
    return dict(blocks=" ".join(blocks), seed=seed, **result)


def list_jobs(space: SearchSpace, seeds: Sequence[int]) -> list[tuple[Indices, int]]:
    """All trainings: each network with all of its seeds, one network after the other.
    Networks are shuffled (always alike), so that those trained so far are a random
    sample of the space."""
    return [(indices, seed) for indices in shuffled_indices(space) for seed in seeds]


def train_table(
    loader: Loader,
    log: JobLog,
    seeds: Sequence[int],
    workers: int = 1,
    limit: int | None = None,
    num_best: int | None = None,
) -> int:
    """Run the trainings that are missing.

    Args:
        loader: Builds clips, space and recipe.
        log: Where results go, and what is there already.
        seeds: Of the trainings.
        workers: Processes, each with one thread. Default 1.
        limit: At most so many trainings now. Default None: all.
        num_best: Only the networks that are this many best by other seeds than those
            to train now: the best of many noisy means is a lucky one, and more seeds
            tell which of them are good. Default None: all.

    Returns:
        Number of trainings that are still missing.

    Raises:
        ValueError: There are fewer networks with other seeds than ``num_best``.
    """
    space = SearchSpace.from_config(loader.space)
    chosen = None if num_best is None else best_networks(log, seeds, num_best)

    def key(job: tuple[Indices, int] | dict[str, Any]) -> tuple[str, int]:
        if isinstance(job, dict):
            return job["blocks"], job["seed"]
        return " ".join(space.genotype(job[0]).blocks), job[1]

    jobs = [
        job
        for job in missing(list_jobs(space, seeds), log, key)
        if chosen is None or key(job)[0] in chosen
    ]
    now = jobs[:limit]
    run_jobs(now, work, loader, log, workers)
    return len(jobs) - len(now)


def best_networks(log: JobLog, seeds: Sequence[int], count: int) -> set[str]:
    """The blocks of the networks of highest mean accuracy by other seeds than these.

    Raises:
        ValueError: There are fewer.
    """
    accuracies: dict[str, list[float]] = {}
    for record in log.records:
        if record["seed"] not in seeds:
            accuracies.setdefault(record["blocks"], []).append(record["accuracy"])
    if not 1 <= count <= len(accuracies):
        expected = f"1 to {len(accuracies)}, the networks trained with other seeds"
        raise wrong("best", expected, str(count))
    means = {blocks: statistics.fmean(found) for blocks, found in accuracies.items()}
    return set(sorted(means, key=lambda blocks: (-means[blocks], blocks))[:count])


def take_over(log: JobLog, table: GroundTruth) -> int:
    """Add the trainings of a table to a log that lacks them; gives their number, 0
    where the table was made with other settings."""
    if json.loads(json.dumps(table.settings)) != log.settings:
        return 0
    found = [
        dict(
            blocks=" ".join(network.blocks),
            seed=seed,
            accuracy=accuracy,
            recalls=network.recalls[position] if network.recalls else None,
        )
        for network in table.values()
        for position, (seed, accuracy) in enumerate(
            zip(table.seeds, network.accuracies, strict=True)
        )
        if accuracy is not None
    ]
    new = missing(found, log, lambda record: (record["blocks"], record["seed"]))
    for record in new:
        log.append(record)
    return len(new)


def make_table(log: JobLog, made: dict[str, Any] | None = None) -> GroundTruth:
    """The table of the trainings so far.

    Raises:
        ValueError: There are none.
    """
    if not log.records:
        raise wrong(str(log.path), "a training or more", "none")
    settings = log.settings
    space = SearchSpace.from_config(settings["space"])
    seeds = sorted({record["seed"] for record in log.records})
    trainings: dict[str, dict[int, dict[str, Any]]] = {}
    for record in log.records:
        trainings.setdefault(record["blocks"], {})[record["seed"]] = record
    recipe = settings["recipe"]
    shape = (3, recipe["clip_len"], recipe["size"], recipe["size"])
    networks = []
    for key, by_seed in trainings.items():
        blocks = tuple(key.split())
        num_classes = len(settings["clips"]["classes"])
        cost = network_cost(space.skeleton, blocks, shape, num_classes)
        indices = space.indices_of_blocks(blocks)
        records = [by_seed.get(seed, {}) for seed in seeds]
        accuracies = tuple(record.get("accuracy") for record in records)
        recalls = tuple(
            tuple(record["recalls"]) if record.get("recalls") else None
            for record in records
        )
        networks.append(
            Network(indices, blocks, accuracies, cost.macs, cost.params, recalls)
        )
    return GroundTruth(settings, seeds, networks, made)


def write_table(table: GroundTruth, path: Path) -> int:
    """Write a table as one compressed file; gives its size in bytes.

    Raises:
        ValueError: A table is there that it would not extend: one of other settings,
            or with trainings that it lacks.
    """
    if path.exists():
        there = load(path)
        lost = _trainings(there) - _trainings(table)
        if json.loads(json.dumps(table.settings)) != there.settings or lost:
            raise wrong(
                path.name,
                "no table, or one to extend",
                f"one of other settings, or with {len(lost)} trainings that this lacks",
                "give another --out",
            )
    data = lzma.compress(json.dumps(table.to_data()).encode(), preset=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return len(data)


def _trainings(table: GroundTruth) -> set[tuple[tuple[str, ...], int]]:
    """Network and seed of every training of a table."""
    return {
        (network.blocks, seed)
        for network in table.values()
        for seed, accuracy in zip(table.seeds, network.accuracies, strict=True)
        if accuracy is not None
    }


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    work_dir = dict(type=Path, default=ROOT / "work_dirs" / "ground_truth")

    train = commands.add_parser("train", help="train the networks that are missing")
    add = train.add_argument
    add("--data", type=Path, default=ROOT / "data" / "motion_clips_noisy")
    add("--work-dir", **work_dir)
    add("--space", type=Path, default=TINY, help="config with a `space`")
    add("--seeds", type=int, nargs="+", default=[0, 1])
    add("--workers", type=int, default=1, help="processes of one thread each")
    add("--device", default="cpu", help="cpu or cuda")
    add("--best", type=int, help="only the so many best networks by other seeds")
    add("--limit", type=int, help="at most so many trainings now")
    add("--table", type=Path, default=DEFAULT, help="to extend, where it exists")

    pack = commands.add_parser("pack", help="write the trainings so far as a table")
    pack.add_argument("--work-dir", **work_dir)
    pack.add_argument("--out", type=Path, default=DEFAULT)

    summary = commands.add_parser("summary", help="describe a table, and plot it")
    summary.add_argument("--table", type=Path, default=DEFAULT)
    summary.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.command == "train":
        check_device(args.device)
        recipe = Recipe()
        space = Config.fromfile(args.space).space.to_dict()
        loader = Loader(space, recipe, args.data, args.work_dir, args.device)
        state = loader()  # decodes the clips before any process wants them
        settings = dict(
            space=SearchSpace.from_config(space).to_config(),
            clips=read_manifest(args.data),
            recipe=asdict(recipe),
            val_clips=len(state.val),
            views_per_training=recipe.views,
        )
        log = JobLog(args.work_dir, LOG, settings)
        if args.table.is_file():
            taken = take_over(log, load(args.table))
            print(f"{taken} trainings taken over from {args.table.name}")
        made = provenance("benchmarks/ground_truth/train.py", args.device)
        write_json(args.work_dir / MADE, made)
        left = train_table(loader, log, args.seeds, args.workers, args.limit, args.best)
        print(f"{len(log.records)} trainings in {log.path.name}, {left} left")
    elif args.command == "pack":
        made = json.loads((args.work_dir / MADE).read_text())
        table = make_table(JobLog(args.work_dir, LOG), made)
        size = write_table(table, args.out)
        print(f"wrote {args.out.name}: {len(table)} networks, {size} bytes")
    else:
        table = load(args.table)
        print(summarise(table))
        if args.plot:
            draw(table, args.plot)
            print(f"wrote {args.plot.name}")


if __name__ == "__main__":
    run(main)
