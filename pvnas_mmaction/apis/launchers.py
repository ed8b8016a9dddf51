"""The group of the processes that a launcher started, also without a GPU."""

import gc
import os
import subprocess
import threading
import time
from datetime import timedelta
from pathlib import Path

import torch
from mmengine.config import Config
from torch import distributed as torch_dist

LAUNCHERS = ("none", "pytorch", "slurm", "mpi")


def start_distributed(cfg: Config) -> None:
    """Start the processes' group where mmengine cannot: without a GPU."""
    if cfg.get("launcher", "none") == "none" or torch.cuda.is_available():
        return
    if cfg.launcher == "slurm":
        _take_place_of_task()
    dist_cfg = (cfg.get("env_cfg") or {}).get("dist_cfg") or {}
    timeout = timedelta(seconds=dist_cfg.get("timeout", 1800))
    torch_dist.init_process_group("gloo", timeout=timeout)
    if cfg.get("model_wrapper_cfg") is None:
        cfg.model_wrapper_cfg = dict(
            type="MMDistributedDataParallel",
            broadcast_buffers=False,
            find_unused_parameters=cfg.get("find_unused_parameters", False),
        )
    kind = str(cfg.model_wrapper_cfg.get("type", "MMDistributedDataParallel"))
    if kind.endswith("DistributedDataParallel"):
        cfg.model_wrapper_cfg.setdefault("device_ids", None)


def _take_place_of_task() -> None:
    """Put this task of srun where torch looks for it, as mmengine does with a GPU."""
    task = os.environ
    names = dict(RANK="PROCID", WORLD_SIZE="NTASKS", LOCAL_RANK="LOCALID")
    task.update({name: task[f"SLURM_{theirs}"] for name, theirs in names.items()})
    command = ["scontrol", "show", "hostnames", task["SLURM_NODELIST"]]
    hosts = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    task.setdefault("MASTER_ADDR", hosts.split()[0])
    task.setdefault("MASTER_PORT", "29500")


def end_distributed() -> None:
    """End the processes' group, where there is one. Gloo's threads live as long as
    something refers to the group, as the cycles of references around a runner do; a
    thread that is there when the interpreter ends may abort the process."""
    if torch_dist.is_available() and torch_dist.is_initialized():
        _wait_for_threads()
        torch_dist.destroy_process_group()
        gc.collect()


def _wait_for_threads(seconds: float = 10.0) -> None:
    """Wait until all other threads of this process sleep, at most ``seconds``. In torch
    2.6 a group that ends keeps Python's lock while it waits for gloo's threads. One of
    them may need that lock to give back its last tensor: here it gets it."""
    end = time.monotonic() + seconds
    here = str(threading.get_native_id())
    while time.monotonic() < end:
        time.sleep(0.02)
        tasks = Path("/proc/self/task").glob("*/stat")
        if all(_sleeps(task) for task in tasks if task.parent.name != here):
            return


def _sleeps(task: Path) -> bool:
    try:
        return task.read_text().rpartition(")")[2].split()[0] == "S"
    except OSError:  # it has ended
        return True
