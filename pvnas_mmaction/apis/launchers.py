# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The group of the processes that a launcher started, also without a GPU."""

from __future__ import annotations

import gc
import os
from datetime import timedelta

import torch
from mmaction.registry import MODEL_WRAPPERS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import distributed as torch_dist
from torch.nn.parallel import DistributedDataParallel

from ..space.checks import wrong

# Where a launcher says RANK, WORLD_SIZE and LOCAL_RANK.
_OMPI = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")
_VARIABLES = dict(
    pytorch=("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    slurm=("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    mpi=_OMPI,
)
LAUNCHERS = ("none", *_VARIABLES)


def start_distributed(cfg: Config) -> None:
    """Start the processes' group where mmengine cannot: on machines without a GPU.

    With a GPU, or with ``launcher='none'``, it does nothing and mmengine does the rest
    (nccl unless ``env_cfg.dist_cfg`` says otherwise).

    Raises:
        ValueError: The launcher's environment variables are not set.
    """
    if cfg.get("launcher", "none") == "none" or torch.cuda.is_available():
        return
    export_ranks(cfg.launcher)
    dist_cfg = (cfg.get("env_cfg") or {}).get("dist_cfg") or {}
    torch_dist.init_process_group(
        "gloo", timeout=timedelta(seconds=dist_cfg.get("timeout", 1800))
    )
    wrapper = cfg.get("model_wrapper_cfg")
    if wrapper is None:
        cfg.model_wrapper_cfg = dict(
            type="MMDistributedDataParallel",
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get("find_unused_parameters", False),
        )
        return
    init_default_scope(cfg.get("default_scope", "mmaction"))
    wrapper_type = MODEL_WRAPPERS.get(wrapper.get("type", "MMDistributedDataParallel"))
    if wrapper_type is not None and issubclass(wrapper_type, DistributedDataParallel):
        wrapper.setdefault("device_ids", None)


def export_ranks(launcher: str) -> None:
    """Give torch the variables of its own launcher in place of another's.

    Raises:
        ValueError: One of the launcher's environment variables, or MASTER_ADDR, is not
            set.
    """
    sources = _VARIABLES[launcher]
    missing = [name for name in (*sources, "MASTER_ADDR") if name not in os.environ]
    if missing:
        raise wrong(
            f"--launcher {launcher}",
            f"environment variables {', '.join(missing)}",
            "none",
            "start with tools/dist_*.sh or tools/slurm_*.sh, or set them",
        )
    for name, source in zip(_VARIABLES["pytorch"], sources, strict=True):
        os.environ[name] = os.environ[source]
    os.environ.setdefault("MASTER_PORT", "29500")


def end_distributed() -> None:
    """End the processes' group and its threads, where there is one.

    Gloo's threads live as long as something refers to the group, as the model's wrapper
    does, which the cycles of references around a runner keep alive. A thread that is
    there when the interpreter ends may abort the process.
    """
    if torch_dist.is_available() and torch_dist.is_initialized():
        torch_dist.destroy_process_group()
        gc.collect()
