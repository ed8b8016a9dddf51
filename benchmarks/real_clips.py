#!/usr/bin/env python
"""Networks on real clips, from the same pretrained weights and trained alike.

    python benchmarks/real_clips.py DATA_FOLDER --out FILE.json
    python benchmarks/real_table.py FILE.json --against "narrowed at 0.333"

DATA_FOLDER holds ``classes.txt``, the clips, and ``foldN_train.txt`` and
``foldN_val.txt`` for each fold N from 1 up (``path class_id`` per line). Searches and
trainings are those of the shipped configs ``custom-rgb``. A search sees the training
part of its fold alone and validates on the clips that the next fold tests on. A budget
is a share of the donor's multiply-accumulates. At each one:

- ``sensitivities``: a search's first network, from the losses of single blocks;
  ``refined``: the best one that its alpha steps found; ``searched``: the better one of
  the two on its validation clips;
- ``narrowed``: the donor with shifts in its residual blocks, uniformly narrower;
- ``random K``: drawn for each fold and seed, from 0.85 of the budget to the budget.

Trainings start from the donor's weights, those of the searched ones from ``--starts``.
Run again, the command continues from what is in WORK_DIR.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count, product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from benchmarks.jobs import JobLog, missing, provenance, run_jobs
from benchmarks.real_table import markdown
from pvnas_mmaction.apis.cli import run
from pvnas_mmaction.apis.config_files import load_config
from pvnas_mmaction.engine.search_files import save_weights
from pvnas_mmaction.search.search import Search
from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.cost_table import cost_tables
from pvnas_mmaction.space.genotype import Genotype, load_genotype, write_json
from pvnas_mmaction.space.search_space import SearchSpace

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs" / "pvnas"
CONFIG = "pvnas-{}_{}_1xb8-u8-12e_custom-rgb.py"  # network, search or retrain
STARTS = ("donor", "supernet", "random")
KINDS = ("sensitivities", "refined", "searched")
DRAWS = 100_000
_RUNS = count()


@dataclass(frozen=True)
class Study:
    """What all jobs share: data, folder of inherited weights, changes of configs."""

    folder: Path
    weights: Path
    size: int = 112
    device: str = "cpu"
    options: Mapping[str, dict] = field(default_factory=dict)
    network: str = "s"

    def __call__(self) -> Study:
        return self

    def lists(self, fold: int) -> dict[str, list[str]]:
        """Lines of the lists of a fold."""
        paths = {p: self.folder / f"fold{fold}_{p}.txt" for p in ("train", "val")}
        return {part: path.read_text().splitlines() for part, path in paths.items()}

    def inner(self, fold: int) -> dict[str, list[str]]:
        """Lines of a fold's training part; ``val`` is what the next fold tests on."""
        train = self.lists(fold)["train"]
        folds = len([*self.folder.glob("fold*_train.txt")])
        held_out = {*self.lists(fold % folds + 1)["val"]}
        parts = [[x for x in train if (x in held_out) == out] for out in (False, True)]
        return dict(zip(("train", "val"), parts, strict=True))

    def config(self, kind: str) -> Config:
        """A config at the size. Mirroring may turn a class into another: left out."""
        name = CONFIG.format(self.network, kind.replace("train", "retrain"))
        cfg = load_config(str(CONFIGS / name))
        cfg.merge_from_dict(self.options.get(kind, {}))
        cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
        cfg.model.cls_head.num_classes = self.num_classes
        for part in ("train", "val"):
            dataset = cfg[f"{part}_dataloader"].dataset
            dataset.pipeline = [s for s in dataset.pipeline if s.type != "Flip"]
            for step in dataset.pipeline:
                if step.type == "CenterCrop":
                    step.crop_size = self.size
                elif step.type == "Resize" and step.get("keep_ratio", True):
                    step.scale = (-1, round(self.size * 8 / 7))
                elif step.type == "Resize":
                    step.scale = (self.size, self.size)
        return cfg

    @property
    def num_classes(self) -> int:
        return len((self.folder / "classes.txt").read_text().split())

    def run(self, cfg: Config, lists: Mapping[str, list[str]], seed: int) -> Runner:
        """Run a search or a training; gives its runner when it is over."""
        cfg.experiment_name = f"real_clips_{next(_RUNS)}"
        cfg.log_level, cfg.randomness = "ERROR", dict(seed=seed)
        cfg.device = self.device
        with tempfile.TemporaryDirectory() as folder:
            for part, lines in lists.items():
                path = Path(folder) / f"{part}.txt"
                path.write_text("\n".join(lines) + "\n")
                loader = cfg[f"{part}_dataloader"]
                loader.update(num_workers=0, persistent_workers=False)
                prefix, cache = dict(video=str(self.folder)), self.weights / "frames"
                loader.dataset.update(ann_file=str(path), data_prefix=prefix)
                loader.dataset.update(num_classes=self.num_classes, cache=str(cache))
            cfg.work_dir = folder
            runner = Runner.from_cfg(cfg)
            runner.train()
        return runner

    def search(self, budget: float, fold: int, seed: int) -> dict[str, Any]:
        """Search under a budget; gives the networks and what was measured."""
        started = time.perf_counter()
        cfg = self.config("search")
        cfg.train_cfg.input_shape = (3, 8, self.size, self.size)
        cfg.train_cfg.cost = dict(kind="flops", budget=int(budget * self.donor_macs))
        search: Search = self.run(cfg, self.inner(fold), seed).train_loop.search
        seconds, networks = round(time.perf_counter() - started, 1), {}
        entries = search.archive.entries
        refined = max(entries[1:], key=lambda e: e.accuracy)
        found = entries[0], refined, search.archive.best()
        for kind, entry in zip(KINDS, found, strict=True):
            weights = search.inherited(search.space.indices_of_blocks(entry.blocks))
            path = self.weights_of(kind, budget, fold, seed)
            save_weights(weights, entry.blocks, path)
            networks[kind] = list(entry.blocks)
        archive = [[e.cycle, e.accuracy, e.diversity] for e in entries]
        return dict(networks=networks, archive=archive, seconds=seconds)

    def weights_of(self, kind: str, budget: float, fold: int, seed: int) -> Path:
        """Where the weights are that a network inherits from its supernet."""
        return self.weights / f"{kind}_{budget:g}_fold{fold}_seed{seed}.pth"

    def train(
        self, blocks: list[str], fold: int, seed: int, start: str, **source: Any
    ) -> dict[str, Any]:
        """Train and test on a fold; ``source``: arguments of :meth:`weights_of`."""
        started = time.perf_counter()
        cfg = self.config("train")
        space = self.space
        genotype = Genotype(space.name, space.skeleton, tuple(blocks), {})
        cfg.model.backbone.genotype = json.loads(genotype.to_json())
        if start == "supernet":
            cfg.load_from = str(self.weights_of(**source, fold=fold, seed=seed))
        elif start == "random":
            cfg.model.backbone.init_cfg = None
        cfg.train_cfg.val_interval = cfg.train_cfg.val_begin = cfg.train_cfg.max_epochs
        runner = self.run(cfg, self.lists(fold), seed)
        accuracy = runner.message_hub.get_scalar("val/acc/top1").current()
        seconds = round(time.perf_counter() - started, 1)
        return dict(accuracy=float(accuracy), seconds=seconds)

    @cached_property
    def space(self) -> SearchSpace:
        return SearchSpace.from_config(self.config("search").model.backbone.space)

    def cost(self, blocks: Sequence[str]) -> dict[str, int]:
        """Multiply-accumulates of a view, and parameters."""
        shape = (3, 8, self.size, self.size)
        cost = network_cost(self.space.skeleton, blocks, shape, self.num_classes)
        return dict(macs=cost.macs, params=cost.params)

    def donor(self, shifts: bool = True) -> list[str]:
        """The donor, with a temporal shift in each residual block or without any."""
        blocks = load_genotype(CONFIGS / f"genotypes/{self.space.name}-tsm.json").blocks
        return [b if shifts else b.replace("ts_t3", "mb_t1") for b in blocks]

    @cached_property
    def donor_macs(self) -> int:
        """Multiply-accumulates of the donor."""
        return self.cost(self.donor())["macs"]

    def narrowed(self, budget: float) -> list[str]:
        """The donor with shifts, as narrow as a budget needs."""
        for share in range(100, 0, -1):
            blocks = [b.replace("_e6", f"_e{0.06 * share:g}") for b in self.donor()]
            if self.cost(blocks)["macs"] <= budget * self.donor_macs:
                return blocks
        raise ValueError(f"--budgets: no width of the donor keeps {budget}")

    def draw(self, budget: float, number: int, *seed: int) -> list[list[str]]:
        """Random networks of the space, between 0.85 of a budget and the budget."""
        shape = (3, 8, self.size, self.size)
        table = cost_tables(self.space, shape, self.num_classes)["flops"]
        generator, drawn = np.random.default_rng(seed), []
        while len(drawn) < number:
            picks = [generator.integers(len(c), size=DRAWS) for c in table.per_layer]
            pairs = zip(table.per_layer, picks, strict=True)
            costs = table.fixed + sum(np.asarray(c)[pick] for c, pick in pairs)
            share = costs / self.donor_macs / budget
            for i in np.flatnonzero((share >= 0.85) & (share <= 1)):
                genotype = self.space.genotype([int(pick[i]) for pick in picks])
                drawn.append(list(genotype.blocks))
        return drawn[:number]


