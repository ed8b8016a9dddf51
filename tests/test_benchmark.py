# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The benchmark next to the zoo: costs against formulas and the zoo's own figures,
statistics against numpy, memory against what must be held, and the tool as a whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from mmaction.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.utils import get_installed_path
from tool_processes import TOOLS, run_process

from pvnas_mmaction.apis.config_files import load_config
from pvnas_mmaction.models import recognizers
from pvnas_mmaction.models.recognizers import View
from pvnas_mmaction.profiling import zoo
from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.genotype import Genotype, Skeleton, Stage, Stem, save_genotype

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = ("mb_t3_k3_e2", "mb3d_t3_k3_e2_se", "rb_t3_k3_e0.5", "ts_t3_k5_e2")
GENOTYPE = Genotype(
    "small", Skeleton(Stem(8), 32, (Stage(16, 2, 2, 1), Stage(24, 2, 2, 2))), BLOCKS
)
NUM_CLASSES = 5


@pytest.fixture
def config(tmp_path) -> Path:
    """A retrain config of a small network on 4x64x64 views."""
    save_genotype(GENOTYPE, tmp_path / "genotype.json")
    path = tmp_path / "small.py"
    path.write_text(
        f"_base_ = ['{ROOT}/configs/pvnas/_base_/models/retrain.py', "
        f"'{ROOT}/configs/pvnas/_base_/default_runtime.py']\n"
        "model = dict(\n"
        f"    backbone=dict(genotype='{tmp_path / 'genotype.json'}'),\n"
        f"    cls_head=dict(in_channels=32, num_classes={NUM_CLASSES}))\n"
        "test_pipeline = [\n"
        "    dict(type='UniformSample', clip_len=4, num_clips=2, test_mode=True),\n"
        "    dict(type='Resize', scale=(-1, 64)),\n"
        "    dict(type='ThreeCrop', crop_size=64),\n"
        "    dict(type='FormatShape', input_format='NCTHW')]\n"
    )
    return path


# -- costs -----------------------------------------------------------------------


def test_counted_cost_is_that_of_the_formulas(config):
    cfg = load_config(str(config))
    view = recognizers.view_of(cfg)
    assert view == View(4, 64, 64, is_2d=False)
    model = recognizers.build_recognizer(cfg).eval()
    expected = network_cost(GENOTYPE.skeleton, BLOCKS, (3, 4, 64, 64), NUM_CLASSES)
    assert recognizers.count_macs(model, view.random_input(1)) == expected.macs
    assert recognizers.count_macs(model, view.random_input(2)) == 2 * expected.macs
    assert recognizers.count_params(model) == expected.params


# The zoo counts batch normalisation, pooling and activations as well, up to a tenth in
# networks of depthwise convolutions.
@pytest.mark.parametrize(
    ("name", "views", "tolerance"),
    [("TSM-R50", (8, 224, 224), 0.01), ("X3D-S", (13, 182, 182), 0.10)],
)
def test_counted_cost_is_that_of_the_zoo(name, views, tolerance):
    cfg = load_config(zoo.DEFAULT[name])
    view = recognizers.view_of(cfg)
    assert (view.frames, view.height, view.width) == views
    init_default_scope(cfg.default_scope)
    with torch.device("meta"):
        model = MODELS.build(recognizers.without_pretrained(cfg.model)).eval()
    macs = recognizers.count_macs(model, view.random_input(1).to("meta"))
    said = _zoo_metadata(name)["FLOPs"]
    said = float(said.rstrip("G")) * 1e9 if isinstance(said, str) else said
    assert (1 - tolerance) * said <= macs <= said * (1 + tolerance)


def _zoo_metadata(name: str) -> dict:
    folder = Path(get_installed_path("mmaction")) / ".mim" / "configs"
    path = folder / zoo.DEFAULT[name].partition("::")[2]
    models = yaml.safe_load((path.parent / "metafile.yml").read_text())["Models"]
    (found,) = (model for model in models if model["Name"] == path.stem)
    return found["Metadata"]


# -- views -----------------------------------------------------------------------


