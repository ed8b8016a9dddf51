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
from pathlib import Path

from pvnas_mmaction.cost import network_cost
from pvnas_mmaction.genotype import BlockSpec, Genotype, load_genotype

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs" / "pvnas"
SEARCH = CONFIGS / "pvnas-tiny_search_1xb16-8x1x1-24e_motion-clips.py"
RETRAIN = CONFIGS / "pvnas-tiny_retrain_1xb16-8x1x1-12e_motion-clips.py"
CONTROL = CONFIGS / "genotypes" / "mb_t1_tiny.json"
# Easy enough to be learnt in minutes on a CPU.
CLIPS = ["--size", 32, "--frames", 12, "--speed-range", 0.06, 0.12, "--objects", 2]
CLIPS += ["--clutter", 0, "--noise", 0.01]
# Lines of a log that tell how it goes.
TELLING = re.compile(r"Cycle \d|Epoch\(val\)|Search space|Search done|acc/top1")


def run(name: str, command: list[str], log: Path, **environment: str) -> None:
    """Run a tool, its output to a file and the telling lines to the terminal too.

    ``environment`` adds to the variables of this process.

    Raises:
        SystemExit: The tool failed; the end of its output is shown.
    """
    print(f"\n$ {shlex.join(_short(part) for part in command)}", flush=True)
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
    if process.wait() != 0:
        tail = "".join(log.read_text().splitlines(keepends=True)[-20:])
        sys.exit(f"{name} failed with status {process.returncode}; {log}:\n{tail}")
    print(f"  [{name}] {time.monotonic() - started:.0f} s", flush=True)


def _short(part: str) -> str:
    """A path below the project without its beginning."""
    return part.replace(f"{ROOT}/", "").replace(sys.executable, "python")


def tool(name: str, *arguments: object) -> list[str]:
    """Command line of a tool."""
    return [sys.executable, str(ROOT / "tools" / name), *map(str, arguments)]


def retrain_and_test(
    name: str, genotype: Path, work_dir: Path, data: list[str], seed: int
) -> float:
    """Retrain a genotype and test its last checkpoint; gives top-1 in [0, 1]."""
    options = ["--cfg-options", f"model.backbone.genotype={genotype}", *data]
    train = tool("train.py", RETRAIN, "--work-dir", work_dir, "--seed", seed)
    # Two of these run side by side: one core each.
    one_core = dict(OMP_NUM_THREADS="1")
    run(name, [*train, *options], work_dir / "train.out", **one_core)
    checkpoint = (work_dir / "last_checkpoint").read_text().strip()
    test = tool("test.py", RETRAIN, checkpoint, "--work-dir", work_dir / "test")
    dump = ["--dump", str(work_dir / "predictions.pkl")]
    run(name, [*test, *dump, *options], work_dir / "test.out", **one_core)
    results = sorted((work_dir / "test").glob("*/*.json"))
    return json.loads(results[-1].read_text())["acc/top1"]


def temporal_share(search: Path, genotype: Genotype) -> tuple[float, float]:
    """Share of p on operations that mix frames, at the end of a search, and what a
    uniform p would give. Layers count alike."""
    from pvnas_mmaction.search_space import SearchSpace

    setting = json.loads((search / "space.json").read_text())
    space = SearchSpace.from_config(setting["space"])
    last = json.loads((search / "history.jsonl").read_text().splitlines()[-1])
    share = uniform = 0.0
    for candidates, p in zip(space.candidates, last["p"], strict=True):
        temporal = [BlockSpec.parse(text).is_temporal for text in candidates]
        share += sum(value for value, mixes in zip(p, temporal, strict=True) if mixes)
        uniform += sum(temporal) / len(temporal)
    return share / len(space.layers), uniform / len(space.layers)


def row(name: str, genotype: Genotype, top1: float) -> str:
    """A line of the table."""
    shape, classes = (3, 8, 32, 32), 8
    cost = network_cost(genotype.skeleton, genotype.blocks, shape, classes)
    blocks = " ".join(genotype.blocks)
    return (
        f"| {name} | {blocks} | {cost.macs / 1e9:.4f} | 3x8x32x32 | "
        f"{cost.params / 1e6:.4f} | {top1:.4f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--work-dir", type=Path, default=Path("work_dirs/demo"))
    add("--data", type=Path, default=Path("data/motion_clips"))
    add("--seed", type=int, default=0, help="of the search and the trainings")
    add("--num-train", type=int, default=2048, help="training clips")
    add("--num-val", type=int, default=256, help="validation clips")
    args = parser.parse_args()
    started = time.monotonic()

    work_dir = args.work_dir.resolve()
    data_root = args.data.resolve()
    render = tool("make_motion_clips.py", "--out", data_root, *CLIPS)
    counts = ["--num-train", str(args.num_train), "--num-val", str(args.num_val)]
    run("clips", [*render, *counts], work_dir / "clips.out")
    data = []
    for split, file in (("train", "train"), ("val", "val"), ("test", "val")):
        field = f"{split}_dataloader.dataset"
        data += [f"{field}.ann_file={data_root / file}.txt"]
        data += [f"{field}.data_prefix.video={data_root}"]

    search = work_dir / "search"
    command = tool("train.py", SEARCH, "--work-dir", search, "--seed", args.seed)
    run("search", [*command, "--cfg-options", *data], search / "train.out")
    found = search / "search" / "genotype.json"

    with ThreadPoolExecutor(2) as pool:
        jobs = {
            name: pool.submit(
                retrain_and_test, name, path, work_dir / name, data, args.seed
            )
            for name, path in (("searched", found), ("spatial-only", CONTROL))
        }
        top1 = {name: job.result() for name, job in jobs.items()}

    report = work_dir / "report.html"
    folders = [search, work_dir / "searched", work_dir / "spatial-only"]
    command = tool("report.py", *folders, "--out", report)
    run("report", command, work_dir / "report.out")

    share, uniform = temporal_share(search / "search", load_genotype(found))
    print("\n| network | genotype | GFLOPs | input | M parameters | top-1 |")
    print("| --- | --- | --- | --- | --- | --- |")
    print(row("searched", load_genotype(found), top1["searched"]))
    print(row("spatial-only", load_genotype(CONTROL), top1["spatial-only"]))
    print(
        "\nChance is 0.1250. Of the search's final p, "
        f"{share:.3f} lies on operations that mix frames (uniform p: {uniform:.3f})."
    )
    print(f"Genotype: {found}\nReport:   {report}")
    print(f"Took {(time.monotonic() - started) / 60:.1f} minutes.")


if __name__ == "__main__":
    main()
