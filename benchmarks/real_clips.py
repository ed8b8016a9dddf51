#!/usr/bin/env python
# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Networks on real clips: searched, random, given and of the zoo, all trained alike.

    python benchmarks/real_clips.py run DATA_FOLDER --models TSM-MobileNetV2 X3D-S \
        --budgets X3D-S --random 3 --workers 2 --out FILE.json
    python benchmarks/real_clips.py show FILE.json --against TSM-MobileNetV2

DATA_FOLDER holds ``classes.txt``, the clips and, for each fold N from 1 up,
``foldN_train.txt`` and ``foldN_val.txt`` (``path class_id`` per line). It is only read.

A search is the project's own, a training MMEngine's, by the shipped configs for videos
of one's own. Searches and the choice of a learning rate see the training part of their
fold alone: the clips that the next fold tests on are held out of it. Each result is one
line of a file in WORK_DIR, and the command goes on from there when it is started again.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mmengine.config import Config
from mmengine.runner import Runner

from benchmarks.jobs import JobLog, missing, provenance, run_jobs
from benchmarks.real_table import markdown
from pvnas_mmaction.apis.cli import run
from pvnas_mmaction.apis.config_files import load_config, read_space
from pvnas_mmaction.models.recognizers import (
    build_recognizer,
    count_macs,
    count_params,
    forget_pretrained,
    view_of,
    without_pretrained,
)
from pvnas_mmaction.profiling.zoo import ZOO
from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.genotype import (
    load_genotype,
    parse_genotype,
    write_atomically,
)

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs" / "pvnas"
SEARCH = CONFIGS / "pvnas-compact_search_1xb16-u8-40e_custom-rgb.py"
TRAIN = CONFIGS / "pvnas-compact_retrain_1xb16-u8-60e_custom-rgb.py"
# Name of a zoo's model, or content of a genotype file.
Spec = str | dict[str, Any]
_RUNS = count()


