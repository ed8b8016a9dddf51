# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Judge derived networks with inherited weights, outside of a search."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmaction.registry import MODELS
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from torch import Tensor, nn

from ..engine.checkpoints import SearchCheckpoint
from ..engine.search_data import ALPHA_SHARE, CALIBRATION_BATCHES, METRIC, SearchData
from ..engine.validation import Validation
from ..search.randomness import seeded
from ..search.steps import judge
from ..space.checks import wrong
from .run_checks import load_weights


class InheritedNetworks:
    """Derived networks of one search, on the data of one config.

    With the config of the search itself, batch normalisation is re-estimated on the
    same clips as in the search, and the accuracy is that which the search would give.

    Args:
        checkpoint: The search.
        cfg: A config with ``model``, ``train_dataloader``, ``val_dataloader`` and
            ``val_evaluator``; the backbone of its model is replaced. ``alpha_share``,
            ``calibration_batches`` and ``metric`` are taken from its ``train_cfg``.
        device: Where the networks run. Default ``"cpu"``.

    Raises:
        ValueError: Something is missing in the config, its model does not fit the
            weights, or its clips are not like those of the search.
    """

    def __init__(
        self,
        checkpoint: SearchCheckpoint,
        cfg: Mapping[str, Any],
        device: str | torch.device = "cpu",
    ) -> None:
        for key in ("model", "train_dataloader", "val_dataloader", "val_evaluator"):
            if cfg.get(key) is None:
                raise wrong(key, "one, to validate derived networks", "none")
        train_cfg = cfg.get("train_cfg") or {}
        self.num_batches = train_cfg.get("calibration_batches", CALIBRATION_BATCHES)
        self.checkpoint, self.device = checkpoint, device
        self.model_cfg = copy.deepcopy(dict(cfg["model"]))
        alpha_share = train_cfg.get("alpha_share", ALPHA_SHARE)
        self.data = SearchData(cfg["train_dataloader"], alpha_share)
        self.data.set_up(Runner, checkpoint.seed)
        val = copy.deepcopy(cfg["val_dataloader"])
        loader = Runner.build_dataloader(val, seed=checkpoint.seed)
        for split, dataset in (("train", self.data.dataset), ("val", loader.dataset)):
            with seeded(0):
                shape = tuple(dataset[0]["inputs"].shape[1:])
            if shape != checkpoint.input_shape:
                field = f"{split}_dataloader.dataset.pipeline"
                expected = f"clips {checkpoint.input_shape}, as in {checkpoint.path}"
                raise wrong(field, expected, str(shape))
        evaluator = Evaluator(copy.deepcopy(cfg["val_evaluator"]))
        evaluator.dataset_meta = getattr(loader.dataset, "metainfo", None)
        metric = train_cfg.get("metric", METRIC)
        self.validation = Validation(loader, evaluator, metric)

    def build(self, indices: Sequence[int]) -> nn.Module:
        """The recognizer around one network, with the weights it inherits."""
        genotype = json.loads(self.checkpoint.space.genotype(indices).to_json())
        backbone = dict(type="PVNASNet", genotype=genotype)
        model = MODELS.build(dict(self.model_cfg, backbone=backbone))
        state = self.checkpoint.inherited(indices)
        load_weights(model, state, str(self.checkpoint.path))
        return model.to(self.device)

    def evaluate(self, indices: Sequence[int]) -> tuple[float, dict[str, Tensor]]:
        """Validation accuracy of one network, and its weights with the re-estimated
        statistics of batch normalisation, on the CPU."""
        state: dict[str, Tensor] = {}

        def validate(model: nn.Module) -> float:
            # A copy: the running statistics are put back in place afterwards.
            state.update(copy.deepcopy(model.state_dict()))
            return self.validation(model)

        def calibration():
            return self.data.calibration(self.num_batches)

        model = self.build(indices)
        accuracy = judge(model, calibration, validate, self.checkpoint.seed)
        return accuracy, {key: value.cpu() for key, value in state.items()}
