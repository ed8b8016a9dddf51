# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Searches, the choice of networks and learning rates, and trainings on real clips.

Per fold, and all from the training part of the fold alone but the last test: every
result is a line of a file, and a study goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from benchmarks.jobs import JobLog, run_jobs
from benchmarks.real_data import Fold, RealClips, read_folds
from benchmarks.real_training import BASE, Setting, measure, search, train
from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.search_space import SearchSpace

MAX_DRAWS = 10_000
# Searches of one fold are seeded so far apart; more than there are folds.
SEED_STEP = 1_000
# Name of a zoo's model, or content of a genotype file.
Spec = str | dict[str, Any]
# Name of a row -> fold -> networks.
Rows = Mapping[str, Mapping[int, Sequence[Spec]]]


@dataclass(frozen=True)
class State:
    """What the jobs of one process share."""

    setting: Setting
    num_classes: int
    clips: RealClips
    folds: list[Fold]


@dataclass(frozen=True)
class Loader:
    """Builds the state in the process that needs it."""

    folder: Path
    setting: Setting
    device: str = "cpu"

    def __call__(self) -> State:
        names, labels, folds = read_folds(self.folder)
        setting = self.setting
        clips = RealClips.read(
            self.folder,
            labels,
            setting.frames,
            setting.crop,
            setting.stored_frames,
            setting.background_mixing,
        ).to(self.device)
        return State(self.setting, len(names), clips, folds)


def search_job(
    state: State, job: tuple[str, Path, str, int, int, int]
) -> dict[str, Any]:
    """One search on the first inner split of a fold."""
    name, config, space, max_macs, fold, seed = job
    inner = state.folds[fold - 1].inner[0]
    found = search(
        config,
        space,
        max_macs,
        state.num_classes,
        state.clips.select(inner.train),
        state.clips.select(inner.val),
        state.setting,
        seed=fold + SEED_STEP * seed,
    )
    return dict(
        name=name,
        fold=fold,
        seed=seed,
        max_macs=max_macs,
        search_config=digest_of(config),
        **found,
    )


