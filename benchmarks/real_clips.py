#!/usr/bin/env python
# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Train networks of the zoo and searched ones from scratch on real clips, all alike.

    python benchmarks/real_clips.py DATA_FOLDER --device cuda --workers 4
    python benchmarks/real_clips.py DATA_FOLDER --reduced --workers 2

Per fold: searches under each budget, on the training part alone; a choice among the
same learning rates for every network, by clips held out of the training part, the
scenes of each other fold in turn; then trainings with several seeds, tested on the
fold's other scenes. Each result is a line of a file in WORK_DIR, and the command goes
on from there when it is started again. The end is JSON, a table in Markdown and plots.
The data folder is only read; what it holds is in benchmarks/real_data.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.jobs import provenance
from benchmarks.real_report import summarise, write_report
from benchmarks.real_study import Loader, Spec, Study
from benchmarks.real_training import REDUCED, Setting, measure
from pvnas_mmaction.apis.cli import run
from pvnas_mmaction.profiling.timing import check_device
from pvnas_mmaction.space.genotype import load_genotype

ROOT = Path(__file__).resolve().parent.parent
SEARCH_CONFIG = (
    ROOT / "configs" / "pvnas" / "pvnas-tiny_search_1xb16-u8-30e_custom-rgb.py"
)
MODELS = ["TSM-R50", "TSM-MobileNetV2", "X3D-S", "C2D-R50"]
BUDGETS = ["TSM-MobileNetV2", "X3D-S"]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("data", type=Path, metavar="DATA_FOLDER")
    add("--models", nargs="*", default=MODELS, help="of the zoo")
    add(
        "--genotypes",
        nargs="*",
        default=[],
        metavar="NAME=FILE",
        help="networks to train on every fold; they must not have seen its test clips",
    )
    add(
        "--search-space",
        help="searched per fold; none: no search; default: light, with --reduced "
        "compact",
    )
    add("--search-budgets", nargs="*", default=BUDGETS, help="models of the zoo")
    add("--search-seeds", type=int, nargs="+", default=[0], help="a search for each")
    add(
        "--keep-best",
        type=float,
        metavar="LR",
        help="of a fold's searches keep the network that is best on the inner splits, "
        "trained with this learning rate; default: the mean of all",
    )
    add("--random", type=int, default=0, help="so many random networks of the space")
    add("--search-config", type=Path, default=SEARCH_CONFIG)
    add("--folds", type=int, nargs="+", help="default: all")
    add("--seeds", type=int, nargs="+", help="default: 0 1 2; with --reduced 0")
    add("--reduced", action="store_true", help="small and short, for a CPU")
    for field in dataclasses.fields(Setting):
        option = f"--{field.name.replace('_', '-')}"
        if field.name == "learning_rates":
            add(option, type=float, nargs="+")
        else:
            add(option, type=type(field.default))
    add("--workers", type=int, default=1, help="processes of one thread each")
    add("--device", default="cpu", help="cpu or cuda")
    add("--work-dir", type=Path, default=ROOT / "work_dirs" / "real_clips")
    add("--out", type=Path, help="default: WORK_DIR/real_clips.json")
    return parser.parse_args(argv)


def setting_of(args: argparse.Namespace) -> Setting:
    """The setting that the options ask for."""
    changes = {
        field.name: getattr(args, field.name)
        for field in dataclasses.fields(Setting)
        if getattr(args, field.name) is not None
    }
    if "learning_rates" in changes:
        changes["learning_rates"] = tuple(changes["learning_rates"])
    return dataclasses.replace(REDUCED if args.reduced else Setting(), **changes)


def read_genotypes(texts: Sequence[str]) -> dict[str, Spec]:
    """Networks out of ``NAME=FILE``.

    Raises:
        ValueError: A text of another form, or a file that is no genotype.
        FileNotFoundError: There is no such file.
    """
    networks: dict[str, Spec] = {}
    for text in texts:
        name, separator, path = text.partition("=")
        if not separator:
            raise ValueError(f"--genotypes: found {text!r}, expected NAME=FILE")
        networks[name] = json.loads(load_genotype(path).to_json())
    return networks


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    check_device(args.device)
    setting = setting_of(args)
    study = Study(Loader(args.data, setting, args.device), args.work_dir, args.workers)
    folds = list(args.folds or range(1, study.num_folds + 1))
    for fold in folds:
        if not 1 <= fold <= study.num_folds:
            raise ValueError(f"--folds: found {fold}, expected 1 to {study.num_folds}")
    if min(args.search_seeds) < 0:
        raise ValueError(
            f"--search-seeds: found {args.search_seeds}, expected 0 or more"
        )
    if not 0 <= setting.tuning_splits < study.num_folds:
        raise ValueError(
            f"--tuning-splits: found {setting.tuning_splits}, expected 0 to "
            f"{study.num_folds - 1}, the number of other folds"
        )
    seeds = args.seeds or ([0] if args.reduced else [0, 1, 2])
    fixed: dict[str, Spec] = {name: name for name in args.models}
    fixed |= read_genotypes(args.genotypes)
    space = args.search_space or ("compact" if args.reduced else "light")
    if args.random and space != "none":
        fixed |= study.draw(space, args.search_budgets, args.random)
    rows: dict[str, dict[int, list[Spec]]] = {
        name: {fold: [spec] for fold in folds} for name, spec in fixed.items()
    }
    if space != "none":
        rows |= study.search(
            args.search_config, space, args.search_budgets, folds, args.search_seeds
        )
    found = rows
    if args.keep_best is not None:
        rows = study.keep_best(rows, seeds[0], args.keep_best)
    records = study.train(rows, seeds)
    costs = {
        name: [
            measure(spec, study.num_classes, setting, args.device)
            for spec in ([fixed[name]] if name in fixed else chain(*by_fold.values()))
        ]
        for name, by_fold in rows.items()
    }
    result = dict(
        provenance("benchmarks/real_clips.py", args.device),
        reduced=args.reduced,
        settings=dict(
            asdict(setting),
            tuning_splits=len(study.splits),
            folds=folds,
            seeds=seeds,
            search_seeds=args.search_seeds,
            keep_best=args.keep_best,
        ),
        searches=[
            record
            for (name, fold, seed), record in study.found().items()
            if name in rows and fold in folds and seed in args.search_seeds
        ],
        tuning=study.tuning_of(found, rows, seeds[0], args.keep_best),
        trainings=records,
        **summarise(records, costs, list(rows)),
    )
    print(write_report(result, args.out or args.work_dir / "real_clips.json"))


if __name__ == "__main__":
    run(main)
