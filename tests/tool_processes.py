"""The tools under test: where they are, and how to load, call and start one."""

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import mmaction
import pytest

from pvnas_mmaction.apis import cli

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "tools"
CONFIGS = ROOT / "configs" / "pvnas"
UPSTREAM_TOOLS = Path(mmaction.__file__).parent / ".mim" / "tools"
SEARCH, RETRAIN = (
    next(CONFIGS.glob(f"pvnas-tiny_{kind}_*_motion-clips.py")).name
    for kind in ("search", "retrain")
)


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tool_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def run_main(tool: str, *argv: object) -> int:
    """Exit status of a tool that runs in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{tool}.py", *map(str, argv)])
        patch.setenv("LOCAL_RANK", "0")
        try:
            cli.run(load_tool(tool).main)
        except SystemExit as stop:
            return stop.code
    return 0


def data_options(clips: Path, **lists: Path) -> list[str]:
    """``--cfg-options`` that read rendered clips in this process, in small batches."""
    options = []
    for split, name in (("train", "train"), ("val", "val"), ("test", "val")):
        loader = f"{split}_dataloader"
        options += [f"{loader}.dataset.ann_file={lists.get(split, clips / name)}.txt"]
        options += [f"{loader}.dataset.data_prefix.video={clips}"]
        options += [f"{loader}.num_workers=0", f"{loader}.persistent_workers=False"]
    return options


def free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def run_process(
    *command: object, ok: bool = True, cwd: Path | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    more = dict(PYTHON=sys.executable, PYTHONWARNINGS="ignore") | environ
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=400,
        cwd=cwd, stdin=subprocess.DEVNULL, env={**os.environ, **more},
    )  # fmt: skip
    assert (done.returncode == 0) == ok, done.stdout[-5000:] + done.stderr[-5000:]
    return done
