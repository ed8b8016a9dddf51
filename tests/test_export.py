"""Networks outside of eager PyTorch: ONNX, torch.export and torch.compile."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from mmaction.apis import init_recognizer
from mmengine.config import Config
from mmengine.runner import save_checkpoint
from toys import one_genotype_per_family, write_config

from pvnas_mmaction.apis.export import (
    Classifier,
    check_inputs,
    export_onnx,
    load_classifier,
    max_difference,
    model_facts,
)
from pvnas_mmaction.apis.quantize import labelled_clips
from pvnas_mmaction.models.blocks import batch_norms
from pvnas_mmaction.models.recognizers import logits

GENOTYPES = one_genotype_per_family()
SHAPE = (3, 6, 32, 32)
TOLERANCE = 1e-4
HEAD = dict(in_channels=16, num_classes=5, init_std=0.3)
SAMPLE = dict(type="UniformSample", clip_len=6, test_mode=True)
RESIZE = dict(type="Resize", scale=(32, 32), keep_ratio=False)
FORMAT = dict(type="FormatShape", input_format="NCTHW")


def random_recognizer(config: Config) -> torch.nn.Module:
    torch.manual_seed(0)
    recognizer = init_recognizer(config, device="cpu")
    # With running statistics of 0 and 1, activations would shrink.
    for norm in batch_norms(recognizer):
        norm.momentum = 1.0
    with torch.no_grad():
        logits(recognizer.train(), torch.randn(2, 1, *SHAPE))
    return recognizer.eval()


@pytest.mark.parametrize("family", GENOTYPES)
def test_onnx_is_the_same_function(family, tmp_path):
    pipeline = [SAMPLE, RESIZE, FORMAT]
    path = write_config(tmp_path, GENOTYPES[family], HEAD, pipeline)
    config = Config.fromfile(str(path))
    classifier = Classifier(random_recognizer(config)).eval()
    path = tmp_path / "model.onnx"
    export_onnx(classifier, path, SHAPE)

    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert not [n for n in model.graph.node if n.op_type == "BatchNormalization"]
    (graph_input,), (graph_output,) = model.graph.input, model.graph.output
    batch, *sizes = graph_input.type.tensor_type.shape.dim
    assert (graph_input.name, [d.dim_value for d in sizes]) == ("clips", [*SHAPE])
    assert batch.dim_param
    assert graph_output.name == "logits"

    inputs = check_inputs(SHAPE, (1, 2, 5))
    with torch.no_grad():
        scores = [classifier(clips) for clips in inputs]
    # The scores differ from input to input, so that equality says something.
    assert all(s.std(dim=1).min() > 0.01 for s in scores)
    assert (scores[0] - scores[1][:1]).abs().max() > 0.01
    assert max_difference(classifier, path, inputs) <= TOLERANCE
    # The classifier itself is still what it was: not folded.
    assert any(isinstance(m, torch.nn.BatchNorm3d) for m in classifier.modules())


def test_tool(tmp_path, run_tool):
    """The file holds the weights of the checkpoint, and what one needs to use it."""
    pipeline = [SAMPLE, RESIZE, FORMAT]
    path = write_config(tmp_path, GENOTYPES["ts"], HEAD, pipeline)
    loader = f"test_dataloader = dict(dataset=dict(ann_file='{tmp_path}/val.txt'))\n"
    path.write_text(path.read_text() + loader)
    (tmp_path / "classes.txt").write_text("a\nb b\nü\nd\ne\n")
    config = Config.fromfile(str(path))
    checkpoint = tmp_path / "trained.pth"
    state = random_recognizer(config).state_dict()
    save_checkpoint(dict(state_dict=state), str(checkpoint))
    out = tmp_path / "new" / "model.onnx"
    status, printed, _ = run_tool("export_onnx", path, checkpoint, "--out", out)
    assert status == 0
    assert printed.count("max abs difference") == 1
    assert "clips (N, 3, 6, 32, 32) -> logits (N, 5)" in printed
    classifier = load_classifier(config, str(checkpoint), SHAPE).eval()
    assert max_difference(classifier, out, check_inputs(SHAPE)) <= TOLERANCE
    found = {item.key: json.loads(item.value) for item in onnx.load(out).metadata_props}
    assert found == dict(
        classes=["a", "b b", "ü", "d", "e"], frames=6, height=32, width=32,
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
    )  # fmt: skip
    (tmp_path / "classes.txt").unlink()
    assert json.loads(model_facts(config, SHAPE)["classes"]) == list("01234")


def test_int8(tmp_path, run_tool, motion_clips):
    """Near to the float network on clips, with its inputs, outputs and metadata."""
    names = ("PVNASVideoInit", "PVNASVideoDecode", "PackActionInputs")
    first, decode, pack = (dict(type=name) for name in names)
    pipeline = [first, SAMPLE, decode, RESIZE, FORMAT, pack]
    head = HEAD | dict(num_classes=8)
    path = write_config(tmp_path, GENOTYPES["ts"], head, pipeline)
    loaders = [
        f"{split}_dataloader = dict(dataset=dict(type='PVNASVideoDataset', "
        f"ann_file='{motion_clips}/{file}.txt', num_classes=8, pipeline=test_pipeline, "
        f"data_prefix=dict(video='{motion_clips}')))\n"
        for split, file in (("train", "train"), ("test", "val"))
    ]
    path.write_text(path.read_text() + "".join(loaders))
    out = tmp_path / "model.onnx"
    config = Config.fromfile(str(path))
    recognizer = random_recognizer(config)
    checkpoint = tmp_path / "trained.pth"
    save_checkpoint(dict(state_dict=recognizer.state_dict()), str(checkpoint))
    argv = [path, checkpoint, "--out", out, "--int8"]
    status, printed, _ = run_tool("export_onnx", *argv)
    assert status == 0 and printed.count("on 16 test clips") == 2
    small = out.with_suffix(".int8.onnx")
    ours, theirs = (
        {item.key: item.value for item in onnx.load(file).metadata_props}
        for file in (small, out)
    )
    assert ours == theirs
    kinds = {init.data_type for init in onnx.load(small).graph.initializer}
    assert onnx.TensorProto.INT8 in kinds

    preprocessor = recognizer.data_preprocessor
    clips = np.concatenate([c for c, _ in labelled_clips(config, "test", preprocessor)])
    start = onnxruntime.InferenceSession
    scores, expected = (
        start(str(f)).run(None, {"clips": clips})[0] for f in (small, out)
    )
    spread = expected.std(axis=0).mean()
    assert 0 < np.abs(scores - expected).mean() < spread / 3
    config.test_dataloader = None
    with pytest.raises(ValueError, match="test_dataloader: expected one with clips"):
        next(labelled_clips(config, "test", preprocessor))
