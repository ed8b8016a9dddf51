# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Report, at the end of each epoch, the videos that could not be read."""

from __future__ import annotations

import torch
from mmaction.registry import HOOKS
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner

from .pvnas_video_dataset import PVNASVideoDataset


@HOOKS.register_module()
class SkippedClipsHook(Hook):
    """Log how many clips were skipped, and which videos they are.

    It looks for every :class:`PVNASVideoDataset` behind the training loader, also in
    wrappers (``.dataset`` or ``.datasets``), and sums over the processes of a
    distributed run. An epoch without skipped clips logs nothing.

    Args:
        max_paths: How many paths a report holds at most. Default 20.
    """

    priority = "NORMAL"

    def __init__(self, max_paths: int = 20) -> None:
        self.max_paths = max_paths
        self._reported: dict[int, torch.Tensor] = {}

    def after_train_epoch(self, runner: Runner) -> None:
        """Report what is new since the last report."""
        for number, dataset in enumerate(_find(runner.train_loop.dataloader.dataset)):
            failures = dataset.failures.clone()
            all_reduce(failures)
            before = self._reported.get(number, torch.zeros_like(failures))
            self._reported[number] = failures
            new = failures - before
            indices = new.nonzero().flatten().tolist()
            if not indices:
                continue
            paths = [dataset.get_data_info(i)["filename"] for i in indices]
            shown = "".join(f"\n  {path}" for path in paths[: self.max_paths])
            if len(paths) > self.max_paths:
                shown += f"\n  and {len(paths) - self.max_paths} more"
            runner.logger.warning(
                f"Epoch {runner.epoch + 1}: clips skipped: {int(new.sum())}; videos of "
                f"{dataset.ann_file} that cannot be read: {len(paths)}{shown}"
            )


def _find(dataset: object) -> list[PVNASVideoDataset]:
    if isinstance(dataset, PVNASVideoDataset):
        return [dataset]
    inner = getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]
    return [found for item in inner if item is not None for found in _find(item)]
