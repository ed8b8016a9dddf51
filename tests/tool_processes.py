# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The tools under test: where they are, and how to load and to start one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import mmaction

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "tools"
UPSTREAM_TOOLS = Path(mmaction.__file__).parent / ".mim" / "tools"
SEARCH, RETRAIN = (
    next((ROOT / "configs/pvnas").glob(f"pvnas-tiny_{kind}_*_motion-clips.py")).name
    for kind in ("search", "retrain")
)


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tool_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def run_process(
    *command: str, ok: bool = True, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=400,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHON": sys.executable, "PYTHONWARNINGS": "ignore"},
    )
    assert (done.returncode == 0) == ok, done.stdout[-5000:] + done.stderr[-5000:]
    return done
