"""tools/dist_*.sh and tools/slurm_*.sh: what they pass on, and what is made of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dist import get_dist_info
from tool_processes import ROOT, TOOLS, free_port

from pvnas_mmaction.apis.launchers import end_distributed, start_distributed

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


@pytest.mark.skipif(torch.cuda.is_available(), reason="MMEngine does it with a GPU")
def test_a_task_of_srun_without_a_gpu(tmp_path, monkeypatch) -> None:
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho localhost; echo "$3"\n')
    (tmp_path / "scontrol").chmod(0o755)
    task = dict(SLURM_PROCID="0", SLURM_NTASKS="1", SLURM_LOCALID="3")
    task |= dict(SLURM_NODELIST="node[1-2]", MASTER_PORT=free_port(), LOCAL_RANK="0")
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    monkeypatch.setattr(os, "environ", {**os.environ, **task, "PATH": path})
    start_distributed(Config(dict(launcher="slurm")))
    try:
        assert get_dist_info() == (0, 1)
    finally:
        end_distributed()
    assert os.environ["MASTER_ADDR"] == "localhost"
    assert os.environ["LOCAL_RANK"] == "3"


LAST_TENSOR = f"""
import sys, time, torch
from torch import distributed
from pvnas_mmaction.apis.launchers import end_distributed
distributed.init_process_group(
    "gloo", init_method="tcp://127.0.0.1:{free_port()}", rank=0, world_size=1)
sys.setswitchinterval(1000)  # no other thread gets Python's lock before this one waits
large = torch.zeros(2**24)
work = distributed.all_gather([torch.zeros(2**24)], large, async_op=True)
del large, work  # gloo's thread, which copies, has the only references now
end = time.monotonic() + 2
while time.monotonic() < end:
    pass
end_distributed()
print("ended")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_end_does_not_wait_for_a_thread_that_waits_for_it() -> None:
    """In torch 2.6 it did where a thread of gloo had yet to give back a tensor."""
    command = [sys.executable, "-c", LAST_TENSOR]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.stdout == "ended\n", done.stderr
