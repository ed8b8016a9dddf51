"""Judge derived networks with inherited weights, outside of a search."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmaction.registry import MODELS
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from torch import Tensor, nn

from ..engine.checkpoints import SearchCheckpoint
from ..engine.search_data import ALPHA_SHARE, CALIBRATION_BATCHES, METRIC, SearchData
from ..engine.validation import Validation
from ..models.supernet import inherit_weights
from ..search.randomness import seeded
from ..search.steps import judge
from ..space.checks import wrong
from .run_checks import check_record, load_weights

# Indices of a network -> validation accuracy, and its weights on the CPU.
Evaluate = Callable[[Sequence[int]], tuple[float, dict[str, Tensor]]]


def inherited_networks(
    checkpoint: SearchCheckpoint,
    cfg: Mapping[str, Any],
    device: str | torch.device = "cpu",
) -> tuple[Evaluate, str]:
    """What evaluates derived networks of a search on the data of a config, and the name
    of its training list; with the config of the search, as the search would. ValueError
    where the config lacks something, or does not fit the search."""
    for key in ("model", "train_dataloader", "val_dataloader", "val_evaluator"):
        if cfg.get(key) is None:
            raise wrong(key, "one, to validate derived networks", "none")
    check_record(checkpoint.content, cfg, str(checkpoint.path))
    train_cfg, seed = cfg.get("train_cfg") or {}, checkpoint.seed
    num_batches = train_cfg.get("calibration_batches", CALIBRATION_BATCHES)
    data = SearchData(
        cfg["train_dataloader"], train_cfg.get("alpha_share", ALPHA_SHARE)
    )
    data.set_up(Runner, seed)
    loader = Runner.build_dataloader(copy.deepcopy(cfg["val_dataloader"]), seed=seed)
    for split, dataset in (("train", data.dataset), ("val", loader.dataset)):
        with seeded(0):
            shape = tuple(dataset[0]["inputs"].shape[1:])
        if shape != checkpoint.input_shape:
            field = f"{split}_dataloader.dataset.pipeline"
            expected = f"clips {checkpoint.input_shape}, as in {checkpoint.path}"
            raise wrong(field, expected, str(shape))
    evaluator = Evaluator(copy.deepcopy(cfg["val_evaluator"]))
    evaluator.dataset_meta = getattr(loader.dataset, "metainfo", None)
    validation = Validation(loader, evaluator, train_cfg.get("metric", METRIC))

    def evaluate(indices: Sequence[int]) -> tuple[float, dict[str, Tensor]]:
        genotype = checkpoint.space.genotype(indices)
        backbone = dict(type="PVNASNet", genotype=genotype)
        inherited = inherit_weights(checkpoint.state, indices)
        model = MODELS.build(copy.deepcopy(dict(cfg["model"], backbone=backbone)))
        load_weights(model, inherited, str(checkpoint.path))
        state: dict[str, Tensor] = {}

        def validate(model: nn.Module) -> float:
            # A copy: the running statistics are put back in place afterwards.
            state.update(copy.deepcopy(model.state_dict()))
            return validation(model)

        calibration = data.calibration(num_batches)
        accuracy = judge(model.to(device), calibration, validate, seed)
        return accuracy, {key: value.cpu() for key, value in state.items()}

    return evaluate, data.ann_file
