# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""From a folder of videos and a budget to a network that runs.

Each step is one of the other verbs (:mod:`.commands`), called in this process; its
command is printed and kept in ``commands.sh``. A step that has ended leaves a file in
``work/done``, a training that has not goes on from its last checkpoint: the same call
goes on wherever it was killed, and ends in the same result.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import math
import os
import re
import shlex
import shutil
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmaction.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.progress import track

from ..engine.folder_lock import folder_lock
from ..engine.search_data import ALPHA_SHARE, split_by_class
from ..models.supernet import PVNASSupernet
from ..profiling.clock import check_device
from ..report.data import read_work_dirs
from ..report.predictions import load_scores
from ..search.derive import Budget, derive
from ..search.schedule import num_epochs
from ..space.checks import wrong
from ..space.cost_table import CostTable, cost_tables
from ..space.genotype import load_genotype, save_genotype, write_atomically
from ..space.layout import BlockSpec
from ..space.search_space import SearchSpace
from . import video_folder
from .cli import make_out_folder
from .commands import call
from .config_files import load_config, read_space
from .run_checks import RECORD_KEY
from .video_folder import SPLITS, Clip

CONFIGS = "pvnas_mmaction::pvnas/pvnas-{}_custom-rgb.py"
# Space: config of the search, and of a network's training.
SPACES = {
    "lite0": ("s_search_1xb8-u8-12e", "s_retrain_1xb8-u8-12e"),
    "tiny": ("tiny_search_1xb16-u8-30e", "tiny_retrain_1xb16-u8-60e"),
}
# Option: kind of cost, one unit of it, and how it is written.
BUDGETS = {
    "ms": ("latency", 1, "{:.4g} ms"),
    "gflops": ("flops", 1e9, "{:.4g} GFLOPs"),
    "params": ("params", 1, "{:,.0f} parameters"),
}
REFERENCE = "reference"
LEFT_OUT = -20.0  # what the sum loses where a layer is left out
DRAWS = 10_000
SECONDS_PER_LINE = 20
TELLING = re.compile(r"Cycle \d|Search done|Search space|acc/top1: ")
Lists = dict[str, list[Clip]]


@dataclass
class Settings:
    """What is asked for, as ``pvnas fit --help`` says."""

    videos: Path
    out: Path
    budget_ms: float | None = None
    budget_gflops: float | None = None
    budget_params: float | None = None
    space: str = "lite0"
    config: str | None = None
    train_config: str | None = None
    lists: Sequence[str] = ()
    group_regex: str | None = None
    flip: bool = True
    num_networks: int = 2
    seed: int = 0
    device: str | None = None
    workers: int | None = None
    threads: int = 1
    latency_table: str | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        if not self.videos.is_dir():
            got = f"{self.videos}, which is no folder"
            raise wrong("VIDEOS", video_folder.EXPECTED, got)
        limits = {name: getattr(self, f"budget_{name}") for name in BUDGETS}
        given = {name: v for name, v in limits.items() if v is not None}
        if len(given) != 1 or not all(0 < v < math.inf for v in given.values()):
            options = ", ".join(f"--budget-{name}" for name in BUDGETS)
            raise wrong("budget", f"a number above 0 for one of {options}", str(given))
        ((self.unit, self.limit),) = given.items()
        self.kind, self.one, self.form = BUDGETS[self.unit]
        exact = self.limit * self.one
        self.budget = exact if self.unit == "ms" else round(exact)
        if (self.config is None) != (self.train_config is None):
            raise wrong("--config", "--train-config as well", "one of the two")
        search, train = map(CONFIGS.format, SPACES[self.space])
        self.config = self.config or search
        self.train_config = self.train_config or train
        if self.num_networks < 1:
            raise wrong("--num-networks", "1 or more", str(self.num_networks))
        if self.device:
            check_device(self.device)

    def identity(self) -> dict[str, Any]:
        """What a call has to share with the one that it goes on with."""
        names = ("limit", "unit", "config", "train_config", "lists", "group_regex")
        names += ("flip", "num_networks", "seed", "threads", "latency_table")
        found = {name: getattr(self, name) for name in names}
        found |= dict(videos=str(self.videos.resolve()), lists=list(self.lists))
        return found

    def show(self, cost: float) -> str:
        """A cost in words."""
        return self.form.format(cost / self.one)


