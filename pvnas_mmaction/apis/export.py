"""A recognizer as a function of clips, in PyTorch or as an ONNX file."""

import copy
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmaction.apis import init_recognizer
from mmengine.config import Config
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from ..engine.checkpoints import check_checkpoint
from ..models import recognizers
from ..models.blocks import fold_batch_norm
from ..models.pvnas_net import PVNASNet
from ..profiling.clock import check_device
from ..profiling.onnx_parts import onnx_program, start
from ..report.predictions import class_names
from ..space.checks import wrong
from ..space.cost import check_input_shape
from ..space.genotype import write_atomically, write_json
from .config_checks import check_num_classes, check_one_network
from .config_files import load_config, make_portable
from .onnx_predict import Deployed, read_description
from .run_checks import check_head, check_record, load_weights

INPUT, OUTPUT = "clips", "logits"
# Transforms that read, or change no pixel.
_OTHER = re.compile(r"(PVNASVideo|Decord|PyAV|OpenCV)(Init|Decode)|FormatShape|Pack.*")


class Classifier(nn.Module):
    """A 3D recognizer: clips (N, C, T, H, W) to scores before softmax (N, classes)."""

    def __init__(self, recognizer: nn.Module) -> None:
        super().__init__()
        self.recognizer = recognizer

    def forward(self, clips: Tensor) -> Tensor:
        return recognizers.logits(self.recognizer, clips.unsqueeze(1))


def load_classifier(
    config: Config, checkpoint: str, input_shape: Sequence[int]
) -> Classifier:
    """The classifier of a config, in evaluation mode, for clips (C, T, H, W);
    FileNotFoundError or ValueError where checkpoint, head or clips do not fit."""
    recognizer = init_recognizer(config, device="cpu")
    check_head(recognizer)
    if isinstance(recognizer.backbone, PVNASNet):
        check_input_shape(recognizer.backbone.skeleton, input_shape)
    check_checkpoint(checkpoint, "checkpoint")
    found = CheckpointLoader.load_checkpoint(checkpoint, "cpu", logger="silent")
    check_record(found, config, checkpoint)
    load_weights(recognizer, found, checkpoint)
    return Classifier(recognizer)


def labels_of(cfg: Config) -> list[str]:
    """Class names, or class ids where ``classes.txt`` does not lie next to the list."""
    check_num_classes(cfg)
    number = cfg.model.cls_head.num_classes
    return class_names(cfg.to_dict()) or [str(index) for index in range(number)]


def preprocessing_of(cfg: Config) -> dict[str, Any]:
    """How the test pipeline makes a clip, see :class:`Deployed`, or ValueError."""
    steps: list[Sequence[Any]] = []
    frames, sampling = 0, None
    for transform in recognizers.pipeline_of(cfg):
        settings = dict(transform)
        kind = str(settings.pop("type")).removeprefix("mmaction.")
        samples = kind in ("UniformSample", "SampleFrames")
        if samples and settings.pop("num_clips", 1) == 1:
            settings.pop("test_mode", None)
            frames = settings.pop("clip_len")
            sampling = settings.pop("frame_interval", 1)
            sampling = "uniform" if kind == "UniformSample" else sampling
        elif kind == "Resize" and not isinstance(settings["scale"], float):
            keep_ratio = settings.pop("keep_ratio", True)
            steps.append(["resize", list(settings.pop("scale")), keep_ratio])
        elif kind == "CenterCrop":
            size = recognizers.pair(settings.pop("crop_size"))
            steps.append(["center_crop", list(size)])
        elif _OTHER.fullmatch(kind):
            settings = {}
        else:
            settings["type"] = kind
        if settings:
            expected = "one clip per video, Resize and CenterCrop alone"
            raise wrong("test_pipeline", expected, f"{kind} with {settings}")
    preprocessor = cfg.model.get("data_preprocessor") or {}
    return dict(
        frames=frames, sampling=sampling, steps=steps,
        mean=list(preprocessor.get("mean", [0.0] * 3)),
        std=list(preprocessor.get("std", [1.0] * 3)),
    )  # fmt: skip


