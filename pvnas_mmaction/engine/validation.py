"""The accuracy of a model, without a validation loop's hooks, which would take that for
the end of an epoch."""

from itertools import islice

import torch
from mmengine.evaluator import Evaluator
from torch import nn
from torch.utils.data import DataLoader

from ..search.distributed import together
from ..space.checks import wrong


class Validation:
    """Gives the accuracy of a model, a share, by the ``metric`` of an evaluator."""

    def __init__(
        self, dataloader: DataLoader, evaluator: Evaluator, metric: str = ""
    ) -> None:
        self.dataloader, self.evaluator = dataloader, evaluator
        self.metric, self.num_clips = metric, len(dataloader.dataset)

    @torch.no_grad()
    def __call__(self, model: nn.Module, num_batches: int | None = None) -> float:
        """Of all batches, or the first so many."""
        training = model.training
        model.eval()
        with together():
            for batch in islice(self.dataloader, num_batches):
                samples = model.val_step(batch)
                self.evaluator.process(data_samples=samples, data_batch=batch)
        model.train(training)
        metrics, field = self.evaluator.evaluate(self.num_clips), "train_cfg.metric"
        if self.metric not in metrics:
            raise wrong(field, f"one of {sorted(metrics)}", repr(self.metric))
        value = float(metrics[self.metric])
        if not 0 <= value <= 1:  # nor NaN
            raise wrong(field, "an accuracy from 0 to 1", f"{self.metric} = {value:g}")
        return value
