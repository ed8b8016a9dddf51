# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""An exported network in 8-bit integers, and the accuracy that this costs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from mmaction.registry import DATASETS
from mmengine.config import Config
from torch import nn

from ..profiling.onnx_parts import quiet, start
from ..space.checks import wrong
from .export import INPUT

CALIBRATION_CLIPS = 64


def quantize(source: Path, out: Path, clips: Iterator[np.ndarray]) -> None:
    """Write an ONNX classifier with weights and activations in 8 bits.

    Scales of weights are by output channel; those of activations span what the clips
    give (static quantisation of onnxruntime, in QDQ form). Input and output stay
    float32, and the metadata of ``source`` is kept.

    Args:
        source: The ONNX file of :func:`export_onnx`.
        out: File to write.
        clips: Normalised training clips (1, C, T, H, W), float32.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            clip = next(clips, None)
            return None if clip is None else {INPUT: clip}

    with quiet(), TemporaryDirectory() as folder:
        prepared, written = Path(folder, "prepared.onnx"), Path(folder, "out.onnx")
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(prepared, written, Reader(), per_channel=True)
        model = onnx.load(written)
    del model.metadata_props[:]
    model.metadata_props.extend(onnx.load(source).metadata_props)
    onnx.save(model, out)


class Clips:
    """Normalised clips (1, C, T, H, W) of a config's list, in views as its test takes
    them, with their class ids.

    Args:
        config: A config with loaders.
        split: ``"train"`` or ``"test"``.
        preprocessor: The recognizer's data preprocessor.
        number: At most so many clips, evenly spaced. Default None: all.

    Raises:
        ValueError: The config has no such list, or a clip has more than one view.
    """

    def __init__(
        self,
        config: Config,
        split: str,
        preprocessor: nn.Module,
        number: int | None = None,
    ) -> None:
        settings = []
        for name in (split, "test"):
            loader = config.get(f"{name}_dataloader")
            if loader is None:
                raise wrong(f"{name}_dataloader", "one with clips, for --int8", "none")
            settings.append(copy.deepcopy(loader.dataset.to_dict()))
        own, test = settings
        own |= dict(pipeline=test["pipeline"], test_mode=True)
        self._dataset, self._preprocessor = DATASETS.build(own), preprocessor
        length = len(self._dataset)
        chosen = np.linspace(0, length - 1, min(number or length, length)).astype(int)
        self.indices = chosen.tolist()
        info = (self._dataset.get_data_info(i) for i in self.indices)
        self.labels = [int(data["label"]) for data in info]

    def __iter__(self) -> Iterator[np.ndarray]:
        for index in self.indices:
            item = self._dataset[index]
            batch = dict(inputs=[item["inputs"]], data_samples=[item["data_samples"]])
            (views,) = self._preprocessor(batch, training=False)["inputs"]
            if len(views) != 1:
                expected = "one view of a video, for --int8"
                raise wrong("test_pipeline", expected, str(len(views)))
            yield views.numpy()


def top1(path: Path, clips: Clips) -> float:
    """Accuracy of an exported network, a share."""
    run = start(path)
    found = [int(run(clip).argmax()) for clip in clips]
    return float(np.mean(np.equal(found, clips.labels)))
