# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Whether a config's model fits: itself, and the checkpoint that is resumed."""

from __future__ import annotations

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from ..engine.optim import unwrap
from ..models.pvnas_net import PVNASNet
from ..models.supernet import PVNASSupernet


class ResumeCheckHook(Hook):
    """Refuses to resume where a parameter of the checkpoint has another shape.

    MMEngine warns, leaves such a parameter at its random values and gives its optimizer
    the moments of the other one. A step with those ends in an error of PyTorch, or in
    memory that is overwritten.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare shapes before anything is copied.

        Raises:
            ValueError: Two differ; names the first.
        """
        state = unwrap(runner.model).state_dict()
        for key, value in checkpoint.get("state_dict", {}).items():
            name = key.removeprefix("module.")
            if name not in state or state[name].shape == value.shape:
                continue
            raise ValueError(
                f"--resume: found {name} of shape {tuple(value.shape)} in the "
                f"checkpoint, expected {tuple(state[name].shape)}. Resume with the "
                "config that it was written with, or start anew from its weights: "
                "--cfg-options load_from=CHECKPOINT"
            )


def check_model(cfg: Config) -> None:
    """Check that a config has a model at all.

    Raises:
        ValueError: If it has none.
    """
    if cfg.get("model") is None:
        raise ValueError(
            f"config {cfg.filename}: found no model, expected a whole config, not one "
            "that others inherit"
        )


def check_whole(cfg: Config, split: str) -> None:
    """Check that a config has a model and the loader that is going to be used.

    Args:
        cfg: The config.
        split: "train" or "test".

    Raises:
        ValueError: If one is missing.
    """
    check_model(cfg)
    if (cfg.get(f"{split}_dataloader") or {}).get("dataset") is None:
        raise ValueError(
            f"config {cfg.filename}: found no {split}_dataloader with a dataset, "
            "expected one: inherit a whole config, not a part alone"
        )


def check_one_network(cfg: Config) -> None:
    """Check that a config is about one network, not about a space of them.

    Raises:
        ValueError: Its backbone is a supernet.
    """
    if cfg.model.get("backbone", {}).get("type") == "PVNASSupernet":
        raise ValueError(
            "model.backbone.type: found 'PVNASSupernet', expected one network: take "
            "the config that retrains the genotype"
        )


def warn_of_supernet(runner: Runner) -> None:
    """Say what the accuracy of a search's checkpoint is the accuracy of."""
    if isinstance(getattr(unwrap(runner.model), "backbone", None), PVNASSupernet):
        runner.logger.warning(
            "The supernet is tested as its most probable network, with the batch "
            "normalisation of all networks that were sampled. "
            "tools/derive_genotype.py --rank-on judges networks as the search does"
        )


def check_head(model: nn.Module) -> None:
    """Check that a head takes as many channels as the network before it gives.

    Raises:
        ValueError: It takes another number.
    """
    model = unwrap(model)
    if getattr(model, "neck", None) is not None:
        return  # what the head takes is the neck's
    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, PVNASNet):
        skeleton, last = backbone.genotype.skeleton, backbone.out_indices[-1]
        if len(backbone.out_indices) > 1 or last < len(skeleton.stages):
            return  # a neck or a head of another kind takes the stages' outputs
    elif isinstance(backbone, PVNASSupernet):
        skeleton = backbone.space.skeleton
    else:
        return
    found = getattr(model.cls_head, "in_channels", skeleton.out_channels)
    if found != skeleton.out_channels:
        raise ValueError(
            f"model.cls_head.in_channels: found {found}, expected "
            f"{skeleton.out_channels}, the output width of the backbone"
        )
