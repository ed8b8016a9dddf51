# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Recognizers, from the zoo and from genotypes, trained from scratch by one recipe."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.clips import normalise
from benchmarks.memory_search import MemorySearch
from benchmarks.real_data import RealClips
from pvnas_mmaction.profiling.timing import Clock, thread_count
from pvnas_mmaction.profiling.zoo import (
    ZOO,
    build_recognizer,
    count_macs,
    count_params,
    logits,
    read_config,
    settle_batch_norm,
    view_of,
)
from pvnas_mmaction.search.randomness import derived_seed

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "configs" / "pvnas" / "_base_"
EVAL_BATCH = 16
MAX_NORM = 20.0
DROPOUT = 0.5


@dataclass(frozen=True)
class Setting:
    """What all networks have in common: SGD with momentum, a linear warm-up and one
    cosine to 0, gradients clipped at a norm of 20, dropout of 0.5 before the
    classifier, cross-entropy.

    Args:
        frames: Frames of a view. Default 8.
        crop: Height and width of a view in pixels. Default 112.
        stored_frames: Frames kept of each clip, to draw from. Default 32.
        epochs: Passes over the training clips. Default 60.
        batch_size: Clips of a step. Default 16.
        learning_rates: Peaks to choose from, for every network alike: by clips that
            are held out of each fold's training part, with one seed.
        momentum: Of SGD. Default 0.9.
        weight_decay: On every weight. Default 5e-4.
        warmup: Share of the steps in which the learning rate rises. Default 0.1.
        search_epochs: Passes of a search over the weights half. Default 200.
        tuning_splits: So many splits of a fold's training part choose the learning
            rate, by their mean accuracy. Default 0: all there are, so that every clip
            of the training part is held out once.
        background_mixing: Highest share of a still frame of another clip in a training
            view, as in :class:`~benchmarks.real_data.RealClips`. Default 0.
        averaged_epochs: What is tested are exponential moving averages of weights and
            batch statistics, to which a step so many epochs ago contributes 1/e of
            what the last one does. Default 0: the last weights.
    """

    frames: int = 8
    crop: int = 112
    stored_frames: int = 32
    epochs: int = 60
    batch_size: int = 16
    learning_rates: tuple[float, ...] = (0.02, 0.05, 0.1)
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.1
    search_epochs: int = 200
    tuning_splits: int = 0
    background_mixing: float = 0.0
    averaged_epochs: float = 0.0

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(C, T, H, W) of a view."""
        return (3, self.frames, self.crop, self.crop)


# To see on a CPU that everything runs; too short to say which network is better.
REDUCED = Setting(
    crop=48, stored_frames=16, epochs=8, learning_rates=(0.05,), search_epochs=40
)


class Network(nn.Module):
    """A recognizer that takes clips as (N, 3, T, H, W), whatever its own layout is.

    Args:
        spec: The name of a model of the zoo, or the content of a genotype file.
        num_classes: Outputs.
        frames: Frames of a view.

    Raises:
        ValueError: No such name, or no genotype.
    """

    def __init__(
        self, spec: str | Mapping[str, Any], num_classes: int, frames: int
    ) -> None:
        super().__init__()
        if isinstance(spec, str):
            if spec not in ZOO:
                raise ValueError(f"model: found {spec!r}, expected one of {list(ZOO)}")
            config = read_config(ZOO[spec])
            self.is_2d = view_of(config).is_2d
            if self.is_2d:
                config.model.backbone.num_segments = frames
                config.model.cls_head.num_segments = frames
        else:
            config = Config.fromfile(BASE / "models" / "retrain.py")
            config.model.backbone.genotype = dict(spec)
            config.model.cls_head.in_channels = spec["skeleton"]["head_channels"]
            self.is_2d = False
        config.model.cls_head.num_classes = num_classes
        config.model.cls_head.dropout_ratio = DROPOUT
        self.recognizer = build_recognizer(config)
        if isinstance(spec, str):
            use_channels_last(self.recognizer)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> (N, num_classes), before softmax."""
        return logits(self.recognizer, self.laid_out(x))

    def laid_out(self, x: Tensor) -> Tensor:
        """The input as the recognizer takes it: (N, T, 3, H, W), frames as images,
        where it is a 2D one, else (N, 1, 3, T, H, W)."""
        return x.transpose(1, 2).contiguous() if self.is_2d else x.unsqueeze(1)


