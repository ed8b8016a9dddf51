"""From a folder of videos and a budget to a network that runs, by calls of the other
verbs (:mod:`.verb_steps`). The same call continues wherever it was killed, and ends in
the same result."""

import json
import os
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import init_default_scope

from ..engine.folder_lock import folder_lock
from ..engine.search_data import ALPHA_SHARE, split_by_class
from ..profiling.onnx_parts import measured_ms
from ..report.data import read_work_dirs
from ..search.derive import Budget
from ..search.selection import hand_designed
from ..space.checks import reading, wrong
from ..space.cost_table import CostTable, cost_tables
from ..space.genotype import (
    load_genotype,
    replacing,
    save_genotype,
    write_atomically,
    write_json,
)
from . import cli
from .clip_split import lacking, split_by_source
from .comparison import REFERENCE, compare, summary
from .config_files import load_config, read_space
from .estimate import estimate
from .fit_settings import Settings
from .run_checks import RECORD_KEY
from .verb_steps import Steps
from .video_folder import (
    SPLITS,
    Clip,
    check_clips,
    describe,
    find_clips,
    read_clips,
    read_lists,
)

# Decoded frames are kept, with this height or width, where they take no more bytes.
CACHED_SIZE, MAX_CACHE = 128, 8e9
BACKEND = ("--backend", "onnxruntime")
STEPS_PER_CHECKPOINT = 25  # of a search, at least
Lists = dict[str, list[Clip]]


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
    cli.make_out_folder(asked.out / "work")
    with folder_lock(asked.out / "work" / ".fit.lock", "pvnas fit"):
        return _Fit(asked).run()


