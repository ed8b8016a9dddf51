"""The console command ``pvnas VERB ...``: each verb calls ``main`` of one of the tools,
which a wheel carries in ``.mim/tools``, as ``mim`` expects."""

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from ..compat import what_is_missing

PACKAGE = Path(__file__).resolve().parent.parent
# Verb: its tool, and what it does.
VERBS = {
    "fit": ("fit", "From a folder of videos and a budget to a network that runs."),
    "predict": ("predict", "Classes of videos."),
    "search": ("train", "Search with a search config."),
    "train": ("train", "Train the network of a config."),
    "test": ("test", "Test a checkpoint on the test set of its config."),
    "derive": ("derive_genotype", "Genotypes under budgets, from a search."),
    "export": ("export_onnx", "A trained network as ONNX."),
    "report": ("report", "An HTML page about searches and trainings."),
    "show": ("show_space", "A search space, or a genotype: layers and costs."),
    "benchmark": ("benchmark", "Speed of networks, next to MMAction2's."),
    "latency": ("build_latency_table", "Milliseconds of every candidate of a space."),
    "clips": ("make_motion_clips", "Render clips to try things with."),
}
INTERRUPTED = "the same command continues from where it was"
TRAIN_INTERRUPTED = "the same command with --resume continues from the last checkpoint"


def call(verb: str, arguments: Sequence[object]) -> None:
    """Call the tool of a verb in this process; its errors are the caller's."""
    argv, name = [*map(str, arguments)], VERBS[verb][0]
    if verb == "show" and argv and argv[0].endswith(".json"):
        name = "show_genotype"
    folders = (PACKAGE / ".mim" / "tools", PACKAGE.parent / "tools")
    file = next(f for d in folders if (f := d / f"{name}.py").is_file())
    spec = importlib.util.spec_from_file_location(f"pvnas_tool_{name}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    before, sys.argv = sys.argv, [f"pvnas {verb}", *argv]
    try:
        module.main()
    finally:
        sys.argv = before


def main() -> None:
    verb, *argv = sys.argv[1:] or ["--help"]
    if verb == "--version":
        print(__version__)
        return
    if verb in ("-h", "--help") or verb not in VERBS:
        lines = [f"  {name:<10} {text}" for name, (_, text) in VERBS.items()]
        print("usage: pvnas VERB ...   (pvnas VERB --help)\n", *lines, sep="\n")
        sys.exit(0 if verb in ("-h", "--help") else f"error: no such verb: {verb}")
    if verb == "predict" and "--onnx" in argv:
        # A process of its own: it needs neither torch nor this package.
        file = str(PACKAGE / "apis" / "onnx_predict.py")
        os.execv(sys.executable, [sys.executable, file, *argv])
    if missing := what_is_missing():
        sys.exit(f"error: {missing}")
    from .cli import run  # which needs all of it

    messages = dict(fit=INTERRUPTED, search=TRAIN_INTERRUPTED, train=TRAIN_INTERRUPTED)
    run(lambda: call(verb, argv), messages.get(verb, ""))