def load_trained(source: str, checkpoint: str | None, device: str) -> Deployed:
    """A network that PyTorch runs, for :mod:`.onnx_predict`: of a config and a
    checkpoint, or of a folder that ``pvnas fit`` wrote."""
    where, folder = check_device(device), Path(source)
    weights = checkpoint or str(folder / "checkpoint.pth")
    if not checkpoint and not Path(weights).is_file():
        expected = "a folder that pvnas fit wrote, or CONFIG CHECKPOINT"
        raise wrong("FOLDER", expected, f"{folder}, without a checkpoint.pth")
    cfg = load_config(source if checkpoint else str(folder / "config.py"))
    check_one_network(cfg)
    make_portable(cfg)
    preprocessing = preprocessing_of(cfg)
    classifier = load_classifier(cfg, weights, recognizers.view_of(cfg)[0]).to(where)
    labels = labels_of(cfg) if checkpoint else read_description(folder)[0]

    @torch.inference_mode()
    def network(clips: np.ndarray) -> np.ndarray:
        return classifier(torch.from_numpy(clips).to(where)).float().cpu().numpy()

    return Deployed(network, labels, preprocessing)


def write_description(cfg: Config, folder: Path) -> None:
    """Write ``labels.txt`` and ``preprocessing.json``, for an exported network."""
    labels, preprocessing = labels_of(cfg), preprocessing_of(cfg)
    write_atomically(folder / "labels.txt", "\n".join(labels) + "\n")
    write_json(folder / "preprocessing.json", preprocessing)


def model_facts(config: Config, input_shape: Sequence[int]) -> dict[str, str]:
    """Metadata of an exported model, as JSON texts; pixels are RGB, from 0 to 255."""
    preprocessor = config.model.get("data_preprocessor") or {}
    facts = dict(zip(("frames", "height", "width"), input_shape[1:], strict=True))
    facts |= {key: preprocessor.get(key) for key in ("mean", "std")}
    facts["classes"] = labels_of(config)
    return {key: json.dumps(value) for key, value in facts.items()}


def export_onnx(
    classifier: Classifier,
    path: str | os.PathLike[str],
    input_shape: Sequence[int],
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write a copy of a classifier as ONNX, with batch normalisation folded.

    Input ``clips`` (N, C, T, H, W), already normalised; output ``logits`` (N,
    num_classes); N is free. ``facts``, see :func:`model_facts`, are the metadata.
    """
    deployed = fold_batch_norm(copy.deepcopy(classifier).eval())
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    program = onnx_program(
        deployed,
        torch.zeros((2, *input_shape)),
        input_names=[INPUT],
        output_names=[OUTPUT],
        # Without a largest size, torch 2.6 finds its own guard violated.
        dynamic_shapes={INPUT: {0: torch.export.Dim("batch", max=2**31)}},
    )
    program.model.metadata_props.update(facts or {})
    program.save(str(path), external_data=False)


@torch.no_grad()
def max_difference(
    classifier: Classifier, path: str | os.PathLike[str], inputs: Iterable[Tensor]
) -> float:
    """Largest absolute difference of logits between onnxruntime and PyTorch."""
    run, largest = start(Path(path)), 0.0
    for clips in inputs:
        difference = torch.from_numpy(run(clips.numpy())) - classifier(clips)
        difference = difference.abs().nan_to_num(nan=float("inf"))
        largest = max(largest, float(difference.max()))
    return largest


def check_inputs(
    input_shape: Sequence[int], batch_sizes: Sequence[int] = (1, 2, 3)
) -> list[Tensor]:
    """Batches (N, C, T, H, W) of noise to check with."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((size, *input_shape) for size in batch_sizes)
    return [torch.randn(size, generator=generator) for size in sizes]
