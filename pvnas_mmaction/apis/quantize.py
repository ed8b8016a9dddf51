"""An exported network in 8-bit integers, and the accuracy that this costs."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from mmaction.registry import DATASETS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import nn

from ..profiling.onnx_parts import quiet, start
from ..space.checks import wrong
from .export import INPUT

# A normalised clip (1, C, T, H, W), float32, and its class id.
Clips = Iterable[tuple[np.ndarray, int]]


def quantize(source: Path, out: Path, clips: Clips) -> None:
    """Write an ONNX classifier with weights (by output channel) and activations (by
    clips of training) in 8 bits: onnxruntime's static quantisation. Input, output and
    metadata of ``source`` are kept. Of a weight's 8 bits 7 are used: on a CPU without
    VNNI sums of two products would saturate, as onnxruntime's documentation says."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        feeds = ({INPUT: clip} for clip, _ in clips)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    with quiet(), TemporaryDirectory() as folder:
        prepared, written = Path(folder, "prepared.onnx"), Path(folder, "out.onnx")
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        settings = dict(per_channel=True, reduce_range=True)
        quantize_static(prepared, written, Reader(), **settings)
        model = onnx.load(written)
    del model.metadata_props[:]
    model.metadata_props.extend(onnx.load(source).metadata_props)
    onnx.save(model, out)


def labelled_clips(
    config: Config, split: str, preprocessor: nn.Module, number: int | None = None
) -> Iterator[tuple[np.ndarray, int]]:
    """Clips of a config's ``"train"`` or ``"test"`` list, in views as its test takes
    them; at most a ``number``, evenly spaced. ValueError where it has none, or a clip
    has several views."""
    settings = {}
    for name in (split, "test"):
        loader = config.get(f"{name}_dataloader")
        if loader is None:
            raise wrong(f"{name}_dataloader", "one with clips, for --int8", "none")
        settings[name] = loader.dataset.to_dict()
    pipeline = settings["test"]["pipeline"]
    dataset = DATASETS.build(
        {**settings[split], "pipeline": pipeline, "test_mode": True}
    )
    length = len(dataset)
    for index in np.linspace(0, length - 1, min(number or length, length)).astype(int):
        data = preprocessor(pseudo_collate([dataset[int(index)]]))
        (views,), (sample,) = data["inputs"], data["data_samples"]
        if len(views) != 1:
            expected = "one view of a video, for --int8"
            raise wrong("test_pipeline", expected, str(len(views)))
        yield views.numpy(), int(sample.gt_label)


def top1(path: Path, clips: Clips) -> tuple[float, int]:
    run = start(path)
    right = [int(run(clip).argmax()) == label for clip, label in clips]
    return float(np.mean(right)), len(right)
