#!/usr/bin/env python
# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""How long a search on a large data set takes, from the speed of its steps here.

    python benchmarks/search_cost.py --threads 1
    python benchmarks/search_cost.py --device cuda --batch-size 16

The steps of a search config are timed at its input shape on random clips: weights steps
on sampled paths and alpha steps on two paths, optimisers included. A search of E epochs
over N training clips takes, with a share a of the clips for the alphas and a share w of
every cycle in which they rest,

    E N (1 - a) clips in weights steps and E N (1 - a) (1 - w) in alpha steps,

for an alpha step follows a weights step, with a batch of its own. Assumed: reading the
videos keeps pace, one process, the batch size given, and no validation. Beyond one
process the hours are of all processes together, if they scale.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mmengine.config import Config

from benchmarks.jobs import provenance
from benchmarks.supernet_step import Bench
from pvnas_mmaction.apis.cli import run
from pvnas_mmaction.engine.search_loop import DEFAULT_RELAXATIONS
from pvnas_mmaction.profiling.clock import Clock, check_device, thread_count
from pvnas_mmaction.search.schedule import LRDiversityConfig
from pvnas_mmaction.space.genotype import write_atomically

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs" / "pvnas"
SEARCHES = {
    "Kinetics-400": "pvnas-l_search_8xb8-8x8x1-50e_kinetics400-rgb.py",
    "Something-Something V2": "pvnas-l_search_8xb8-u8-50e_sthv2-rgb.py",
}
# Clips in the training lists that MMAction2 prepares; some of Kinetics is gone.
TRAIN_CLIPS = {"Kinetics-400": 240436, "Something-Something V2": 168913}


def clips_per_second(
    bench: Bench, kind: str, relaxation: str, batch_size: int, steps: int
) -> dict[str, Any]:
    """Speed of a kind of step: the median over ``steps`` paths, after one not timed."""
    batch = bench.batch(batch_size)
    clock = Clock(bench.device)
    times = []
    for seed in range(steps + 1):
        step: Callable[[], Any] = bench.search_step(kind, relaxation, seed, batch)
        clock.mark()
        step()
        clock.mark()
        times += clock.intervals()
    median = statistics.median(times[1:])
    return dict(
        step=kind,
        relaxation=relaxation,
        batch_size=batch_size,
        step_ms=[round(time, 1) for time in times[1:]],
        clips_per_second=1e3 * batch_size / median,
        clock=clock.kind,
    )


def search_clips(cfg: Config, train_clips: int) -> dict[str, float]:
    """Clips of the weights steps and of the alpha steps of a search."""
    share = cfg.train_cfg.get("alpha_share", 0.5)
    hook = next(h for h in cfg.custom_hooks if h["type"] == "LRDiversityHook")
    warmup = hook.get("warmup", LRDiversityConfig(total_steps=10**6).warmup)
    weights = cfg.train_cfg.max_epochs * train_clips * (1 - share)
    return dict(weights=weights, alpha=weights * (1 - warmup))


def estimate(
    name: str, cfg: Config, speeds: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Hours of a search at the speeds measured."""
    clips = search_clips(cfg, TRAIN_CLIPS[name])
    seconds = {kind: clips[kind] / speeds[kind]["clips_per_second"] for kind in clips}
    return dict(
        data=name,
        train_clips=TRAIN_CLIPS[name],
        epochs=cfg.train_cfg.max_epochs,
        clips=clips,
        hours={kind: value / 3600 for kind, value in seconds.items()},
        total_hours=sum(seconds.values()) / 3600,
    )


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--batch-size", type=int, default=2)
    add("--steps", type=int, default=5, help="paths that are timed")
    add("--threads", type=int, default=1)
    add("--device", default="cpu", help="cpu or cuda")
    add(
        "--out", type=Path, default=ROOT / "benchmarks" / "results" / "search_cost.json"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    check_device(args.device)
    configs = {n: Config.fromfile(CONFIGS / file) for n, file in SEARCHES.items()}
    shapes = {tuple(cfg.train_cfg.input_shape) for cfg in configs.values()}
    (shape,) = shapes  # one measurement serves both
    space = next(iter(configs.values())).model.backbone.space.name
    with thread_count(args.threads):
        bench = Bench(space, shape[1:], args.device)
        speeds = {
            kind: clips_per_second(bench, kind, relaxation, args.batch_size, args.steps)
            for kind, relaxation in (
                ("weights", DEFAULT_RELAXATIONS["weights"]),
                ("alpha", DEFAULT_RELAXATIONS["alphas"]),
            )
        }
    result = dict(
        provenance("benchmarks/search_cost.py", args.device),
        space=space,
        input_shape=list(shape),
        threads=args.threads,
        speeds=speeds,
        searches=[estimate(name, cfg, speeds) for name, cfg in configs.items()],
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out, json.dumps(result, indent=1) + "\n")
    for kind, speed in speeds.items():
        print(f"{kind} step: {speed['clips_per_second']:.3f} clips per second")
    for search in result["searches"]:
        print(
            f"{search['data']}: {search['train_clips']} clips, {search['epochs']} "
            f"epochs: {search['total_hours']:.0f} hours"
        )


if __name__ == "__main__":
    run(main)