def digest_of(config: Path) -> str:
    """What tells the content of a config from that of another."""
    content = json.dumps(Config.fromfile(config).to_dict(), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def train_job(
    state: State, job: tuple[str, Spec, int, float, int, int]
) -> dict[str, Any]:
    """One training, on a fold or on an inner split of its training part."""
    _, spec, fold, lr, seed, split = job
    part = state.folds[fold - 1]
    chosen = part.inner[split - 1] if split else part.whole
    clips, test = (state.clips.select(rows) for rows in chosen)
    result = train(spec, state.num_classes, clips, test, state.setting, lr, seed)
    return dict(Training.of(*job)._asdict(), **result)


class Training(NamedTuple):
    """What tells one training from another: the first fields of its record.

    Args:
        name: Of the row.
        blocks: Of the genotype; None where the name says it all.
        fold: From 1.
        lr: Peak learning rate.
        seed: Of everything random.
        split: Number of the inner split, from 1; 0 is the fold as a whole.
    """

    name: str
    blocks: str | None
    fold: int
    lr: float
    seed: int
    split: int

    @classmethod
    def of(
        cls, name: str, spec: Spec, fold: int, lr: float, seed: int, split: int
    ) -> Training:
        blocks = None if isinstance(spec, str) else " ".join(spec["blocks"])
        return cls(name, blocks, fold, lr, seed, split)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Training:
        return cls(*(record[field] for field in cls._fields))


class Study:
    """Searches, the choice of learning rates, and trainings, one after the other.

    Args:
        loader: Builds clips and folds.
        work_dir: Where results go.
        workers: Processes, each with one thread. Default 1.

    Raises:
        ValueError: The results in ``work_dir`` had other settings.
    """

    def __init__(self, loader: Loader, work_dir: Path, workers: int = 1) -> None:
        self.loader, self.work_dir, self.workers = loader, work_dir, workers
        self.setting = loader.setting
        names, labels, folds = read_folds(loader.folder)
        self.num_classes, self.num_folds = len(names), len(folds)
        settings = asdict(self.setting)
        for chooses in ("learning_rates", "tuning_splits"):
            settings.pop(chooses)  # a later call may add one
        for later in ("background_mixing", "averaged_epochs"):
            if not settings[later]:
                settings.pop(later)  # results from before it was there
        settings |= dict(data=loader.folder.name, clips=len(labels))
        settings |= dict(device=loader.device)
        of_trainings = ("epochs", "averaged_epochs")
        searches = {k: v for k, v in settings.items() if k not in of_trainings}
        settings.pop("search_epochs")
        self.searches = JobLog(work_dir, "searches", searches)
        self.tuning = JobLog(work_dir, "tuning", settings)
        self.trainings = JobLog(work_dir, "trainings", settings)
        # Before records had a split, the first one alone chose the learning rates.
        for log, split in ((self.tuning, 1), (self.trainings, 0)):
            for record in log.records:
                record.setdefault("split", split)

    def macs(self, spec: Spec) -> int:
        """Multiply-accumulates of one view."""
        return int(measure(spec, self.num_classes, self.setting, runs=1)["macs"])

    def search(
        self,
        config: Path,
        space: str,
        budgets: Sequence[str],
        folds: Sequence[int],
        seeds: Sequence[int] = (0,),
    ) -> dict[str, dict[int, list[Spec]]]:
        """Search each fold under each budget.

        Args:
            config: Search config.
            space: Name of the space.
            budgets: Models of the zoo whose multiply-accumulates are the budgets.
            folds: Numbers of the folds, from 1.
            seeds: One search for each, on each fold. Default one, 0.

        Returns:
            Name of the row -> fold -> genotype of each search, in the order of the
            seeds.

        Raises:
            ValueError: A search that is there was made by another config.
        """
        names = {f"{space} <= {model}": model for model in budgets}
        limits = {name: self.macs(model) for name, model in names.items()}
        jobs = [
            (name, config, space, limit, fold, seed)
            for seed in seeds
            for fold in folds
            for name, limit in limits.items()
        ]
        done = self.found()
        digest = digest_of(config)
        for job in jobs:
            record = done.get((job[0], *job[-2:]), {})
            # Searches from before it was written down are taken as they are.
            if record.get("search_config", digest) != digest:
                raise ValueError(
                    f"{self.searches.path}: found searches by another --search-config, "
                    f"expected those by {config.name}; choose another --work-dir"
                )
        jobs = [job for job in jobs if (job[0], *job[-2:]) not in done]
        run_jobs(jobs, search_job, self.loader, self.searches, self.workers, "Searches")
        found = self.found()
        return {
            name: {
                fold: [found[name, fold, seed]["genotype"] for seed in seeds]
                for fold in folds
            }
            for name in names
        }

    def found(self) -> dict[tuple[str, int, int], dict[str, Any]]:
        """Records of all searches by name of the row, fold and seed."""
        return {
            # There was one search for each fold before searches had a seed.
            (r["name"], r["fold"], r.get("seed", 0)): r
            for r in self.searches.records
        }

    def draw(self, space: str, budgets: Sequence[str], count: int) -> dict[str, Spec]:
        """Networks drawn uniformly, always the same, from those of a space that keep
        the lowest budget: what a search has to beat.

        Args:
            space: Name of the space.
            budgets: Models of the zoo whose multiply-accumulates are the budgets.
            count: How many.

        Returns:
            Name of the row -> genotype.

        Raises:
            ValueError: There is no budget, or hardly any network keeps it.
        """
        if not budgets:
            raise ValueError(
                "--search-budgets: found none, expected one or more: random networks "
                "keep the lowest"
            )
        content = Config.fromfile(BASE / "spaces" / f"{space}.py").space
        drawn_from = SearchSpace.from_config(content.to_dict())
        limit = min(self.macs(model) for model in budgets)
        generator = random.Random(0)
        found: dict[str, Spec] = {}
        for _ in range(MAX_DRAWS):
            if len(found) == count:
                return found
            indices = [generator.randrange(len(c)) for c in drawn_from.candidates]
            genotype = drawn_from.genotype(indices)
            macs = network_cost(
                drawn_from.skeleton,
                genotype.blocks,
                self.setting.input_shape,
                self.num_classes,
            ).macs
            if macs <= limit:
                name = f"{space} random {len(found) + 1}"
                found[name] = json.loads(genotype.to_json())
        raise ValueError(
            f"random: found {len(found)} networks of {space!r} under {limit} "
            f"multiply-accumulates in {MAX_DRAWS} draws, expected {count}; choose "
            "another --search-space or --search-budgets"
        )

    def keep_best(self, rows: Rows, seed: int, lr: float) -> Rows:
        """Where searches found several networks for a fold, keep the one that is best
        when each is trained from scratch on the inner splits: how DARTS chooses among
        its searches (arXiv 1806.09055, section 3.2).

        Args:
            rows: Name -> fold -> networks.
            seed: Of the trainings.
            lr: Learning rate of the trainings.

        Returns:
            The same with one network for each row and fold: that of the highest mean
            accuracy, the earlier one where two tie.
        """
        self._run(self._finalists(rows, seed, lr), self.tuning, "Finalists")

        def best(name: str, fold: int, specs: Sequence[Spec]) -> Spec:
            if len(specs) == 1:
                return specs[0]
            return max(specs, key=lambda spec: self._judged(name, spec, fold, lr, seed))

        return {
            name: {fold: [best(name, fold, specs)] for fold, specs in by_fold.items()}
            for name, by_fold in rows.items()
        }

    def train(self, rows: Rows, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """Choose learning rates, then train every row on each of its folds.

        Args:
            rows: Name -> fold -> networks.
            seeds: Of the trainings; the first one also chooses the learning rates.

        Returns:
            A record per network and seed. A network that is there twice, because two
            searches found it, is trained once and has its record twice.
        """
        self._run(self._rates(rows, seeds[0]), self.tuning, "Learning rates")
        jobs = [
            (*place, self._chosen(*place, seeds[0]), seed, 0)
            for seed in seeds
            for place in _places(rows)
        ]
        self._run(jobs, self.trainings, "Trainings")
        return _records(jobs, self.trainings)

    def tuning_of(
        self, found: Rows, kept: Rows, seed: int, lr: float | None = None
    ) -> list[dict[str, Any]]:
        """Records of the trainings on inner splits that had a say.

        Args:
            found: What :meth:`keep_best` chose from.
            kept: What :meth:`train` chose learning rates for.
            seed: Of the trainings.
            lr: Learning rate of :meth:`keep_best`. Default None: it was not called.
        """
        jobs = [] if lr is None else self._finalists(found, seed, lr)
        unique = {Training.of(*job): job for job in jobs + self._rates(kept, seed)}
        return _records(list(unique.values()), self.tuning)

    def _finalists(self, rows: Rows, seed: int, lr: float) -> list[tuple]:
        """Trainings that choose among several networks of a fold."""
        several = {
            name: {fold: specs for fold, specs in by_fold.items() if len(specs) > 1}
            for name, by_fold in rows.items()
        }
        return [
            (*place, lr, seed, split)
            for place in _places(several)
            for split in self.splits
        ]

    def _rates(self, rows: Rows, seed: int) -> list[tuple]:
        """Trainings that choose the learning rates; none where there is one alone."""
        rates = self.setting.learning_rates
        return [
            (*place, rate, seed, split)
            for place in _places(rows)
            for rate in (rates if len(rates) > 1 else ())
            for split in self.splits
        ]

    @property
    def splits(self) -> range:
        """Numbers of the inner splits that choose learning rates and networks."""
        return range(1, (self.setting.tuning_splits or self.num_folds - 1) + 1)

    def _run(self, jobs: Sequence[tuple], log: JobLog, title: str) -> None:
        missing = {Training.of(*job): job for job in jobs}
        for record in log.records:
            missing.pop(Training.of_record(record), None)
        jobs = list(missing.values())
        run_jobs(jobs, train_job, self.loader, log, self.workers, title)

    def _chosen(self, name: str, spec: Spec, fold: int, seed: int) -> float:
        """The learning rate of a network on a fold, the lower one where two tie."""
        rates = sorted(self.setting.learning_rates)
        if len(rates) == 1:
            return rates[0]
        return max(rates, key=lambda lr: self._judged(name, spec, fold, lr, seed))

    def _judged(self, name: str, spec: Spec, fold: int, lr: float, seed: int) -> float:
        """Mean accuracy of a network over the inner splits of a fold."""
        jobs = [Training.of(name, spec, fold, lr, seed, split) for split in self.splits]
        found = {Training.of_record(r): r["accuracy"] for r in self.tuning.records}
        return statistics.fmean(found[job] for job in jobs)


def _places(rows: Rows) -> list[tuple[str, Spec, int]]:
    """Every network of every row with its fold."""
    return [
        (name, spec, fold)
        for name, by_fold in rows.items()
        for fold, specs in by_fold.items()
        for spec in specs
    ]


def _records(jobs: Sequence[tuple], log: JobLog) -> list[dict[str, Any]]:
    """The record of each job."""
    found = {Training.of_record(r): r for r in log.records}
    return [found[Training.of(*job)] for job in jobs]
