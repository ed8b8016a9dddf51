#!/usr/bin/env python
# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""From nothing to a searched, retrained and tested network, on rendered clips.

Runs the project's own tools one after the other, as a user would:

1. make_motion_clips.py  mp4 files of eight motions that no single frame tells apart
2. train.py              search the space `tiny` on them
3. train.py              retrain the genotype found, from scratch; beside it the same
                         skeleton with spatial operations only, by the same recipe
4. test.py               top-1 of both on the validation clips
5. report.py             a page about the search

and ends with a table. Every command is printed; all output goes to files in --work-dir.

With --ann-file-train and its companions, the same on videos of your own, by the configs
for them; --space compact, or --size and the epochs, make it short enough for a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.genotype import Genotype, load_genotype
from pvnas_mmaction.space.layout import BlockSpec
from pvnas_mmaction.space.search_space import SearchSpace

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs" / "pvnas"
SEARCH = CONFIGS / "pvnas-tiny_search_1xb8-6x1x1-4e_motion-clips.py"
RETRAIN = CONFIGS / "pvnas-tiny_retrain_1xb8-6x1x1-2e_motion-clips.py"
# For videos of one's own: space -> configs of search and retraining.
OWN = dict(
    tiny=(
        CONFIGS / "pvnas-tiny_search_1xb16-u8-30e_custom-rgb.py",
        CONFIGS / "pvnas-tiny_retrain_1xb16-u8-60e_custom-rgb.py",
    ),
    compact=(
        CONFIGS / "pvnas-compact_search_1xb16-u8-40e_custom-rgb.py",
        CONFIGS / "pvnas-compact_retrain_1xb16-u8-60e_custom-rgb.py",
    ),
)
# Easy enough to be learnt in minutes on a CPU.
CLIPS = ["--size", 32, "--frames", 12, "--objects", 4, "--radius-range", 0.12, 0.4]
CLIPS += ["--speed-range", 0.06, 0.07, "--turn-speed", 2]
CLIPS += ["--clutter", 0, "--noise", 0.06, "--min-contrast", 0.5]
# Lines of a log that tell how it goes.
TELLING = re.compile(r"Cycle \d|Epoch\(val\)|Search space|Search done|acc/top1")


def run(name: str, command: list[str], log: Path, **environment: str) -> None:
    """Run a tool, its output to a file and the telling lines to the terminal too.

    ``environment`` adds to the variables of this process.

    Raises:
        SystemExit: The tool failed; what it says is wrong, or the end of its output, is
            shown.
    """
    variables = [f"{key}={shlex.quote(value)}" for key, value in environment.items()]
    line = shlex.join(_short(part) for part in command)
    print(" ".join(["\n$", *variables, line]), flush=True)
    started = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as stream:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
        )
        assert process.stdout is not None
        for line in process.stdout:
            stream.write(line)
            if TELLING.search(line):
                message = line.rstrip().split(" - INFO - ")[-1]
                print(f"  [{name}] {message}", flush=True)
    if status := process.wait():
        lines = log.read_text().splitlines()
        said = [line for line in lines if line.startswith("error: ")]
        telling = said[-1:] or lines[-20:]
        print(f"{name} failed; {log}:", *telling, sep="\n", file=sys.stderr)
        sys.exit(status)
    print(f"  [{name}] {time.monotonic() - started:.0f} s", flush=True)


def _short(part: str) -> str:
    """A path below the project without its beginning."""
    return part.replace(sys.executable, "python").replace(f"{ROOT}/", "")


def tool(name: str, *arguments: object) -> list[str]:
    """Command line of a tool."""
    return [sys.executable, str(ROOT / "tools" / name), *map(str, arguments)]


@dataclass(frozen=True)
class Setting:
    """What is searched on.

    Args:
        space: Name of the space.
        search: Config of the search.
        retrain: Config of the retraining.
        options: --cfg-options of both and of the test.
        search_options: Further ones of the search.
        retrain_options: Further ones of the retraining.
        frames: Frames of a view.
        size: Height and width of the frames in pixels.
        num_classes: Number of classes.
        environment: Variables of all these commands, those that configs read among
            them.
    """

    space: str
    search: Path
    retrain: Path
    options: list[str]
    search_options: list[str]
    retrain_options: list[str]
    frames: int
    size: int
    num_classes: int
    environment: dict[str, str]

    @property
    def control(self) -> Path:
        """Genotype of the same skeleton with spatial operations only."""
        return CONFIGS / "genotypes" / f"mb_t1_{self.space}.json"


