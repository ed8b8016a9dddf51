# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Report clips that stand in two lists, and the videos that could not be read."""

import os
from collections.abc import Mapping
from itertools import combinations

import torch
from mmaction.registry import DATASETS, HOOKS
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner

from .pvnas_video_dataset import PVNASVideoDataset
from .video_list import resolve


@HOOKS.register_module()
class SkippedClipsHook(Hook):
    """Log which clips two lists share, before a run (a test on the validation list
    counts once), and which were skipped, after each epoch; of every
    :class:`PVNASVideoDataset`, also in wrappers."""

    def __init__(self) -> None:
        self._reported: dict[int, torch.Tensor] = {}

    def before_run(self, runner: Runner) -> None:
        if not is_main_process():
            return
        found, parts = {}, ["train", "val", "test"]
        if isinstance(runner._test_loop, BaseLoop):  # it is what is built
            parts = ["train", "test", "val"]
        for part in parts:
            loader = getattr(runner, f"_{part}_dataloader", None)
            datasets = _find(_child(loader, "dataset"))
            lists = [
                [os.path.realpath(p) for p in (d.ann_file, d.data_prefix["video"])]
                for d in datasets
            ]
            if part != parts[2] or lists != found[parts[1]][0]:
                files = [
                    {*resolve(clip["filename"] for clip in d.read_clips())}
                    for d in datasets
                ]
                found[part] = lists, set().union(*files)
                if number := sum(map(len, files)) - len(found[part][1]):
                    runner.logger.warning(
                        f"{part}_dataloader: expected other clips in each data set, "
                        f"got {number} that are in two"
                    )
        for (one, (_, files)), (other, (_, others)) in combinations(found.items(), 2):
            if shared := sorted(files & others):
                runner.logger.warning(
                    f"{other}_dataloader: expected other clips than in "
                    f"{one}_dataloader, got {len(shared)} of {len(others)} that are in "
                    f"both: {_shorten(shared)}; take them out of one list"
                )

    def after_train_epoch(self, runner: Runner) -> None:
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
            runner.logger.warning(
                f"Epoch {runner.epoch + 1}: clips skipped: {int(new.sum())}; videos of "
                f"{dataset.ann_file} that cannot be read: {len(paths)}: "
                f"{_shorten(paths)}"
            )


def _shorten(paths: list[str], most: int = 3) -> str:
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(paths[:most]) + more


def _child(parent: object, name: str) -> object:
    """A part of a config, or of what was built from one; None if it has none."""
    if isinstance(parent, Mapping):
        return parent.get(name)
    return getattr(parent, name, None)


def _find(dataset: object) -> list[PVNASVideoDataset]:
    if isinstance(dataset, PVNASVideoDataset):
        return [dataset]
    if _child(dataset, "type") in ("PVNASVideoDataset", PVNASVideoDataset):
        return [DATASETS.build({**dataset, "lazy_init": True})]  # type: ignore[dict-item]
    inner = _child(dataset, "datasets") or [_child(dataset, "dataset")]
    return [found for item in inner if item is not None for found in _find(item)]