def test_view_of_a_pipeline():
    pipeline = [
        dict(type="UniformSample", clip_len=8),
        dict(type="Resize", scale=(64, 32), keep_ratio=False),
        dict(type="FormatShape", input_format="NCTHW"),
    ]
    expected = View(8, 32, 64, is_2d=False)
    assert recognizers.view_of(Config(dict(test_pipeline=pipeline))) == expected


# -- figures ---------------------------------------------------------------------


def a_result(name: str, inference=(), training=(), **more) -> dict:
    """A model's result, with the times of every round of each kind of run."""
    known = dict(name=name, config="a.py", view=None, macs=None, params=None)
    known |= dict(folded=False, inference_ms=list(inference), errors=[])
    return {**known, "training_ms": list(training), **more}


def test_statistics_are_numpys():
    generator = np.random.default_rng(0)
    rounds = generator.uniform(5, 9, (6, 7)).tolist()
    others = generator.uniform(2, 3, (6, 7)).tolist()
    own = a_result("own", rounds, macs=3_000_000)
    other = a_result("TSM-R50", others, others)
    data = zoo.add_figures([own, other], zoo.Settings(), "benchmark.py")
    assert own["inference"]["ms"] == pytest.approx(np.median(rounds))
    expected = np.percentile(rounds, 90, method="inverted_cdf")
    assert own["inference"]["p90"] == pytest.approx(expected)
    ratios = np.median(rounds, axis=1) / np.median(others, axis=1)
    assert own["inference"]["ratio"] == pytest.approx(np.median(ratios))
    assert other["inference"]["ratio"] == other["training"]["ratio"] == 1
    assert f"| {np.median(rounds) / 0.003:.1f} |" in zoo.to_markdown(data)


# -- the tool --------------------------------------------------------------------


@pytest.mark.slow
def test_tool(config, tmp_path):
    out = tmp_path / "out"
    done = run_process(
        sys.executable, TOOLS / "benchmark.py", f"Ours={config}", "TSM-MobileNetV2",
        "TIN-R50", f"Gone={tmp_path}/gone.py", "--small", "--threads", "1",
        "--batch-size", "2", "--out", out,
    )  # fmt: skip
    data = json.loads((out / "benchmark.json").read_text())
    ours, tsm, tin, gone = data["results"]
    assert data["baseline"] == "TSM-MobileNetV2"
    assert data["machine"]["threads"] == 1
    assert ours["folded"] and not tsm["folded"]
    expected = network_cost(GENOTYPE.skeleton, BLOCKS, (3, 4, 64, 64), NUM_CLASSES)
    assert (ours["macs"], ours["params"]) == (expected.macs, expected.params)
    assert ours["errors"] == tsm["errors"] == []
    assert ours["training"]["ratio"] < 1 and tsm["training"]["ratio"] == 1
    # A training step takes more than its forward alone.
    assert tsm["training"]["ms"] > tsm["inference"]["ms"]
    assert "tin_shift" in tin["errors"][0]
    assert "gone.py" in gone["errors"][0]
    for result in (tin, gone):
        assert result["inference_ms"] == result["training_ms"] == []

    text = (out / "benchmark.md").read_text()
    assert text in done.stdout
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert [row.split("|")[1].strip() for row in rows[2:]] == [
        "Ours *", "TSM-MobileNetV2", "TIN-R50", "Gone",
    ]  # fmt: skip
    assert "- TIN-R50: build: " in text


def test_tool_says_what_is_wrong(call_tool):
    line = call_tool("benchmark", "TSM-R50", "TSM-R50")
    assert line.startswith("models: expected each name once")
    line = call_tool("benchmark", "NoSuchNet", "--small")
    assert line.startswith("models: expected one that can be measured")


def test_models_are_measured_in_turn(config):
    settings = zoo.Settings(rounds=2, seconds=0.01, crop=32, threads=1)
    models = dict(a=str(config), gone="gone.py")
    result, gone = zoo.measure(models, load_config, settings)
    assert [len(result[f"{kind}_ms"]) for kind in ("inference", "training")] == [2, 2]
    assert result["errors"] == [] and "gone.py" in gone["errors"][0]