def motion_clips(data_root: Path) -> Setting:
    """The clips that this script renders."""
    options = []
    for split, file in (("train", "train"), ("val", "val"), ("test", "val")):
        field = f"{split}_dataloader.dataset"
        options += [f"{field}.ann_file={data_root / file}.txt"]
        options += [f"{field}.data_prefix.video={data_root}"]
    # To be quick: networks are ranked on 256 clips, and clips are decoded beside it.
    search = ["val_dataloader.dataset.indices=256", "train_dataloader.num_workers=1"]
    search += ["train_dataloader.persistent_workers=True"]
    # Networks this small are faster with one thread than with two, and find the same
    # however many cores there are: the order of sums is the same.
    environment = dict(OMP_NUM_THREADS="1")
    return Setting("tiny", SEARCH, RETRAIN, options, search, [], 6, 20, 8, environment)


def own_videos(args: argparse.Namespace) -> Setting:
    """Videos of the user, by the configs for them."""
    search, retrain = OWN[args.space]
    searched = read(search).train_cfg
    retrained = read(retrain)
    frames, size = searched.input_shape[1], args.size or searched.input_shape[2]
    options = []
    for split in ("train", "val", "test"):
        field = f"{split}_dataloader.dataset.pipeline"
        options += [f"{field}.3.scale=(-1,{size * 8 // 7})"]
        crop = f"5.scale=({size},{size})" if split == "train" else f"4.crop_size={size}"
        options += [f"{field}.{crop}"]
    epochs = args.search_epochs or searched.max_epochs
    search_options = [f"train_cfg.input_shape=(3,{frames},{size},{size})"]
    search_options += [f"train_cfg.max_epochs={epochs}"]
    if args.search_epochs:
        search_options += ["train_cfg.min_steps=0"]
    end = args.retrain_epochs or retrained.train_cfg.max_epochs
    # As large a share of the epochs as in the config, and one epoch at least.
    warmup, _ = (scheduler.end for scheduler in retrained.param_scheduler)
    warmup = max(1, end * warmup // retrained.train_cfg.max_epochs)
    retrain_options = [f"train_cfg.max_epochs={end}", f"param_scheduler.0.end={warmup}"]
    retrain_options += [f"param_scheduler.1.begin={warmup}"]
    retrain_options += [f"param_scheduler.1.end={end}"]
    environment = dict(
        ANN_FILE_TRAIN=str(args.ann_file_train.resolve()),
        ANN_FILE_VAL=str(args.ann_file_val.resolve()),
        DATA_PREFIX=str(args.data_prefix.resolve()),
        NUM_CLASSES=str(args.num_classes),
    )
    return Setting(
        args.space,
        search,
        retrain,
        options,
        search_options,
        retrain_options,
        frames,
        size,
        args.num_classes,
        environment,
    )


def read(config: Path) -> Config:
    """What a config says; nothing that it names is imported."""
    return Config.fromfile(config, import_custom_modules=False)


def retrain_and_test(
    name: str, genotype: Path, work_dir: Path, setting: Setting, seed: int
) -> float:
    """Retrain a genotype and test its last checkpoint; gives top-1 in [0, 1]."""
    options = ["--cfg-options", f"model.backbone.genotype={genotype}"]
    options += [*setting.options, *setting.retrain_options]
    # Two of these run side by side: one core each.
    environment = {**setting.environment, "OMP_NUM_THREADS": "1"}
    train = tool("train.py", setting.retrain, "--work-dir", work_dir, "--seed", seed)
    run(name, [*train, *options], work_dir / "train.out", **environment)
    checkpoint = (work_dir / "last_checkpoint").read_text().strip()
    test = tool("test.py", setting.retrain, checkpoint, "--work-dir", work_dir / "test")
    dump = ["--dump", str(work_dir / "predictions.pkl")]
    run(name, [*test, *dump, *options], work_dir / "test.out", **environment)
    results = sorted((work_dir / "test").glob("*/*.json"))
    return json.loads(results[-1].read_text())["acc/top1"]


def temporal_share(search: Path) -> tuple[float, float]:
    """Share of p on operations that mix frames, at the end of a search, and what a
    uniform p would give. Layers count alike."""
    setting = json.loads((search / "space.json").read_text())
    space = SearchSpace.from_config(setting["space"])
    last = json.loads((search / "history.jsonl").read_text().splitlines()[-1])
    share = uniform = 0.0
    for candidates, p in zip(space.candidates, last["p"], strict=True):
        temporal = [BlockSpec.parse(text).is_temporal for text in candidates]
        share += sum(value for value, mixes in zip(p, temporal, strict=True) if mixes)
        uniform += sum(temporal) / len(temporal)
    return share / len(space.layers), uniform / len(space.layers)


def row(name: str, genotype: Genotype, top1: float, setting: Setting) -> str:
    """A line of the table."""
    shape = (3, setting.frames, setting.size, setting.size)
    cost = network_cost(genotype.skeleton, genotype.blocks, shape, setting.num_classes)
    return (
        f"| {name} | {' '.join(genotype.blocks)} | {cost.macs / 1e9:.4f} | "
        f"{'x'.join(map(str, shape))} | {cost.params / 1e6:.4f} | {top1:.4f} |"
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--work-dir", type=Path, default=Path("work_dirs/demo"))
    add("--data", type=Path, default=Path("data/motion_clips"))
    add("--seed", type=int, default=0, help="of the search and the trainings")
    add("--num-train", type=int, default=4096, help="training clips")
    add("--num-val", type=int, default=1024, help="validation clips")
    own = parser.add_argument_group("your own videos")
    add = own.add_argument
    add("--ann-file-train", type=Path, help="list with one 'path class_id' per line")
    add("--ann-file-val", type=Path)
    add("--data-prefix", type=Path, help="folder that the paths start from")
    add("--num-classes", type=int)
    add(
        "--space",
        choices=list(OWN),
        default="tiny",
        help="what is searched; compact is for some hundred clips and a CPU; default: "
        "tiny",
    )
    add("--size", type=int, help="of the frames in pixels; default: the config's")
    add("--search-epochs", type=int, help="default: the config's")
    add("--retrain-epochs", type=int, help="default: the config's")
    args = parser.parse_args()
    needed = (args.ann_file_train, args.ann_file_val, args.data_prefix)
    given = [value is not None for value in (*needed, args.num_classes)]
    if any(given) and not all(given):
        parser.error(
            "found some of --ann-file-train, --ann-file-val, --data-prefix and "
            "--num-classes, expected all four or none"
        )
    if args.space != "tiny" and not all(given):
        parser.error(
            f"--space: found {args.space!r}, expected 'tiny' where the clips are "
            "rendered; name videos of your own, or leave it out"
        )
    # The learning rate of a retraining rises in the first epoch.
    for name, least in (("size", 1), ("search_epochs", 1), ("retrain_epochs", 2)):
        value = getattr(args, name)
        if value is not None and value < least:
            option = name.replace("_", "-")
            parser.error(f"--{option}: found {value}, expected {least} or more")
    return args


def main() -> None:
    args = parse_args()
    started = time.monotonic()
    work_dir = args.work_dir.resolve()
    if args.ann_file_train is None:
        data_root = args.data.resolve()
        render = tool("make_motion_clips.py", "--out", data_root, *CLIPS)
        counts = ["--num-train", str(args.num_train), "--num-val", str(args.num_val)]
        run("clips", [*render, *counts], work_dir / "clips.out")
        setting = motion_clips(data_root)
    else:
        setting = own_videos(args)

    search = work_dir / "search"
    command = tool(
        "train.py", setting.search, "--work-dir", search, "--seed", args.seed
    )
    options = ["--cfg-options", *setting.options, *setting.search_options]
    run("search", [*command, *options], search / "train.out", **setting.environment)
    found = search / "search" / "genotype.json"

    with ThreadPoolExecutor(2) as pool:
        jobs = {
            name: pool.submit(
                retrain_and_test, name, path, work_dir / name, setting, args.seed
            )
            for name, path in (("searched", found), ("spatial-only", setting.control))
        }
        top1 = {name: job.result() for name, job in jobs.items()}

    report = work_dir / "report.html"
    folders = [search, work_dir / "searched", work_dir / "spatial-only"]
    command = tool("report.py", *folders, "--out", report)
    run("report", command, work_dir / "report.out")

    share, uniform = temporal_share(search / "search")
    print("\n| network | genotype | GFLOPs | input | M parameters | top-1 |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, path in (("searched", found), ("spatial-only", setting.control)):
        print(row(name, load_genotype(path), top1[name], setting))
    print(
        f"\nChance is {1 / setting.num_classes:.4f}. Of the search's final p, "
        f"{share:.3f} lies on operations that mix frames (uniform p: {uniform:.3f})."
    )
    print(f"Genotype: {found}\nReport:   {report}")
    print(f"Took {(time.monotonic() - started) / 60:.1f} minutes.")


if __name__ == "__main__":
    main()
