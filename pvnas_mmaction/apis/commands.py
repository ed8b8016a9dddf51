# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The console command ``pvnas VERB ...``: each verb is one of the tools.

A wheel carries ``tools/`` in the folder ``.mim`` of the package, as ``mim`` expects; a
checkout has it next to the package. A verb loads that file and calls its ``main``, in
this process.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from ..compat import what_is_missing

PACKAGE = Path(__file__).resolve().parent.parent
# Verb: its tool, what it does, and two ways to call it.
VERBS = {
    "fit": (
        "fit",
        "From a folder of videos and a budget to a network that runs.",
        "VIDEOS --budget-ms 30",
        "VIDEOS --budget-gflops 0.25 --out work_dirs/mine --dry-run",
    ),
    "predict": (
        "predict",
        "Classes of videos, by what fit wrote or by a config and a checkpoint.",
        "work_dirs/mine VIDEO --onnx",
        "CONFIG CHECKPOINT FOLDER --window 2 --out predictions.csv",
    ),
    "search": (
        "train",
        "Search with a search config.",
        "CONFIG --work-dir work_dirs/search --seed 0",
        "CONFIG --work-dir work_dirs/search --resume",
    ),
    "train": (
        "train",
        "Train the network of a config.",
        "CONFIG --cfg-options model.backbone.genotype=GENOTYPE.json",
        "CONFIG --work-dir work_dirs/mine --resume",
    ),
    "test": (
        "test",
        "Test a checkpoint on the test set of its config.",
        "CONFIG CHECKPOINT",
        "CONFIG CHECKPOINT --dump predictions.pkl",
    ),
    "derive": (
        "derive_genotype",
        "Genotypes under budgets, from a search.",
        "work_dirs/search --budget-gflops 0.2 --out derived",
        "work_dirs/search --budget-params 1 --num-candidates 8 --rank-on CONFIG "
        "--out derived",
    ),
    "export": (
        "export_onnx",
        "A trained network as ONNX, checked against PyTorch.",
        "CONFIG CHECKPOINT --out model.onnx",
        "CONFIG none --out model.onnx",
    ),
    "report": (
        "report",
        "An HTML page about searches and trainings.",
        "work_dirs/search",
        "work_dirs/search work_dirs/mine --out report.html",
    ),
    "show": (
        "show_space",
        "A search space, or a genotype: layers and costs.",
        "CONFIG",
        "GENOTYPE.json",
    ),
    "benchmark": (
        "benchmark",
        "Speed and memory of networks next to MMAction2's.",
        "CONFIG",
        "PV-NAS-S TSM-R50 --threads 1",
    ),
    "latency": (
        "build_latency_table",
        "Milliseconds of every candidate of a space on this machine, as a table.",
        "CONFIG --backend onnxruntime --threads 1 --out latency.json",
        "CONFIG --device cuda --out latency.json",
    ),
    "clips": (
        "make_motion_clips",
        "Render clips to try things with.",
        "--out data/motion_clips",
        "--out data/motion_clips --num-train 64 --num-val 16 --size 32",
    ),
}
INTERRUPTED = "the same command goes on from where it was"
TRAIN_INTERRUPTED = "the same command with --resume goes on from the last checkpoint"


def call(verb: str, arguments: Sequence[object]) -> None:
    """Call the tool of a verb as if from the command line, without its own handling of
    errors.

    Args:
        verb: One of :data:`VERBS`.
        arguments: What stands behind it.
    """
    argv = [str(argument) for argument in arguments]
    name = VERBS[verb][0]
    if verb == "show" and any(argument.endswith(".json") for argument in argv[:1]):
        name = "show_genotype"
    folders = (PACKAGE / ".mim" / "tools", PACKAGE.parent / "tools")
    file = next(f for d in folders if (f := d / f"{name}.py").is_file())
    spec = importlib.util.spec_from_file_location(f"pvnas_tool_{name}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    before, sys.argv = sys.argv, [f"pvnas {verb}", *argv]
    try:
        module.main()
    finally:
        sys.argv = before


def main() -> None:
    """The console command."""
    verb, *argv = sys.argv[1:] or ["--help"]
    if verb == "--version":
        print(__version__)
        return
    if verb in ("-h", "--help") or verb not in VERBS:
        lines = [f"  {name:<10} {row[1]}" for name, row in VERBS.items()]
        print("usage: pvnas VERB ...   (pvnas VERB --help)\n", *lines, sep="\n")
        sys.exit(0 if verb in ("-h", "--help") else f"error: no such verb: {verb}")
    if {"-h", "--help"} & {*argv}:
        _, text, *examples = VERBS[verb]
        print(text, *(f"    pvnas {verb} {given}" for given in examples), "", sep="\n")
    if verb == "predict" and "--onnx" in argv:
        # A process of its own: it needs neither torch nor this package.
        file = str(PACKAGE / "apis" / "onnx_predict.py")
        os.execv(sys.executable, [sys.executable, file, *argv])
    if missing := what_is_missing():
        sys.exit(f"error: {missing}")
    from .cli import run  # which needs all of it

    messages = {"fit": INTERRUPTED, "search": TRAIN_INTERRUPTED}
    messages["train"] = TRAIN_INTERRUPTED
    run(lambda: call(verb, argv), messages.get(verb, ""))
