"""The benchmark next to the zoo: costs against formulas and the zoo's own figures, and
the tool as a whole."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from mmaction.apis import init_recognizer
from mmaction.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.utils import get_installed_path
from tool_processes import TOOLS, load_tool, run_process
from toys import write_config

from pvnas_mmaction.apis.config_files import load_config
from pvnas_mmaction.models import recognizers
from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.genotype import Genotype, Skeleton, Stage, Stem

tool = load_tool("benchmark")
BLOCKS = ("mb_t3_k3_e2", "mb3d_t3_k3_e2_se", "rb_t3_k3_e0.5", "ts_t3_k5_e2")
GENOTYPE = Genotype(
    "small", Skeleton(Stem(8), 32, (Stage(16, 2, 2, 1), Stage(24, 2, 2, 2))), BLOCKS
)
NUM_CLASSES = 5
ZOO = Path(get_installed_path("mmaction")) / ".mim" / "configs"


@pytest.fixture
def config(tmp_path) -> Path:
    """A retrain config of a small network on 4x64x64 views."""
    pipeline = [
        dict(type="UniformSample", clip_len=4, num_clips=2, test_mode=True),
        dict(type="Resize", scale=(-1, 64)),
        dict(type="ThreeCrop", crop_size=64),
        dict(type="FormatShape", input_format="NCTHW"),
    ]
    head = dict(in_channels=32, num_classes=NUM_CLASSES)
    return write_config(tmp_path, json.loads(GENOTYPE.to_json()), head, pipeline)


def test_view_of_a_pipeline_and_its_counted_cost(config):
    """By the formulas of a network."""
    cfg = load_config(str(config))
    shape = (3, 4, 64, 64)
    assert recognizers.view_of(cfg) == (shape, False)
    model = init_recognizer(cfg, device="cpu")
    expected = network_cost(GENOTYPE.skeleton, BLOCKS, shape, NUM_CLASSES)
    for number in (1, 2):
        x = tool.random_input(shape, False, number)
        assert recognizers.count_macs(model, x) == number * expected.macs
    assert sum(p.numel() for p in model.parameters()) == expected.params
    pipeline = [
        dict(type="UniformSample", clip_len=8),
        dict(type="Resize", scale=(64, 32), keep_ratio=False),
        dict(type="FormatShape", input_format="NCTHW"),
    ]
    config = Config(dict(test_pipeline=pipeline))
    assert recognizers.view_of(config) == ((3, 8, 32, 64), False)


# The zoo counts batch normalisation, pooling and activations as well, up to a tenth in
# networks of depthwise convolutions.
@pytest.mark.parametrize(
    ("name", "views", "tolerance"),
    [("TSM-R50", (8, 224, 224), 0.01), ("X3D-S", (13, 182, 182), 0.10)],
)
def test_counted_cost_is_that_of_the_zoo(name, views, tolerance):
    cfg = load_config(tool.CONFIGS[name])
    shape, is_2d = recognizers.view_of(cfg)
    assert shape == (3, *views)
    init_default_scope(cfg.default_scope)
    with torch.device("meta"):
        model = MODELS.build(cfg.model).eval()
    x = tool.random_input(shape, is_2d, 1).to("meta")
    macs = recognizers.count_macs(model, x)
    file = ZOO / tool.CONFIGS[name].partition("::")[2]
    models = yaml.safe_load((file.parent / "metafile.yml").read_text())["Models"]
    (found,) = (model for model in models if model["Name"] == file.stem)
    said = found["Metadata"]["FLOPs"]
    said = float(said.rstrip("G")) * 1e9 if isinstance(said, str) else said
    assert (1 - tolerance) * said <= macs <= said * (1 + tolerance)


@pytest.mark.slow
def test_tool(config, tmp_path):
    done = run_process(
        sys.executable, TOOLS / "benchmark.py", config, "TSM-MobileNetV2", "TIN-R50",
        tmp_path / "gone.py", "--rounds", "2", "--seconds", "0.1", "--threads", "1",
        "--batch-size", "2",
    )  # fmt: skip
    text = done.stdout
    assert "1 CPU threads" in text and "over 2 rounds" in text
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if "|" in line]
    (ours, tsm), (tin, gone) = rows[2:4], rows[4:]
    assert (ours[0], tsm[0]) == (f"{config} *", "TSM-MobileNetV2")  # * where folded
    expected = network_cost(GENOTYPE.skeleton, BLOCKS, (3, 4, 64, 64), NUM_CLASSES)
    assert ours[1:4] == [
        "4x64x64", f"{expected.macs / 1e9:.2f}", f"{expected.params / 1e6:.2f}"
    ]  # fmt: skip
    assert float(ours[5]) < float(tsm[5])
    # A training step takes more than its forward alone.
    assert float(tsm[5]) > float(tsm[4])
    assert "tin_shift" in tin[1] and "gone.py" in gone[1]


def test_tool_says_what_is_wrong(call_tool):
    line = call_tool("benchmark", "NoSuchNet")
    assert line.startswith("models: expected one that can be measured")