def work(study: Study, job: dict[str, Any]) -> dict[str, Any]:
    do = study.train if "blocks" in job else study.search
    return job | do(**{key: value for key, value in job.items() if key != "name"})


def identity(job: Mapping[str, Any]) -> str:  # of a job or its record
    return json.dumps([*map(job.get, ("blocks", "start", "budget", "fold", "seed"))])


def run_study(study: Study, args: argparse.Namespace) -> None:
    """Searches and trainings, cell by cell: a cell is a seed, a fold and a budget."""
    facts = dict(data=study.folder.name, network=study.network, size=study.size)
    log = JobLog(args.work_dir, "real_clips", facts | study.options)
    result = dict(provenance("benchmarks/real_clips.py", args.device))
    result |= dict(settings=log.settings, searches=[], trainings=[], rows=[])

    def records(jobs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        run_jobs(missing(jobs, log, identity), work, study, log, args.workers)
        found = {identity(record): record for record in log.records}
        return [found[identity(job)] | dict(name=job["name"]) for job in jobs]

    def train(jobs: Sequence[dict[str, Any]]) -> None:
        result["trainings"] += records(jobs)
        known = {row["name"] for row in result["rows"]}
        rows = {job["name"]: study.cost(job["blocks"]) for job in jobs}
        result["rows"] += [dict(name=n) | c for n, c in rows.items() if n not in known]
        write_json(args.out, result)

    places = [dict(fold=fold, seed=seed) for seed in args.seeds for fold in args.folds]
    if args.donor:
        both = {"donor": study.donor(False), "donor with shifts": study.donor()}
        named = [dict(name=name, blocks=blocks) for name, blocks in both.items()]
        train([job | place | dict(start="donor") for place in places for job in named])
    for place, budget in ((p, b) for p in places for b in args.budgets):
        at, jobs = f"at {budget:g}", []
        [search] = records([dict(place, name=f"search {at}", budget=budget)])
        result["searches"].append(search)
        for start, (kind, blocks) in product(args.starts, search["networks"].items()):
            job = dict(place, name=f"{kind} {at}, from {start}", blocks=blocks)
            source = dict(kind=kind, budget=budget) if start == "supernet" else {}
            jobs.append(dict(job, start=start, **source))
        others = {f"narrowed {at}": study.narrowed(budget)}
        drawn = study.draw(budget, args.random, place["fold"], place["seed"])
        for number, blocks in enumerate(drawn, start=1):
            others[f"random {number} {at}"] = blocks
        own = [dict(name=name, blocks=b, start="donor") for name, b in others.items()]
        train(jobs + [place | job for job in own])
    print(markdown(result))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("data", type=Path, metavar="DATA_FOLDER")
    add("--budgets", type=float, nargs="*", default=[1 / 2, 1 / 3], metavar="SHARE")
    add("--random", type=int, default=3, metavar="N", help="networks at each budget")
    add("--donor", action="store_true", help="train it with and without shifts")
    add("--starts", nargs="+", default=["supernet"], choices=STARTS)
    add("--folds", type=int, nargs="+", default=[1, 2, 3, 4], help="default: 1 2 3 4")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    add("--size", type=int, default=112, help="height and width; default: 112")
    add("--network", choices="sl", default="s", help="configs: pvnas-s or pvnas-l")
    for kind in ("search", "train"):
        add(f"--{kind}-options", nargs="+", action=DictAction, default={})
    add("--workers", type=int, default=1, help="processes of one thread each")
    add("--device", default="cpu", help="cpu or cuda")
    add("--work-dir", type=Path, default=ROOT / "work_dirs" / "real_clips")
    add("--out", type=Path, required=True)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    options = dict(search=args.search_options, train=args.train_options)
    study = args.data, args.work_dir, args.size, args.device, options, args.network
    run_study(Study(*study), args)


if __name__ == "__main__":
    run(main)
