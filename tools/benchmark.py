#!/usr/bin/env python
# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Measure what models cost, ours next to those of MMAction2's zoo."""

from __future__ import annotations

import argparse
import shlex
import sys
import warnings

from tqdm import tqdm

from pvnas_mmaction.apis import cli
from pvnas_mmaction.profiling import zoo_measure as measure
from pvnas_mmaction.profiling import zoo_report as report
from pvnas_mmaction.profiling.measure import DTYPES
from pvnas_mmaction.profiling.zoo import DEFAULT, Entry


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"Names that need no config: {', '.join(DEFAULT)}.",
    )
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="a name of the list below, a config (path or package::path), or "
        "NAME=CONFIG; default: the whole list",
    )
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, help="CPU threads; default: PyTorch's")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument(
        "--channels-last",
        action="store_true",
        help="convert all models to channels-last; default: as MMAction2 runs them",
    )
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument(
        "--no-deploy",
        action="store_true",
        help="do not fold batch normalisation of models with switch_to_deploy",
    )
    parser.add_argument(
        "--batch-sizes",
        type=int,
        nargs="+",
        default=[1],
        help="views per forward; default: 1",
    )
    parser.add_argument(
        "--train-batch-size",
        type=int,
        default=1,
        help="views per training step, 0 for none; default: 1",
    )
    parser.add_argument("--no-memory", action="store_true", help="skip peak memory")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument(
        "--iters", type=int, default=10, help="runs per round, at most; default: 10"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=2,
        help="time per model, round and kind, for at least one run after one that does "
        "not count; default: 2",
    )
    parser.add_argument("--frames", type=int, help="for all; default: each config's")
    parser.add_argument("--crop", type=int, help="for all; default: each config's")
    parser.add_argument(
        "--baseline", help="name that ratios are to; default: first one of the zoo"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="write benchmark.md, .json and .png here"
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help="a quick look: 2 rounds of one run at 64x64 pixels, no peak memory",
    )
    return parser.parse_args()


def settings_of(args: argparse.Namespace) -> measure.Settings:
    values = dict(
        device=args.device,
        threads=args.threads,
        dtype=args.dtype,
        channels_last=args.channels_last,
        compile=args.compile,
        deploy=not args.no_deploy,
        batch_sizes=tuple(args.batch_sizes),
        train_batch_size=args.train_batch_size,
        rounds=args.rounds,
        iters=args.iters,
        seconds=args.seconds,
        memory=not args.no_memory,
        frames=args.frames,
        crop=args.crop,
    )
    if args.small:
        values.update(rounds=2, iters=1, memory=False, crop=args.crop or 64)
    return measure.Settings(**values)


def main() -> None:
    args = parse_args()
    warnings.filterwarnings("ignore")
    settings = settings_of(args)
    entries = [Entry.parse(text) for text in args.models or DEFAULT]
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        raise ValueError(f"models: found {names}, expected each name once; NAME=CONFIG")
    report.check_baseline(args.baseline, names)
    if args.out is not None:
        cli.make_out_folder(args.out)
    total = measure.number_of_steps(entries, settings)
    with tqdm(total=total, disable=None, leave=False) as bar:

        def advance(name: str) -> None:
            bar.set_description(name)
            bar.update()

        results = measure.measure(entries, settings, advance)
    baseline = report.find_baseline(results, args.baseline)
    command = shlex.join(["tools/benchmark.py", *sys.argv[1:]])
    data = report.to_dict(results, settings, baseline, command)
    print(report.to_markdown(data))
    if args.out is not None:
        files = report.save(data, args.out)
        print("Wrote " + ", ".join(map(str, files)))
    if not any(result.measured for result in results):
        raise ValueError(
            "models: found none that could be measured, for the reasons given above; "
            f"expected config files or some of {', '.join(DEFAULT)}"
        )


if __name__ == "__main__":
    cli.run(main)
