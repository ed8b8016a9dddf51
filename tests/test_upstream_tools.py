# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""MMAction2's own tools and interfaces, unchanged, on this project's configs.

One network is trained for one epoch by MMAction2's ``tools/train.py`` with mmengine's
EMA hook; the other tests use its checkpoint and logs. ``--amp`` of its
``tools/train.py`` needs a GPU: ``AmpOptimWrapper`` refuses to work without one.
``tools/train.py`` of this project takes bfloat16 there.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import mmaction
import numpy as np
import pytest
import torch
from mmaction.apis import inference_recognizer, init_recognizer
from mmaction.apis.inferencers import MMAction2Inferencer
from mmengine.config import Config

from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.genotype import Genotype, load_genotype, save_genotype
from pvnas_mmaction.space.search_space import SearchSpace

ROOT = Path(__file__).resolve().parent.parent
UPSTREAM = Path(mmaction.__file__).parent / ".mim" / "tools"
CONFIGS = ROOT / "configs" / "pvnas"
NUM_CLASSES = 8
SHAPE = (3, 8, 32, 32)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def run_tool(tool: Path, *options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(tool), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def run(tool: str, *options: object) -> str:
    """Output of a tool of MMAction2 that has to end well."""
    done = run_tool(UPSTREAM / tool, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def genotype(tmp_path_factory) -> Path:
    """A network of the space ``tiny`` with blocks of both kinds of temporal reach."""
    space = SearchSpace.from_config(
        Config.fromfile(str(CONFIGS / "_base_/spaces/tiny.py")).space
    )
    blocks = ("mb_t3_k3_e2", "skip", "ts_t3_k3_e2", "mb_t5_k3_e2")
    path = tmp_path_factory.mktemp("genotype") / "genotype.json"
    save_genotype(Genotype(space.name, space.skeleton, blocks), path)
    return path


@pytest.fixture(scope="module")
def config(genotype, motion_clips) -> Path:
    """The retrain config for motion clips, with this genotype, these clips and EMA."""
    (base,) = CONFIGS.glob("pvnas-tiny_retrain_*_motion-clips.py")
    data = (
        f"ann_file='{motion_clips}/{{}}.txt', data_prefix=dict(video='{motion_clips}')"
    )
    train, val = (
        f"{split}_dataloader = dict(batch_size=8, dataset=dict({data.format(split)}))\n"
        for split in ("train", "val")
    )
    path = genotype.parent / "config.py"
    path.write_text(
        f"_base_ = '{base}'\n"
        f"model = dict(backbone=dict(genotype='{genotype}'))\n"
        f"{train}{val}{val.replace('val_', 'test_')}"
        "train_cfg = dict(max_epochs=1, val_begin=1, val_interval=1)\n"
        "custom_hooks = [dict(type='EMAHook', momentum=0.1)]\n"
        "default_hooks = dict(logger=dict(interval=1))\n"
    )
    return path


@pytest.fixture(scope="module")
def work_dir(config) -> Path:
    """What MMAction2's tools/train.py left."""
    folder = config.parent / "work_dir"
    run("train.py", config, "--work-dir", folder, "--seed", 0)
    return folder


@pytest.fixture(scope="module")
def checkpoint(work_dir) -> Path:
    return work_dir / "epoch_1.pth"


@pytest.fixture(scope="module")
def video(motion_clips) -> str:
    return str(motion_clips / (motion_clips / "val.txt").read_text().split()[0])


def scalars(work_dir: Path) -> Path:
    (path,) = work_dir.glob("*/vis_data/scalars.json")
    return path


# -- tools ------------------------------------------------------------------------


def test_ema_hook(config, checkpoint):
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    # On saving the hook swaps: the averaged weights are those that tests use.
    averaged = saved["state_dict"]["backbone.stem.spatial.conv.weight"]
    trained = saved["ema_state_dict"]["module.backbone.stem.spatial.conv.weight"]
    assert averaged.isfinite().all() and not torch.equal(averaged, trained)
    model = init_recognizer(str(config), str(checkpoint), device="cpu")
    torch.testing.assert_close(model.backbone.stem.spatial.conv.weight.data, averaged)


def test_get_flops(config, genotype):
    text = run("analysis_tools/get_flops.py", config, "--shape", 1, *SHAPE)
    flops, unit = re.findall(r"Flops: ([\d.]+)([KMG])", text)[0]
    found = float(flops) * {"K": 1e3, "M": 1e6, "G": 1e9}[unit]
    network = load_genotype(genotype)
    macs = network_cost(network.skeleton, network.blocks, SHAPE, NUM_CLASSES).macs
    # get_flops adds batch normalisation, and leaves the head's 512 MACs out.
    assert 0.99 * macs < found < 1.2 * macs


# -- interfaces -------------------------------------------------------------------


def test_inference_on_a_video(config, checkpoint, video, tmp_path):
    model = init_recognizer(str(config), str(checkpoint), device="cpu")
    sample = inference_recognizer(model, video)
    assert sample.pred_score.shape == (NUM_CLASSES,)
    assert float(sample.pred_score.sum()) == pytest.approx(1, abs=1e-5)

    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"class {i}\n" for i in range(NUM_CLASSES)))
    inferencer = MMAction2Inferencer(
        rec=str(config),
        rec_weights=str(checkpoint),
        device="cpu",
        label_file=str(labels),
    )
    (prediction,) = inferencer(video)["predictions"]
    (scores,) = prediction["rec_scores"]
    np.testing.assert_allclose(scores, sample.pred_score.numpy(), rtol=1e-4, atol=1e-5)
    assert prediction["rec_labels"] == [[int(sample.pred_label)]]
    # As pictures: for a video file MMAction2 asks for one more package.
    inferencer(video, vid_out_dir=str(tmp_path / "out"), out_type="img")
    assert len(list((tmp_path / "out").rglob("*.png"))) == SHAPE[1]


SLOW_DUMP = pytest.param("dumped", marks=pytest.mark.slow)


@pytest.mark.parametrize("form", ["shipped", "readme", SLOW_DUMP])
def test_interfaces_work_from_a_config_alone(
    form, config, genotype, checkpoint, video, tmp_path
):
    """In a process that has not imported this package: from a shipped config, from
    that of the README, and from what a training has written, copied elsewhere after
    its genotype has changed."""
    path = tmp_path / "config.py"
    if form == "dumped":
        command = [ROOT / "tools/train.py", config, "--work-dir", tmp_path / "work"]
        assert run_tool(*command, "--seed", 0).returncode == 0
        text = (tmp_path / "work" / config.name).read_text()
        path.write_text(text)
        assert str(genotype) not in text
    else:
        (base,) = CONFIGS.glob("pvnas-tiny_retrain_*_motion-clips.py")
        path = base if form == "shipped" else path
        if form == "readme":
            path.write_text(config.read_text())
    weights = None if form == "shipped" else str(checkpoint)
    code = f"""
import sys
from mmaction.apis import inference_recognizer, init_recognizer
from mmaction.apis.inferencers import MMAction2Inferencer
assert "pvnas_mmaction" not in sys.modules
model = init_recognizer({str(path)!r}, {weights!r}, device="cpu")
sample = inference_recognizer(model, {video!r})
inferencer = MMAction2Inferencer({str(path)!r}, rec_weights={weights!r}, device="cpu")
(scores,) = inferencer({video!r})["predictions"][0]["rec_scores"]
assert {weights!r} is None or abs(sample.pred_score.numpy() - scores).max() < 1e-4
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


# -- mixed precision --------------------------------------------------------------
