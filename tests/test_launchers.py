# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""tools/dist_*.sh and tools/slurm_*.sh: what they pass on, and what is made of it."""

import os
import subprocess
from pathlib import Path

import pytest
from tool_processes import ROOT, TOOLS

ECHO = '#!/bin/sh\nfor a in "$@"; do echo "[$a]"; done\necho "PYTHONPATH=$PYTHONPATH"\n'
OPTIONS = ["--cfg-options", "model.name=two words", "a=[1, 2]"]
DIST = dict(NNODES="2", NODE_RANK="1", PORT="12345", MASTER_ADDR="10.0.0.1")
TORCHRUN = """--nnodes=2 --node_rank=1
    --master_addr=10.0.0.1 --master_port=12345 --nproc_per_node=3"""
SLURM = dict(GPUS="4", GPUS_PER_NODE="2", SRUN_ARGS="--exclusive --mem=1G")
SRUN = """--gres=gpu:2 --ntasks=4 --ntasks-per-node=2 --cpus-per-task=5
    --kill-on-bad-exit=1 --exclusive --mem=1G"""


def echoed(script: str, args: list[str], tmp_path: Path, **env: str) -> list[str]:
    """Arguments that a launcher passes on to the program that it starts."""
    for name in ("echo_python", "srun"):
        (tmp_path / name).write_text(ECHO)
        (tmp_path / name).chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    python = str(tmp_path / "echo_python")
    done = subprocess.run(
        [str(TOOLS / script), *args],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": path, "PYTHON": python, **env},
    )
    *lines, pythonpath = done.stdout.splitlines()
    first = pythonpath.removeprefix("PYTHONPATH=").split(os.pathsep)[0]
    assert Path(first).resolve() == ROOT
    return [line[1:-1] for line in lines]


@pytest.mark.parametrize("tool", ["train", "test"])
@pytest.mark.parametrize("launcher", ["dist", "slurm"])
def test_script_passes_every_argument_whole(launcher, tool, tmp_path) -> None:
    files = ["my config.py"] + ["my checkpoint.pth"] * (tool == "test")
    script = str(TOOLS / f"{tool}.py")
    if launcher == "dist":
        args = echoed(f"dist_{tool}.sh", [*files, "3", *OPTIONS], tmp_path, **DIST)
        started = [str(TOOLS / "dist_run.py"), *TORCHRUN.split(), script, *files]
        assert args == [*started, "--launcher", "pytorch", *OPTIONS]
    else:
        argv = ["part", "my job", *files, *OPTIONS]
        args = echoed(f"slurm_{tool}.sh", argv, tmp_path, **SLURM)
        started = [str(tmp_path / "echo_python"), "-u", script, *files]
        asked = ["-p", "part", "--job-name=my job", *SRUN.split()]
        assert args == [*asked, *started, "--launcher", "slurm", *OPTIONS]
