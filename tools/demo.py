#!/usr/bin/env python
# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""From nothing to a searched, retrained and tested network, on rendered clips.

Runs the project's own tools one after the other, as a user would: renders clips of
eight motions that no single frame tells apart, searches the space `tiny` on them,
retrains what it finds and the same skeleton with spatial operations only, tests both,
and ends with a table and a report. Every command is printed; its output goes to a file.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pvnas_mmaction.apis import cli
from pvnas_mmaction.space.genotype import load_genotype

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs" / "pvnas"
SEARCH = CONFIGS / "pvnas-tiny_search_1xb8-6x1x1-4e_motion-clips.py"
RETRAIN = CONFIGS / "pvnas-tiny_retrain_1xb8-6x1x1-2e_motion-clips.py"
# Easy enough to be learnt in minutes on a CPU.
CLIPS = "--size 32 --frames 12 --objects 4 --radius-range 0.12 0.4 --speed-range 0.06 "
CLIPS += "0.07 --turn-speed 2 --clutter 0 --noise 0.06 --min-contrast 0.5"
# Networks are ranked on 256 clips, and clips are decoded in a process of their own.
QUICK = "val_dataloader.dataset.indices=256 train_dataloader.num_workers=1 "
QUICK += "train_dataloader.persistent_workers=True"
# Lines of a log that tell how it goes.
TELLING = re.compile(r"Cycle \d|Epoch\(val\)|Search space|Search done|acc/top1")


def run(log: Path, tool: str, *arguments: object) -> None:
    """Run a tool, its output to a file and the telling lines to the terminal too.

    Raises:
        ValueError: The tool failed; names the file, and what the tool says is wrong.
    """
    command = ["python", f"tools/{tool}", *map(str, arguments)]
    print(f"\n$ {shlex.join(command)}", flush=True)
    command[:2] = [sys.executable, str(ROOT / "tools" / tool)]
    log.parent.mkdir(parents=True, exist_ok=True)
    # Networks this small are faster with one thread, and two run at once.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (
        log.open("w") as file,
        subprocess.Popen(
            command, stdout=-1, stderr=subprocess.STDOUT, text=True, env=environment
        ) as process,
    ):
        for line in process.stdout:
            file.write(line)
            if TELLING.search(line):
                message = line.rstrip().split(" - INFO - ")[-1]
                print(f"  [{log.stem}] {message}", flush=True)
    if process.returncode:
        lines = log.read_text().splitlines()
        said = [line for line in lines if line.startswith("error: ")] or lines
        raise ValueError(f"{tool}: {said[-1]} ({log})")


def retrain_and_test(name: str, genotype: Path, folder: Path, options: list) -> float:
    """Retrain a genotype and test its last checkpoint; gives top-1 in [0, 1]."""
    work_dir, tested = folder / name, folder / f"{name}_test"
    options = ["--cfg-options", f"model.backbone.genotype={genotype}", *options]
    train = [RETRAIN, "--work-dir", work_dir, "--seed", 0, *options]
    run(folder / f"{name}.log", "train.py", *train)
    test = [RETRAIN, work_dir / "epoch_2.pth", "--work-dir", tested]
    test += ["--dump", work_dir / "predictions.pkl", *options]
    run(folder / f"{name}_test.log", "test.py", *test)
    (results,) = tested.glob("*/*.json")
    return json.loads(results.read_text())["acc/top1"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--work-dir", type=Path, default=Path("work_dirs/demo"))
    add("--data", type=Path, default=Path("data/motion_clips"))
    add("--num-train", type=int, default=4096, help="training clips")
    add("--num-val", type=int, default=1024, help="validation clips")
    args = parser.parse_args()
    folder, data = args.work_dir.resolve(), args.data.resolve()
    cli.check_out_file(folder / "report.html", "--work-dir")
    if (folder / "search").exists():
        raise ValueError(
            f"--work-dir: expected a folder without results, got {folder}; remove "
            "it or name another one"
        )
    counts = ["--num-train", args.num_train, "--num-val", args.num_val]
    run(folder / "clips.log", "make_motion_clips.py", "--out", data, *CLIPS.split(),
        *counts)  # fmt: skip
    options = []
    for split, name in (("train", "train"), ("val", "val"), ("test", "val")):
        field = f"{split}_dataloader.dataset"
        options += [f"{field}.ann_file={data / name}.txt"]
        options += [f"{field}.data_prefix.video={data}"]
    search = [SEARCH, "--work-dir", folder / "search", "--seed", 0, "--cfg-options"]
    run(folder / "search.log", "train.py", *search, *options, *QUICK.split())
    genotypes = {
        "searched": folder / "search" / "search" / "genotype.json",
        "spatial-only": CONFIGS / "genotypes" / "mb_t1_tiny.json",
    }
    with ThreadPoolExecutor(2) as pool:
        jobs = {
            name: pool.submit(retrain_and_test, name, path, folder, options)
            for name, path in genotypes.items()
        }
        top1 = {name: job.result() for name, job in jobs.items()}
    folders = [folder / name for name in ("search", *genotypes)]
    run(folder / "report.log", "report.py", *folders, "--out", folder / "report.html")
    print("\n| network | genotype | GFLOPs | M parameters | top-1 |")
    print("| --- | --- | --- | --- | --- |")
    for name, path in genotypes.items():
        found = load_genotype(path)
        macs, params = (found.provenance[key] for key in ("macs", "params"))
        cells = [name, " ".join(found.blocks), f"{macs / 1e9:.4f}"]
        cells += [f"{params / 1e6:.4f}", f"{top1[name]:.4f}"]
        print(f"| {' | '.join(cells)} |")
    print(f"\nChance is {1 / 8:.4f}. Genotype: {genotypes['searched']}")
    print(f"Report: {folder / 'report.html'}")


if __name__ == "__main__":
    cli.run(main)
