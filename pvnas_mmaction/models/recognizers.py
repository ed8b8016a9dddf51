"""Recognizers out of configs, ours and MMAction2's: viewed, run, counted."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..space.checks import wrong


def view_of(config: Config) -> tuple[tuple[int, ...], bool]:
    """Shape (C, T, H, W) of one view of a config's test (else of its validation), what
    the zoo states FLOPs for, and whether the recognizer is a 2D one, which takes frames
    as so many images; ValueError where the pipeline does not say frames or size."""
    pipeline = pipeline_of(config)
    frames: int | None = None
    size: tuple[int, int] | None = None
    input_format = None
    for transform in pipeline:
        kind = transform["type"]
        if "clip_len" in transform:
            frames = transform["clip_len"]
            clips = transform.get("num_clips", 1)
        elif kind in ("CenterCrop", "ThreeCrop", "TenCrop"):
            size = pair(transform["crop_size"])
        elif kind == "Resize" and not transform.get("keep_ratio", True):
            size = pair(transform["scale"])[::-1]
        elif kind == "FormatShape":
            input_format = transform["input_format"]
    if frames is None or size is None or input_format not in ("NCHW", "NCTHW"):
        expected = "clip_len, a crop, and the format NCHW or NCTHW"
        got = f"clip_len {frames}, crop {size} and format {input_format!r}"
        raise wrong("pipeline", expected, got)
    is_2d = input_format == "NCHW"
    return (3, frames * clips if is_2d else frames, *size), is_2d


def pipeline_of(config: Config) -> Sequence[Mapping[str, Any]]:
    """What the loaders use; a variable of a base may say something else."""
    for split in ("test", "val"):
        loader = config.get(f"{split}_dataloader") or {}
        pipeline = loader.get("dataset", {}).get("pipeline")
        pipeline = pipeline or config.get(f"{split}_pipeline")
        if pipeline:
            return pipeline
    raise wrong("config", "a loader with a pipeline, to test or to validate", "none")


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """Class scores before softmax: backbone, neck and head."""
    return model(x, mode="tensor", stage="head")


@torch.no_grad()
def count_macs(model: nn.Module, x: Tensor) -> int:
    """Multiply-accumulates of a forward: convolutions, fully connected layers and the
    products of attention, counted as PyTorch runs them one by one."""
    counter = FlopCounterMode(display=False)
    # The counter passes over most kernels that do a whole attention at once.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), counter:
            logits(model, x)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops() // 2