class _Fit:
    def __init__(self, asked: Settings) -> None:
        self.asked = asked
        self.out = asked.out.resolve()
        self.work = self.out / "work"
        self.cache = self.work / "frames"
        self.steps = Steps(self.out)
        self.names: list[str] = []
        self.searched = [f"searched_{i}" for i in range(1, asked.num_networks + 1)]
        # What a dry run measured counts for calls that ask for the same.
        setting = f"{Path(asked.config).stem}_{asked.device or 'cpu'}_{asked.threads}"
        self.latency_table = self.work / f"latency_{setting}.json"

    def run(self) -> dict[str, Any] | None:
        begun = self._check_identity()
        if self.asked.device == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        init_default_scope("mmaction")
        lists = self.make_lists(begun)
        self.write_configs(lists["train"])
        table = self.cost_table()
        self.show_plan(table)
        self.estimate(lists, table)
        if self.asked.dry_run:
            print("Nothing was trained: --dry-run")
            return None
        write_json(self.work / "settings.json", self.asked.identity())
        networks = self.search(table)
        for name, genotype in networks.items():
            self.train(name, genotype)
        result = self.compare(list(networks), table)
        self.hand_over(result)
        print(summary(result, self.asked.show, self.asked.out))
        return result

    def _check_identity(self) -> bool:
        """Whether an earlier call, which has to be the same, has begun here."""
        file, ours = self.work / "settings.json", self.asked.identity()
        if not file.is_file():
            return False
        with reading(file, "settings that pvnas fit wrote"):
            theirs = dict(json.loads(file.read_text(encoding="utf-8")))
        for key, value in ours.items():
            if theirs.get(key) != value:
                hint = "name another folder, or remove it"
                got = f"one with {theirs.get(key)!r}"
                raise wrong("--out", f"a fit with {key} {value!r}", got, hint)
        return True

    def make_lists(self, begun: bool) -> Lists:
        """Scan and split the videos, or read the lists of an earlier call."""
        asked, lists, how = self.asked, {}, "as they are"
        own = [str(self.out / f"{split}.txt") for split in SPLITS]
        if begun or asked.lists:
            self.names, lists = read_lists(asked.videos, own if begun else asked.lists)
            clips = [clip for found in lists.values() for clip in found]
        else:
            self.names, clips = find_clips(asked.videos)
        if not begun:
            clips = read_clips(asked.videos, clips, cli.bar("Decoding"))
            print(describe(clips, len(self.names)))
            check_clips(self.names, clips)
            good = {clip.path: clip for clip in clips if not clip.fault}
            if lists:
                lists = {k: [c for c in v if c.path in good] for k, v in lists.items()}
            else:
                source = [*good.values()], asked.group_regex, asked.seed
                lists, how = split_by_source(*source)
            if split := lacking(lists):
                hint = "add clips, or name groups by --group-regex"
                got = f"a {split} list that lacks one"
                raise wrong("VIDEOS", "clips of each class for each list", got, hint)
            for split, file in zip(SPLITS, own, strict=True):
                lines = [f"{clip.path} {clip.label}\n" for clip in lists[split]]
                write_atomically(file, "".join(lines))
            write_atomically(self.out / "classes.txt", "\n".join(self.names) + "\n")
            self.make_cache([*good.values()])
        sizes = ", ".join(f"{len(lists[split])} {split}" for split in SPLITS)
        print(f"Lists: {sizes} ({how})")
        return lists

    def make_cache(self, clips: list[Clip]) -> None:
        ratios = [max(c.height, c.width) / min(c.height, c.width) for c in clips]
        area = sum(c.frames * r for c, r in zip(clips, ratios, strict=True))
        free = shutil.disk_usage(self.out).free
        if 3 * CACHED_SIZE**2 * area < min(MAX_CACHE, free / 2):
            self.cache.mkdir(exist_ok=True)

    def write_configs(self, train: list[Clip]) -> None:
        asked = self.asked
        # Frames in a cache are read in no time; to fork a large process takes seconds.
        workers = 0 if self.cache.is_dir() else min(2, os.cpu_count() or 1)
        halves = split_by_class([clip.label for clip in train], ALPHA_SHARE, 0)
        configs = []
        for name, base in (("search", asked.config), ("train", asked.train_config)):
            cfg = load_config(str(base))
            for split in SPLITS:
                loader = cfg[f"{split}_dataloader"]
                # Not persistent: an epoch after a resume is what it would have been.
                loader.persistent_workers = False
                loader.num_workers = workers
                loader.dataset.update(
                    ann_file=str(self.out / f"{split}.txt"),
                    data_prefix=dict(video=str(asked.videos.resolve())),
                    num_classes=len(self.names),
                )
                kinds = [transform["type"] for transform in loader.dataset.pipeline]
                resized = ("PVNASVideoDecode", "Resize") in pairwise(kinds)
                if resized and self.cache.is_dir():
                    loader.dataset.cache = str(self.cache)
            loader = cfg.train_dataloader
            if not asked.flip:
                pipeline = loader.dataset.pipeline
                loader.dataset.pipeline = [t for t in pipeline if t["type"] != "Flip"]
            loader.batch_size = min(loader.batch_size, *map(len, halves))
            cfg.model.cls_head.num_classes = len(self.names)
            cfg.randomness = dict(seed=asked.seed)
            if name == "search":
                steps = len(halves[0]) // loader.batch_size
                interval = -(-STEPS_PER_CHECKPOINT // steps)
                cfg.default_hooks.checkpoint.interval = interval
                cfg.train_cfg.cost = dict(kind=asked.kind, budget=asked.budget)
                if asked.kind == "latency":
                    cfg.train_cfg.cost.table = str(self.latency_table)
            cfg.dump(self.work / f"{name}.py")
            configs.append(load_config(str(self.work / f"{name}.py")))
        self.search_cfg, self.train_cfg = configs
        self.space = read_space(self.search_cfg, "search.py")
        self.shape = tuple(self.search_cfg.train_cfg.input_shape)

    def cost_table(self) -> CostTable:
        asked, table = self.asked, None
        if asked.kind == "latency":
            table = self.latency_table
            argv = [self.work / "search.py", "--out", table, "--threads", asked.threads]
            argv += ["--device", asked.device] if asked.on_gpu else BACKEND
            title = f"Measuring {sum(map(len, self.space.candidates))} blocks"
            self.steps.run(table.stem, title, ("latency", argv))
        tables = cost_tables(self.space, self.shape, len(self.names), table)
        return tables[asked.kind]

    def show_plan(self, table: CostTable) -> None:
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
            + (", which all of them meet" if asked.budget >= most else "")
        )

    def estimate(self, lists: Lists, table: CostTable) -> None:
        network = hand_designed(self.space, [Budget(table, self.asked.budget)])
        device = self.asked.device or ("cuda" if torch.cuda.is_available() else "cpu")
        sizes = [len(lists[split]) for split in ("train", "val")]
        configs = self.search_cfg, self.train_cfg, self.space
        search, training = estimate(*configs, network, *sizes, device)
        seconds = dict.fromkeys([*self.searched, REFERENCE], training)
        seconds["search"] = search
        left = sum(s for name, s in seconds.items() if not self.steps.is_done(name))
        print(f"About {max(1, round(left / 60))} minute(s) on this machine", flush=True)

    def search(self, table: CostTable) -> dict[str, Path]:
        asked, search = self.asked, self.work / "search"
        argv = [self.work / "search.py", "--work-dir", search, "--resume"]
        self.steps.run("search", "Searching", ("search", argv))
        folder = self.work / "derived"
        argv = [search, "--out", folder, f"--budget-{asked.unit}", asked.limit]
        argv += ["--num-candidates", max(4, 2 * asked.num_networks), "--rank-on",
                 self.work / "search.py", "--save-weights"]  # fmt: skip
        if asked.kind == "latency":
            argv += ["--latency-table", self.latency_table]
        if asked.device:
            argv += ["--device", asked.device]
        if not self.steps.is_done("derive"):  # it was killed, perhaps
            shutil.rmtree(folder, ignore_errors=True)
        title = "Deriving networks that meet the budget"
        self.steps.run("derive", title, ("derive", argv))
        # The search's own choice, judged once more at its end, then the next ones.
        files = [search / "search" / "genotype.json", *sorted(folder.glob("*.json"))]
        found: dict[tuple[str, ...], Path] = {}
        for file in files:
            found.setdefault(load_genotype(file).blocks, file)
        networks = dict(zip(self.searched, found.values(), strict=False))
        file = self.work / "hand_designed.json"
        indices = hand_designed(self.space, [Budget(table, asked.budget)])
        save_genotype(self.space.genotype(indices), file)
        return {**networks, REFERENCE: file}

    def train(self, name: str, file: Path) -> None:
        config, folder = self.work / f"{name}.py", self.work / name
        shutil.copy(file, self.work / f"{name}.json")
        cfg = load_config(str(self.work / "train.py"))
        cfg.model.backbone.genotype = str(self.work / f"{name}.json")
        cfg.model.cls_head.in_channels = self.space.skeleton.out_channels
        # Of a search from a donor: what the network inherits from the supernet.
        weights = file.with_suffix(".pth")
        cfg.load_from = str(weights) if weights.is_file() else None
        cfg.dump(config)
        argv = [config, "--work-dir", folder, "--resume"]
        self.steps.run(name, f"Training {name}", ("train", argv))
        argv = [config, self._last(name), "--work-dir", folder / "test"]
        argv += ["--dump", folder / "test.pkl"]
        self.steps.run(f"{name}_test", f"Testing {name}", ("test", argv))

    def _last(self, name: str) -> Path:
        epochs = self.train_cfg.train_cfg.max_epochs
        return self.work / name / f"epoch_{epochs}.pth"

    def compare(self, names: list[str], table: CostTable) -> dict[str, Any]:
        rows: dict[str, dict[str, Any]] = {}
        for name in names:
            (run,) = read_work_dirs([self.work / name])
            blocks = load_genotype(self.work / f"{name}.json").blocks
            cost = table.cost(self.space.indices_of_blocks(blocks))
            validation = run.val[-1]["acc/top1"]
            rows[name] = dict(blocks=list(blocks), cost=cost, validation=validation)
        scores = {name: self.work / name / "test.pkl" for name in names}
        facts = dict(classes=self.names, unit=self.asked.unit, budget=self.asked.budget)
        return {**compare(rows, scores), **facts}

    def hand_over(self, result: dict[str, Any]) -> None:
        out, name = self.out, result["chosen"]
        save_genotype(load_genotype(self.work / f"{name}.json"), out / "genotype.json")
        found = torch.load(self._last(name), map_location="cpu", weights_only=True)
        kept = {k: found[k] for k in ("meta", "state_dict", RECORD_KEY)}
        with replacing(out / "checkpoint.pth") as temporary:
            torch.save(kept, temporary)
        cfg = load_config(str(self.work / f"{name}.py"))
        cfg.load_from = None
        cfg.model.backbone.genotype = str(out / "genotype.json")
        for split in SPLITS:
            cfg[f"{split}_dataloader"].dataset.pop("cache", None)
        # The folder may move.
        text = cfg.pretty_text.replace(f"'{out}/", "'{{ fileDirname }}/")
        write_atomically(out / "config.py", text)
        export = [out / "config.py", out / "checkpoint.pth"]
        export += ["--out", out / "model.onnx"]
        runs = [self.work / "search", *(self.work / n for n in result["networks"])]
        title = f"{self.asked.videos.name}, {self.asked.show(self.asked.budget)}"
        report = [*runs, "--out", out / "report.html", "--title", title]
        calls = ("export", export), ("report", report)
        self.steps.run("export", "Exporting, and writing the report", *calls)
        asked = self.asked
        if asked.unit == "ms" and not asked.on_gpu:
            file = out / "model.onnx"
            result["measured_ms"] = measured_ms(file, self.shape, asked.threads)
        write_json(out / "result.json", result, ensure_ascii=False)
        shutil.rmtree(self.cache, ignore_errors=True)
