# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Judge derived networks with inherited weights, outside of a search.

Each network is built alone, takes its weights from the supernet, and has the running
statistics of its batch normalisation reset and re-estimated on training clips before
it is validated: the supernet's statistics mix all networks that were sampled.
"""

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

from ..engine.search_checkpoint import SearchCheckpoint
from ..engine.search_data import ALPHA_SHARE, CALIBRATION_BATCHES, METRIC, SearchData
from ..search.randomness import Stream, derived_seed
from ..search.steps import reestimated_batch_norm
from ..space.checks import check_count

SEARCH_DEFAULTS = dict(
    alpha_share=ALPHA_SHARE, calibration_batches=CALIBRATION_BATCHES, metric=METRIC
)


class InheritedNetworks:
    """Derived networks of one search, on the data of one config.

    With the config of the search itself, batch normalisation is re-estimated on the
    same clips as in the search, and the accuracy is that which the search would give.

    Args:
        checkpoint: The search.
        cfg: A config with ``model``, ``train_dataloader``, ``val_dataloader`` and
            ``val_evaluator``; the backbone of its model is replaced. Where its
            ``train_cfg`` is that of a search, ``alpha_share``, ``calibration_batches``
            and ``metric`` are taken from it.
        device: Where the networks run. Default ``"cpu"``.

    Raises:
        ValueError: Something is missing in the config, or its model does not fit the
            weights.
    """

    def __init__(
        self,
        checkpoint: SearchCheckpoint,
        cfg: Mapping[str, Any],
        device: str | torch.device = "cpu",
    ) -> None:
        for key in ("model", "train_dataloader", "val_dataloader", "val_evaluator"):
            if cfg.get(key) is None:
                raise ValueError(
                    f"{key}: found none, expected one to validate derived networks"
                )
        train_cfg = cfg.get("train_cfg") or {}
        self.settings = {
            key: train_cfg.get(key, default) for key, default in SEARCH_DEFAULTS.items()
        }
        check_count("calibration_batches", self.settings["calibration_batches"], 1)
        self.checkpoint = checkpoint
        self.model_cfg = copy.deepcopy(dict(cfg["model"]))
        self.device = device
        self.data = SearchData(cfg["train_dataloader"], self.settings["alpha_share"])
        self.data.set_up(Runner, checkpoint.seed)
        self.val_loader = Runner.build_dataloader(
            copy.deepcopy(cfg["val_dataloader"]), seed=checkpoint.seed
        )
        self.evaluator = Evaluator(copy.deepcopy(cfg["val_evaluator"]))
        self.evaluator.dataset_meta = getattr(self.val_loader.dataset, "metainfo", None)

    def build(self, indices: Sequence[int]) -> nn.Module:
        """The recognizer around one network, with the weights it inherits."""
        genotype = json.loads(self.checkpoint.space.genotype(indices).to_json())
        backbone = dict(type="PVNASNet", genotype=genotype)
        model = MODELS.build(dict(self.model_cfg, backbone=backbone))
        try:
            model.load_state_dict(self.checkpoint.inherited(indices))
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"model: expected one that the weights of {self.checkpoint.path} fit, "
                f"found: {reason}"
            ) from error
        return model.to(self.device)

    def evaluate(self, indices: Sequence[int]) -> tuple[float, dict[str, Tensor]]:
        """Validation accuracy of one network, and its weights with the re-estimated
        statistics of batch normalisation, on the CPU."""
        model = self.build(indices)
        batches = self.data.calibration(self.settings["calibration_batches"])
        seed = derived_seed(self.data.seed, Stream.CALIBRATION)
        with reestimated_batch_norm(model, batches, seed):
            metrics = self._validate(model)
            state = {key: value.cpu() for key, value in model.state_dict().items()}
            # The running statistics are put back in place afterwards.
            state = copy.deepcopy(state)
        metric = self.settings["metric"]
        if metric not in metrics:
            raise ValueError(
                f"metric: found {metric!r}, expected one of {sorted(metrics)}"
            )
        return float(metrics[metric]), state

    @torch.no_grad()
    def _validate(self, model: nn.Module) -> dict[str, float]:
        model.eval()
        for batch in self.val_loader:
            samples = model.val_step(batch)
            self.evaluator.process(data_samples=samples, data_batch=batch)
        return self.evaluator.evaluate(len(self.val_loader.dataset))