@dataclass(frozen=True)
class Study:
    """What all jobs share; a copy is in every process.

    Args:
        folder: The data.
        device: ``"cpu"`` or ``"cuda"``.
        search_config: Config of a search.
        train_config: Config of a training.
    """

    folder: Path
    device: str = "cpu"
    search_config: Path = SEARCH
    train_config: Path = TRAIN

    def __call__(self) -> Study:
        return self

    def lists(self, fold: int) -> dict[str, list[str]]:
        """Lines of the lists of a fold."""
        paths = {p: self.folder / f"fold{fold}_{p}.txt" for p in ("train", "val")}
        return {part: path.read_text().splitlines() for part, path in paths.items()}

    @property
    def folds(self) -> range:
        """Numbers of the folds."""
        found = len(list(self.folder.glob("fold*_train.txt")))
        return range(1, found + 1)

    @property
    def num_classes(self) -> int:
        """Number of class names."""
        return len((self.folder / "classes.txt").read_text().split())

    def inner(self, fold: int) -> dict[str, list[str]]:
        """Lines of the lists of a split of a fold's training part: held out is what the
        next fold tests on."""
        train = self.lists(fold)["train"]
        held_out = {*self.lists(fold % len(self.folds) + 1)["val"]}
        parts: dict[str, list[str]] = dict(train=[], val=[])
        for line in train:
            parts["val" if line in held_out else "train"].append(line)
        return parts

    def run(self, cfg: Config, lists: Mapping[str, list[str]], seed: int) -> Runner:
        """Run a search or a training; gives its runner when it is over.

        Args:
            cfg: Its config, without the data.
            lists: Lines of the training and of the validation list.
            seed: Of everything random.
        """
        cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
        cfg.model.cls_head.num_classes = self.num_classes
        cfg.experiment_name = f"real_clips_{next(_RUNS)}"
        cfg.log_level, cfg.randomness = "ERROR", dict(seed=seed)
        cfg.device = self.device
        with tempfile.TemporaryDirectory() as folder:
            for part, lines in lists.items():
                path = Path(folder) / f"{part}.txt"
                path.write_text("\n".join(lines) + "\n")
                loader = cfg[f"{part}_dataloader"]
                loader.update(num_workers=0, persistent_workers=False)
                loader.dataset.ann_file = str(path)
                loader.dataset.data_prefix = dict(video=str(self.folder))
                loader.dataset.num_classes = self.num_classes
            cfg.work_dir = folder
            runner = Runner.from_cfg(cfg)
            forget_pretrained(runner.model)
            runner.train()
        return runner

    def search(self, max_macs: int, fold: int, seed: int) -> dict[str, Any]:
        """Search under a budget; gives the genotype and what was measured."""
        started = time.perf_counter()
        cfg = load_config(str(self.search_config))
        cfg.train_cfg.cost = dict(kind="flops", budget=max_macs)
        search = self.run(cfg, self.inner(fold), seed).train_loop.search
        best = search.archive.best()
        indices = search.space.indices_of_blocks(best.blocks)
        genotype = search.space.genotype(indices, dict(macs=best.macs, seed=seed))
        return dict(
            genotype=json.loads(genotype.to_json()),
            macs=best.macs,
            accuracy=best.accuracy,
            seconds=round(time.perf_counter() - started, 2),
        )

    def train(
        self, spec: Spec, fold: int, lr: float, seed: int, inner: bool
    ) -> dict[str, Any]:
        """Train a network and validate it after the last epoch: on the clips held out
        of the fold's training part (``inner``), or on those that the fold tests on."""
        started = time.perf_counter()
        cfg = self.training_config(spec)
        cfg.optim_wrapper.optimizer.lr = lr
        cfg.train_cfg.val_interval = cfg.train_cfg.max_epochs
        runner = self.run(cfg, (self.inner if inner else self.lists)(fold), seed)
        accuracy = runner.message_hub.get_scalar("val/acc/top1").current()
        return dict(
            accuracy=float(accuracy), seconds=round(time.perf_counter() - started, 2)
        )

    def training_config(self, spec: Spec) -> Config:
        """The config that trains a network."""
        cfg = load_config(str(self.train_config))
        if isinstance(spec, dict):
            cfg.model.backbone.genotype = spec
            cfg.model.cls_head.in_channels = parse_genotype(spec).skeleton.out_channels
            return cfg
        zoo = load_config(ZOO[spec])
        head, cfg.model = cfg.model.cls_head, without_pretrained(zoo.model)
        cfg.model.cls_head.dropout_ratio = head.dropout_ratio
        if view_of(zoo).is_2d:
            frames = view_of(cfg).frames
            cfg.model.backbone.num_segments = frames
            cfg.model.cls_head.num_segments = frames
            for part in ("train", "val", "test"):
                for transform in cfg[f"{part}_dataloader"].dataset.pipeline:
                    if transform.type == "FormatShape":
                        transform.input_format = "NCHW"
        return cfg

    def cost(self, spec: Spec) -> dict[str, float]:
        """Multiply-accumulates of one view, and parameters."""
        cfg = self.training_config(spec)
        cfg.model.cls_head.num_classes = self.num_classes
        model, x = build_recognizer(cfg).eval(), view_of(cfg).random_input(1)
        return dict(macs=count_macs(model, x), params=count_params(model))

    def draw(self, budgets: Mapping[str, int], number: int) -> list[Spec]:
        """Random networks of the searched space under the least of some budgets."""
        cfg = load_config(str(self.search_config))
        space = read_space(cfg, str(self.search_config))
        generator, drawn = random.Random(0), []
        while len(drawn) < number:
            indices = [generator.randrange(len(c)) for c in space.candidates]
            genotype = space.genotype(indices)
            about = (cfg.train_cfg.input_shape, self.num_classes)
            cost = network_cost(space.skeleton, genotype.blocks, *about)
            if cost.macs <= min(budgets.values(), default=cost.macs):
                drawn.append(json.loads(genotype.to_json()))
        return drawn


def work(study: Study, job: dict[str, Any]) -> dict[str, Any]:
    """One search, or one training of ``spec``; gives a record of the job and its
    result."""
    given = {key: value for key, value in job.items() if key not in ("name", "spec")}
    spec = job.get("spec")
    result = study.search(**given) if spec is None else study.train(spec, **given)
    return dict(name=job["name"], blocks=spec and blocks_of(spec), **given, **result)


def blocks_of(spec: Spec) -> str:
    """What tells a network from others."""
    return spec if isinstance(spec, str) else " ".join(spec["blocks"])