def use_channels_last(module: nn.Module) -> None:
    """Let convolutions run in channels-last layout, as those of our own networks do:
    depthwise ones are then twice as fast on a CPU, with the same numbers."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.to(memory_format=torch.channels_last)
        elif isinstance(part, nn.Conv3d):
            part.to(memory_format=torch.channels_last_3d)


def learning_rate(setting: Setting, peak: float, step: int, steps: int) -> float:
    """Learning rate of a step, counted from 0."""
    rising = setting.warmup * steps
    if step < rising:
        return peak * (step + 1) / (rising + 1)
    return peak * (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2


def train(
    spec: str | Mapping[str, Any],
    num_classes: int,
    clips: RealClips,
    test: RealClips,
    setting: Setting,
    lr: float,
    seed: int,
) -> dict[str, float]:
    """Train a network from scratch and test it after the last epoch.

    Clips, their order and their augmentation follow from the seed alone: every network
    sees the same.

    Args:
        spec: As for :class:`Network`.
        num_classes: Outputs.
        clips: To train on, on the device to use.
        test: To test on, there too.
        setting: How.
        lr: Peak learning rate.
        seed: Of everything random.

    Returns:
        ``accuracy`` (top-1, a share), ``loss`` (mean of the last epoch), ``seconds``;
        where weights are averaged, also ``last_accuracy``, without it.

    Raises:
        ValueError: There are fewer clips than a batch holds, or weights are to be
            averaged over less than a step.
    """
    if len(clips) < setting.batch_size:
        raise ValueError(
            f"batch_size: found {setting.batch_size}, expected at most {len(clips)}, "
            "the number of training clips"
        )
    started = time.perf_counter()
    torch.manual_seed(seed)
    model = Network(spec, num_classes, setting.frames).to(clips.frames.device)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=lr,
        momentum=setting.momentum,
        weight_decay=setting.weight_decay,
    )
    per_epoch = len(clips) // setting.batch_size
    steps = setting.epochs * per_epoch
    averaged = None
    if setting.averaged_epochs:
        averaged = moving_average(model, setting.averaged_epochs * per_epoch)
    model.train()
    for epoch in range(setting.epochs):
        order = np.random.default_rng((seed, epoch)).permutation(len(clips))
        losses = []
        for number in range(per_epoch):
            start = number * setting.batch_size
            chosen = order[start : start + setting.batch_size].tolist()
            seeds = [derived_seed(seed, epoch, index) for index in chosen]
            step = epoch * per_epoch + number
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(setting, lr, step, steps)
            scores = model(normalise(clips.views(chosen, seeds)))
            loss = nn.functional.cross_entropy(scores, clips.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()
            if averaged is not None:
                averaged.update_parameters(model)
            losses.append(loss.detach())
    result = dict(
        accuracy=evaluate(averaged or model, test),
        loss=round(float(torch.stack(losses).mean()), 4),
    )
    if averaged is not None:
        result["last_accuracy"] = evaluate(model, test)
    return dict(result, seconds=round(time.perf_counter() - started, 2))


def moving_average(model: nn.Module, steps: float) -> AveragedModel:
    """The model with exponential moving averages of its weights and buffers.

    Args:
        model: As it is before the first step.
        steps: After so many, a weight contributes 1/e of what it did.

    Raises:
        ValueError: Less than a step.
    """
    if steps < 1:
        raise ValueError(
            f"averaged_epochs: found {steps:.2g} steps, expected 0 or enough for one"
        )
    decay = math.exp(-1 / steps)
    return AveragedModel(
        model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True
    )


@torch.no_grad()
def evaluate(model: nn.Module, test: RealClips) -> float:
    """Top-1 on one view of each clip, a share."""
    model.eval()
    right = 0
    for start in range(0, len(test), EVAL_BATCH):
        part = range(start, min(start + EVAL_BATCH, len(test)))
        scores = model(normalise(test.views(part)))
        labels = test.labels[part.start : part.stop]
        right += int((scores.argmax(dim=1) == labels).sum())
    return right / len(test)


@torch.no_grad()
def measure(
    spec: str | Mapping[str, Any],
    num_classes: int,
    setting: Setting,
    device: str = "cpu",
    runs: int = 20,
) -> dict[str, float]:
    """Cost of a network for one view.

    Returns:
        ``macs`` (counted in a forward), ``params`` and ``latency_ms`` (median of
        ``runs`` forwards of one view on one thread of the CPU, or on the GPU, after
        three that are not timed).
    """
    model = Network(spec, num_classes, setting.frames).to(device).eval()
    x = torch.randn(1, *setting.input_shape, device=device)
    # Untrained activations may shrink to denormal numbers, which a CPU handles slowly.
    settle_batch_norm(model.recognizer, model.laid_out(x.repeat(2, 1, 1, 1, 1)))
    macs = count_macs(model.recognizer, model.laid_out(x))
    clock = Clock(device)
    times = []
    with thread_count(1):
        for _ in range(runs + 3):
            clock.mark()
            model(x)
            clock.mark()
            times += clock.intervals()
    latency = statistics.median(times[3:])
    return dict(macs=macs, params=count_params(model), latency_ms=round(latency, 3))


def search(
    config: Path,
    space: str,
    max_macs: int,
    num_classes: int,
    clips: RealClips,
    val: RealClips,
    setting: Setting,
    seed: int,
) -> dict[str, Any]:
    """Search a space on real clips, under a budget.

    Args:
        config: Search config; its space, data and length are replaced.
        space: Name of a space.
        max_macs: Budget in multiply-accumulates of one view.
        num_classes: Outputs.
        clips: Clips to search on.
        val: Clips that rank the cycles' networks.
        setting: Input shape, batch size and length.
        seed: Of everything random.

    Returns:
        ``genotype`` (content of a file), ``macs``, ``accuracy`` (inherited, on
        ``val``), ``clips`` (seen forward and backward) and ``seconds``.
    """
    started = time.perf_counter()
    cfg = Config.fromfile(config)
    cfg.model.backbone.space = Config.fromfile(BASE / "spaces" / f"{space}.py").space
    cfg.model.cls_head.in_channels = cfg.model.backbone.space.head_channels
    cfg.model.cls_head.num_classes = num_classes
    cfg.train_cfg.max_epochs = setting.search_epochs
    cfg.train_cfg.input_shape = setting.input_shape
    cfg.train_cfg.cost = dict(kind="flops", budget=max_macs)
    cfg.train_dataloader.batch_size = setting.batch_size
    device = str(clips.frames.device)
    searched = MemorySearch(cfg, clips, val, seed, device)
    best = searched.run()
    indices = searched.space.indices_of_blocks(best.blocks)
    genotype = searched.space.genotype(indices, dict(macs=best.macs, seed=seed))
    return dict(
        genotype=json.loads(genotype.to_json()),
        macs=best.macs,
        accuracy=best.accuracy,
        clips=searched.clips,
        seconds=round(time.perf_counter() - started, 2),
    )