def fit(videos: str | os.PathLike, **settings: Any) -> dict[str, Any] | None:
    """Search, train and export a network for the classes of a folder of videos.

    Args:
        videos: A folder with a folder of videos for each class.
        **settings: ``budget_ms``, ``budget_gflops`` or ``budget_params``; ``out``, the
            folder of the result, by default ``work_dirs/NAME OF THE FOLDER``; and the
            other options of ``pvnas fit`` (:class:`Settings`).

    Returns:
        What ``result.json`` holds; None after a dry run.

    Raises:
        ValueError: Something is wrong with videos or settings; says what to do.
    """
    out = settings.pop("out", None) or Path("work_dirs", Path(videos).resolve().name)
    asked = Settings(Path(videos), Path(out), **settings)
    make_out_folder(asked.out / "work")
    with folder_lock(asked.out / "work" / ".fit.lock", "pvnas fit"):
        return _Fit(asked).run()


class _Fit:
    def __init__(self, asked: Settings) -> None:
        self.asked = asked
        self.out = asked.out.resolve()
        self.work = self.out / "work"
        self.names: list[str] = []

    def run(self) -> dict[str, Any] | None:
        begun = self._check_identity()
        if self.asked.device == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        init_default_scope("mmaction")
        lists = self.read_lists() if begun else self.make_lists()
        self.write_configs(lists["train"])
        table = self.cost_table()
        self.show_plan(table)
        if not begun:
            sizes = [len(lists[split]) for split in ("train", "val")]
            minutes = max(1, round(self.estimate(*sizes) / 60))
            print(f"About {minutes} minute(s) in all on this machine")
        if self.asked.dry_run:
            print("Nothing was trained: --dry-run")
            return None
        self._write(self.work / "settings.json", self.asked.identity())
        networks = self.search(table)
        for name, genotype in networks.items():
            self.train(name, genotype)
        result = self.choose(list(networks), table)
        self.hand_over(result)
        print(summary(result, self.asked))
        return result

    def _check_identity(self) -> bool:
        """Whether an earlier call has begun in the folder; it has to be the same."""
        file, ours = self.work / "settings.json", self.asked.identity()
        if not file.is_file():
            return False
        theirs = json.loads(file.read_text(encoding="utf-8"))
        for key, value in ours.items():
            if theirs.get(key) != value:
                hint = "name another folder, or remove it"
                got = f"one with {theirs.get(key)!r}"
                raise wrong("--out", f"a fit with {key} {value!r}", got, hint)
        return True

    # -- clips ----------------------------------------------------------------------

    def read_lists(self) -> Lists:
        """The lists of an earlier call."""
        files = [str(self.out / f"{split}.txt") for split in SPLITS]
        self.names, lists = video_folder.read_lists(self.asked.videos, files)
        self._print_lists(lists, "as they are")
        return lists

    def make_lists(self) -> Lists:
        """Scan and split the videos, and write the lists."""
        asked, scan = self.asked, self.work / "scan.json"
        lists: Lists = {}
        if asked.lists:
            self.names, lists = video_folder.read_lists(asked.videos, asked.lists)
            clips = [clip for found in lists.values() for clip in found]
        else:
            self.names, clips = video_folder.find_clips(asked.videos)
        known = json.loads(scan.read_text(encoding="utf-8")) if scan.is_file() else []
        clips = video_folder.read_clips(asked.videos, clips, known, _bar)
        self._write(scan, [asdict(clip) for clip in clips])
        print(video_folder.describe(clips, len(self.names)))
        video_folder.check_clips(self.names, clips)
        good = {clip.path: clip for clip in clips if not clip.fault}
        how = "as given"
        for split, found in lists.items():
            lists[split] = [clip for clip in found if clip.path in good]
        if not lists:
            lists, how = self._split(list(good.values()))
        if split := video_folder.lacking(lists):
            hint = "add clips, or name groups by --group-regex"
            got = f"a {split} list that lacks one"
            raise wrong("VIDEOS", "clips of each class for each list", got, hint)
        self._print_lists(lists, how)
        for split, found in lists.items():
            text = "".join(f"{clip.path} {clip.label}\n" for clip in found)
            write_atomically(self.out / f"{split}.txt", text)
        write_atomically(self.out / "classes.txt", "\n".join(self.names) + "\n")
        return lists

    def _split(self, clips: list[Clip]) -> tuple[Lists, str]:
        pattern, most = self.asked.group_regex, 0
        for near in video_folder.NEAR:
            grouped = video_folder.group_clips(clips, pattern, near)
            sizes = Counter(clip.group for clip in grouped)
            lists = video_folder.split_clips(grouped, self.asked.seed)
            most = max(sizes.values())
            how = f"{len(sizes)} groups, the largest of {most} clips"
            if pattern is not None:
                return lists, f"{how}, by --group-regex"
            if most <= video_folder.LARGEST * len(clips) and not video_folder.lacking(
                lists
            ):
                print(
                    "Clips with near-duplicate frames stay together; where a recording "
                    "has several clips, name the recordings by --group-regex"
                )
                return lists, how
        print(
            f"warning: the frames of {most} of {len(clips)} clips look alike, so clips "
            "are split one by one; where a recording has several clips, name the "
            "recordings by --group-regex: accuracies are too high otherwise"
        )
        alone = video_folder.group_clips(clips, ".+")
        return video_folder.split_clips(alone, self.asked.seed), "clip by clip"

    def _print_lists(self, lists: Lists, how: str) -> None:
        sizes = ", ".join(f"{len(lists[split])} {split}" for split in SPLITS)
        print(f"Lists: {sizes} ({how})")

    # -- configs --------------------------------------------------------------------

    def write_configs(self, train: list[Clip]) -> None:
        """Write the configs of the search and of a training, whole."""
        asked = self.asked
        most = min(2, os.cpu_count() or 1)
        workers = most if asked.workers is None else asked.workers
        halves = split_by_class([clip.label for clip in train], ALPHA_SHARE, 0)
        for name, base in (("search", asked.config), ("train", asked.train_config)):
            cfg = load_config(str(base))
            for split in SPLITS:
                loader = cfg[f"{split}_dataloader"]
                # Not persistent: an epoch after a resume is what it would have been.
                loader.update(persistent_workers=False, num_workers=workers)
                loader.dataset.update(
                    ann_file=str(self.out / f"{split}.txt"),
                    data_prefix=dict(video=str(asked.videos.resolve())),
                    num_classes=len(self.names),
                )
            loader = cfg.train_dataloader
            if not asked.flip:
                pipeline = loader.dataset.pipeline
                loader.dataset.pipeline = [t for t in pipeline if t["type"] != "Flip"]
            loader.batch_size = min(loader.batch_size, *map(len, halves))
            cfg.model.cls_head.num_classes = len(self.names)
            cfg.randomness = dict(seed=asked.seed)
            if name == "search":
                cfg.train_cfg.cost = dict(kind=asked.kind, budget=asked.budget)
                if asked.kind == "latency":
                    cfg.train_cfg.cost.table = str(self.latency_table)
            self._dump(cfg, self.work / f"{name}.py")
        self.search_cfg = load_config(str(self.work / "search.py"))
        self.train_cfg = load_config(str(self.work / "train.py"))
        self.space = read_space(self.search_cfg, "search.py")
        self.shape = tuple(self.search_cfg.train_cfg.input_shape)

    def _dump(self, cfg: Config, path: Path) -> None:
        cfg.dump(path.with_suffix(".part.py"))
        path.with_suffix(".part.py").replace(path)

    @property
    def latency_table(self) -> Path:
        asked = self.asked
        if asked.latency_table:
            return Path(asked.latency_table).resolve()
        # What a dry run measured counts for calls that ask for the same.
        key = repr((asked.config, asked.device, asked.threads))
        return self.work / f"latency_{zlib.crc32(key.encode()):08x}.json"

    # -- the plan ---------------------------------------------------------------------

    def cost_table(self) -> CostTable:
        """The table of the budget's cost; measures one for milliseconds."""
        table = None
        if self.asked.kind == "latency":
            table = self.latency_table
            if self.asked.latency_table is None:
                self.step(table.stem, ("latency", [
                    self.work / "search.py", "--out", table,
                    "--threads", self.asked.threads, *self._latency_backend(),
                ]))  # fmt: skip
        tables = cost_tables(self.space, self.shape, len(self.names), table)
        return tables[self.asked.kind]

    def _latency_backend(self) -> list[str]:
        gpu = self.asked.device and self.asked.device.startswith("cuda")
        return ["--device", self.asked.device] if gpu else ["--backend", "onnxruntime"]

    def show_plan(self, table: CostTable) -> None:
        """Print what there is to choose from.

        Raises:
            ValueError: No network keeps the budget.
        """
        asked = self.asked
        cheapest, most = float(table.cheapest()), table.cost(table.most_expensive())
        if cheapest > asked.budget:
            expected = f"{asked.show(cheapest)} or more, the cheapest network there is"
            raise wrong(f"--budget-{asked.unit}", expected, asked.show(asked.budget))
        shape = "x".join(map(str, self.shape))
        print(
            f"Space {self.space.name!r}: {self.space.size:.3g} networks, "
            f"{asked.show(cheapest)} to {asked.show(most)} for a clip of {shape}; "
            f"budget {asked.show(asked.budget)}"
            + (", which all of them keep" if asked.budget >= most else "")
        )

    def estimate(self, num_train: int, num_val: int) -> float:
        """Seconds of search and trainings, from a few steps of each kind."""
        cfg = self.search_cfg.train_cfg
        batch = self.search_cfg.train_dataloader.batch_size
        dataset = DATASETS.build(self.search_cfg.val_dataloader.dataset)
        clip = _seconds(lambda: dataset[0]) / min(2, os.cpu_count() or 1)
        device = self.asked.device or ("cuda" if torch.cuda.is_available() else "cpu")
        supernet = PVNASSupernet(self.space.to_config()).to(device).train()
        x = torch.randn(batch, *self.shape, device=device)

        def seconds_of(indices: Sequence[int]) -> float:
            path = supernet.path_of(indices)
            return _seconds(lambda: supernet(x, path).mean().backward())

        widest = [0] * len(self.space.layers)
        _, full = seconds_of(widest), seconds_of(widest)  # the first one warms up
        drawn = np.random.default_rng(0).integers(
            supernet.counts, size=(3, len(widest))
        )
        path = sum(map(seconds_of, drawn.tolist())) / len(drawn)
        per_epoch = max(1, num_train // 2 // batch)
        epochs = num_epochs(cfg.max_epochs, cfg.get("min_steps", 0), per_epoch)
        # A weights step and an alpha step; with a donor, of the full network as well.
        per_step = 2.3 * path + 2 * batch * clip
        search = epochs * per_epoch * per_step
        if donor := cfg.get("donor"):
            search += epochs * per_epoch * full
            search += donor.tune_steps * (full + batch * clip)
        clips = self.train_cfg.train_cfg.max_epochs * (num_train + num_val / 2)
        one = clips * (max(path, full / 2) / batch + clip)
        return 1.1 * search + (self.asked.num_networks + 1) * one

    # -- search and trainings ---------------------------------------------------------

    def search(self, table: CostTable) -> dict[str, Path]:
        """Search, and give the genotypes to train by their names."""
        asked, search = self.asked, self.work / "search"
        argv = [self.work / "search.py", "--work-dir", search, "--resume"]
        self.step("search", ("search", argv))
        part, folder = self.work / "derived.part", self.work / "derived"
        scale = 1e6 if asked.unit == "params" else 1
        argv = [search, "--out", part, f"--budget-{asked.unit}", asked.limit / scale]
        argv += ["--num-candidates", max(4, 2 * asked.num_networks), "--rank-on",
                 self.work / "search.py", "--save-weights"]  # fmt: skip
        if asked.kind == "latency":
            argv += ["--latency-table", self.latency_table]
        if asked.device:
            argv += ["--device", asked.device]
        if not self._is_done("derive"):
            shutil.rmtree(part, ignore_errors=True)
            self.step("derive", ("derive", argv), mark=False)
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
            self._mark("derive")
        # The search's own choice, judged once more at its end, then the next ones.
        files = [search / "search" / "genotype.json", *sorted(folder.glob("*.json"))]
        found: dict[tuple[str, ...], Path] = {}
        for file in files:
            found.setdefault(load_genotype(file).blocks, file)
        chosen = list(found.values())[: asked.num_networks]
        networks = {f"searched_{i}": file for i, file in enumerate(chosen, 1)}
        hand_made = self.work / "hand_made.json"
        indices = reference(self.space, Budget(table, asked.budget))
        save_genotype(self.space.genotype(indices), hand_made)
        return {**networks, REFERENCE: hand_made}

    def train(self, name: str, file: Path) -> None:
        """Train one network and predict the test clips."""
        config, folder = self.work / f"{name}.py", self.work / name
        shutil.copy(file, self.work / f"{name}.json")
        cfg = load_config(str(self.work / "train.py"))
        cfg.model.backbone.genotype = str(self.work / f"{name}.json")
        cfg.model.cls_head.in_channels = self.space.skeleton.out_channels
        # Of a search from a donor: what the network inherits from the supernet.
        weights = file.with_suffix(".pth")
        cfg.load_from = str(weights) if weights.is_file() else None
        self._dump(cfg, config)
        self.step(name, ("train", [config, "--work-dir", folder, "--resume"]))
        argv = [config, self._last(name), "--work-dir", folder / "test"]
        argv += ["--dump", folder / "test.pkl"]
        self.step(f"{name}_test", ("test", argv))

    def _last(self, name: str) -> Path:
        epochs = self.train_cfg.train_cfg.max_epochs
        return self.work / name / f"epoch_{epochs}.pth"

    # -- the result -------------------------------------------------------------------

    def choose(self, names: list[str], table: CostTable) -> dict[str, Any]:
        """Compare the networks, and say which one is handed over."""
        clips, rows = {}, {}
        for name in names:
            folder = self.work / name
            pairs = load_scores(folder / "test.pkl")
            clips[name] = np.array([truth == int(s.argmax()) for truth, s in pairs])
            (run,) = read_work_dirs([folder])
            genotype = load_genotype(self.work / f"{name}.json")
            indices = self.space.indices_of_blocks(genotype.blocks)
            rows[name] = dict(
                blocks=list(genotype.blocks), cost=table.cost(indices),
                validation=run.val[-1]["acc/top1"], test=float(clips[name].mean()),
            )  # fmt: skip
        searched = max(
            (name for name in names if name != REFERENCE),
            key=lambda name: (rows[name]["validation"], -rows[name]["cost"]),
        )
        difference = clips[searched].astype(float) - clips[REFERENCE]
        low, high = bootstrap_interval(difference)
        better = searched if low > 0 else REFERENCE if high < 0 else None
        cheaper = min((searched, REFERENCE), key=lambda name: rows[name]["cost"])
        return dict(
            chosen=better or cheaper, searched=searched, networks=rows,
            difference=float(difference.mean()), interval=[low, high],
            as_good=better is None, num_test_clips=len(difference),
            classes=self.names, unit=self.asked.unit, budget=self.asked.budget,
        )  # fmt: skip

    def hand_over(self, result: dict[str, Any]) -> None:
        """Write the files of the chosen network, then ``result.json``."""
        out, name = self.out, result["chosen"]
        save_genotype(load_genotype(self.work / f"{name}.json"), out / "genotype.json")
        found = torch.load(self._last(name), map_location="cpu", weights_only=True)
        kept = {k: found[k] for k in ("meta", "state_dict", RECORD_KEY)}
        torch.save(kept, self.work / "checkpoint.part")
        (self.work / "checkpoint.part").replace(out / "checkpoint.pth")
        cfg = load_config(str(self.work / f"{name}.py"))
        cfg.load_from = None
        cfg.model.backbone.genotype = str(out / "genotype.json")
        self._dump(cfg, out / "config.py")
        text = (out / "config.py").read_text(encoding="utf-8")
        text = text.replace(f"'{out}/", "'{{ fileDirname }}/")  # the folder may move
        write_atomically(out / "config.py", text)
        export = [out / "config.py", out / "checkpoint.pth"]
        export += ["--out", out / "model.onnx"]
        runs = [self.work / "search", *(self.work / n for n in result["networks"])]
        title = f"{self.asked.videos.name}, {self.asked.show(self.asked.budget)}"
        report = [*runs, "--out", out / "report.html", "--title", title]
        self.step("export", ("export", export), ("report", report))
        self._write(out / "result.json", result)

    # -- steps ------------------------------------------------------------------------

    def step(self, name: str, *calls: tuple[str, list], mark: bool = True) -> None:
        """Call some verbs, unless that was done before."""
        if self._is_done(name):
            return
        for verb, argv in calls:
            command = shlex.join(["pvnas", verb, *map(str, argv)])
            print(f"\n$ {command}", flush=True)
            file = self.out / "commands.sh"
            known = file.read_text(encoding="utf-8") if file.is_file() else ""
            if f"{command}\n" not in known:
                write_atomically(file, known + command + "\n")
            log = _Log(self.out / "fit.log", sys.stdout)
            with contextlib.redirect_stdout(log):
                call(verb, argv)
            gc.collect()  # a runner is a cycle of references
        if mark:
            self._mark(name)

    def _is_done(self, name: str) -> bool:
        return (self.work / "done" / name).is_file()

    def _mark(self, name: str) -> None:
        write_atomically(self.work / "done" / name, time.strftime("%F %T\n"))

    def _write(self, path: Path, content: Any) -> None:
        write_atomically(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def reference(space: SearchSpace, budget: Budget) -> tuple[int, ...]:
    """A hand-made network: the donor with a temporal shift in every residual block, as
    wide as the budget allows (the greatest sum of the logarithms of expand ratios), and
    without a layer only where no width keeps the budget.

    Where a space has no shift, the residual blocks have a temporal kernel.
    """
    scores = []
    for layer, row in zip(space.layers, space.candidates, strict=True):
        kernel = row[0].split("_")[2]  # the donor's
        for start in ("ts_|rs_", "mb_t3|rb_t3", "."):
            wanted = re.compile(start if layer.keeps_shape else "(mb|rb)_t1")
            fits = [bool(wanted.match(s)) and kernel in s.split("_") for s in row]
            if any(fits):
                break
        ratios = (None if s == "skip" else BlockSpec.parse(s).expand_ratio for s in row)
        widths = [math.log(ratio) if ratio else LEFT_OUT for ratio in ratios]
        pairs = zip(fits, widths, strict=True)
        scores.append([w if fit or w == LEFT_OUT else -math.inf for fit, w in pairs])
    return derive(scores, [budget])[0].indices


def bootstrap_interval(differences: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of paired differences, by the percentiles of
    resampled means (Efron, 1979)."""
    generator = np.random.default_rng(0)
    draws = generator.choice(differences, (DRAWS, len(differences))).mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def summary(result: dict[str, Any], asked: Settings) -> str:
    """The table of the networks, what was chosen and why, and the next commands."""
    lines = ["", "| network | cost | validation | test |", "| --- | --- | --- | --- |"]
    for name, row in result["networks"].items():
        cells = [f"**{name}**" if name == result["chosen"] else name]
        cells += [asked.show(row["cost"])]
        cells += [f"{row[key]:.1%}" for key in ("validation", "test")]
        lines.append(f"| {' | '.join(cells)} |")
    low, high = result["interval"]
    verdict = "the better one"
    if result["as_good"]:
        verdict = "one is as good as the other, so the cheaper one"
    folder = shlex.quote(str(asked.out))
    lines += [
        f"\n{result['searched']} is {result['difference']:+.1%} from the hand-made "
        f"{REFERENCE} on {result['num_test_clips']} test clips (95 % interval "
        f"{low:+.1%} to {high:+.1%}): {verdict} is handed over, {result['chosen']}."
        "\n\nNext:",
        f"  pvnas predict {folder} VIDEO           # classes of a new video",
        f"  pvnas predict {folder} VIDEO --onnx    # the same without PyTorch",
        f"  pvnas test {folder}/config.py {folder}/checkpoint.pth",
        f"  {folder}/report.html                   # for a browser",
    ]
    return "\n".join(lines)


def _seconds(function: Any) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _bar(results: Iterable[Any], total: int) -> Iterable[Any]:
    console = Console(stderr=True)
    hidden = not console.is_terminal
    return track(results, "Decoding", total, console=console, disable=hidden)


class _Log(io.TextIOBase):
    """A stream to a file that passes the telling lines on to another one."""

    def __init__(self, path: Path, terminal: Any) -> None:
        self.path, self.terminal, self.last = path, terminal, time.monotonic()

    def write(self, text: str) -> int:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
        late = time.monotonic() - self.last > SECONDS_PER_LINE
        if TELLING.search(text) or (late and "Epoch(train)" in text):
            self.last = time.monotonic()
            message = text.rstrip().split(" - INFO - ")[-1]
            print(f"  {message}", file=self.terminal, flush=True)
        return len(text)