def identity(record: Mapping[str, Any]) -> str:
    """What tells a job, or the record of one, from others."""
    spec = record.get("spec")
    blocks = blocks_of(spec) if spec else record.get("blocks")
    names = ("name", "fold", "seed", "max_macs", "lr", "inner")
    return json.dumps([blocks, *map(record.get, names)])


def run_study(study: Study, args: argparse.Namespace) -> dict[str, Any]:
    """Searches, the choice of learning rates, and trainings."""
    paths = (study.folder, study.search_config, study.train_config)
    log = JobLog(args.work_dir, "real_clips", dict(paths=[p.name for p in paths]))

    def records(jobs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        run_jobs(missing(jobs, log, identity), work, study, log, args.workers)
        found = {identity(record): record for record in log.records}
        return [found[identity(job)] for job in jobs]

    folds, rates = args.folds or list(study.folds), args.learning_rates
    budgets = {name: int(study.cost(name)["macs"]) for name in args.budgets}
    everywhere: dict[str, Spec] = {name: name for name in args.models}
    for name, _, path in (text.partition("=") for text in args.genotypes):
        everywhere[name] = json.loads(load_genotype(path).to_json())
    for number, spec in enumerate(study.draw(budgets, args.random), start=1):
        everywhere[f"random {number}"] = spec
    rows = {name: dict.fromkeys(folds, spec) for name, spec in everywhere.items()}
    wanted = product(budgets.items(), folds, args.search_seeds)
    searches = records(
        [
            dict(
                name=f"searched <= {name}, {seed}", max_macs=macs, fold=fold, seed=seed
            )
            for (name, macs), fold, seed in wanted
        ]
    )
    for found in searches:
        rows.setdefault(found["name"], {})[found["fold"]] = found["genotype"]

    def job(name: str, fold: int, lr: float, seed: int, inner: bool) -> dict[str, Any]:
        place = dict(name=name, spec=rows[name][fold], fold=fold)
        return dict(place, lr=lr, seed=seed, inner=inner)

    places = [(name, fold) for name, by_fold in rows.items() for fold in by_fold]
    tried = [job(*p, lr, args.seeds[0], True) for p in places for lr in rates]
    tuning = records(tried if len(rates) > 1 else [])
    judged = {(r["name"], r["fold"], r["lr"]): r["accuracy"] for r in tuning}

    def best(place: tuple[str, int]) -> float:
        return max(sorted(rates), key=lambda lr: judged.get((*place, lr), 0.0))

    trainings = [job(*p, best(p), seed, False) for p in places for seed in args.seeds]
    costs = {name: study.cost(next(iter(by.values()))) for name, by in rows.items()}
    return dict(
        provenance("benchmarks/real_clips.py", args.device),
        settings=log.settings,
        searches=searches,
        tuning=tuning,
        trainings=records(trainings),
        rows=[dict(name=name, **costs[name]) for name in rows],
    )


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("run", help="search, train, write a file").add_argument
    add("data", type=Path, metavar="DATA_FOLDER")
    add("--models", nargs="*", default=[], choices=ZOO, help="of the zoo")
    add("--genotypes", nargs="*", default=[], metavar="NAME=FILE")
    add("--budgets", nargs="*", default=[], choices=ZOO, help="search at their MACs")
    add("--search-seeds", type=int, nargs="+", default=[0])
    add("--random", type=int, default=0, help="networks under the least budget")
    add("--folds", type=int, nargs="+", help="default: all")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    add("--learning-rates", type=float, nargs="+", default=[0.05])
    add("--workers", type=int, default=1, help="processes of one thread each")
    add("--device", default="cpu", help="cpu or cuda")
    add("--work-dir", type=Path, default=ROOT / "work_dirs" / "real_clips")
    add("--out", type=Path, required=True)
    add = commands.add_parser("show", help="the table of a file").add_argument
    add("file", type=Path, metavar="FILE.json")
    add("--against", nargs="+", default=[], metavar="NAME")
    add("--seeds", type=int, nargs="+", default=[], help="default: all")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.command == "show":
        result = json.loads(args.file.read_text())
        print(markdown(result, args.against, args.seeds))
        return
    study = Study(args.data, args.device)
    result = run_study(study, args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out, json.dumps(result, indent=1) + "\n")
    print(markdown(result))


if __name__ == "__main__":
    run(main)
