"""tools/train.py, test.py and their launchers, run whole, next to MMAction2's own."""

import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from tool_processes import (
    CONFIGS,
    RETRAIN,
    SEARCH,
    TOOLS,
    UPSTREAM_TOOLS,
    data_options,
    free_port,
    run_process,
)

from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.genotype import load_genotype

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
TRAIN, TEST = TOOLS / "train.py", TOOLS / "test.py"


def full_log(work_dir: Path) -> str:
    """The newest log of a work dir, with the config that it starts with."""
    return max(work_dir.glob("*/*.log"), key=lambda path: path.parent.name).read_text()


@pytest.fixture(scope="module")
def folder(motion_clips: Path, tmp_path_factory) -> Path:
    """A config, and its work dir after one epoch; the config sets a seed itself."""
    folder = tmp_path_factory.mktemp("tools")
    cfg = Config.fromfile(CONFIGS / RETRAIN)
    options = (option.split("=") for option in data_options(motion_clips))
    cfg.merge_from_dict(dict(options))
    for split in ("train", "val", "test"):
        cfg[f"{split}_dataloader"].update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.batch_size = 4
    cfg.randomness = dict(seed=1)
    cfg.train_cfg.max_epochs = 1
    cfg.default_hooks.logger = dict(type="LoggerHook", interval=1)
    cfg.dump(folder / "retrain.py")
    options = ["--cfg-options", "auto_scale_lr.base_batch_size=8"]
    command = [TRAIN, "retrain.py", "--work-dir", "work", "--seed", "3", "--amp"]
    run_process(sys.executable, *command, "--auto-scale-lr", *options, cwd=folder)
    return folder


def test_run_obeys_the_options(folder: Path) -> None:
    log = full_log(folder / "work")
    cfg = Config.fromfile(folder / "work" / "retrain.py")
    assert "--seed 3" in cfg.started_with.command
    assert cfg.optim_wrapper.type in log and "seed: 3" in log
    assert "Scaling the original LR by 0.5" in log
    assert f"lr: {cfg.optim_wrapper.optimizer.lr / 2:.4e}" in log
    assert "Epoch(train) [1][8/8]" in log  # 32 clips in batches of 4
    assert "Epoch(val) [1]" in log


def predictions(command: list, folder: Path, name: str) -> list[dict]:
    """What a test tool predicts with the checkpoint of ``folder``."""
    dump = folder / f"{name}.pkl"
    files = [folder / "retrain.py", folder / "work" / "epoch_1.pth"]
    tool, *processes = command
    interpreter = [] if tool.suffix == ".sh" else [sys.executable]
    options = ["--work-dir", folder / name, "--dump", dump]
    run_process(*interpreter, tool, *files, *processes, *options, PORT=free_port())
    return pickle.loads(dump.read_bytes())


@pytest.fixture(scope="module")
def tested(folder: Path) -> list[dict]:
    return predictions([TEST], folder, "tested")


def test_test_reports_the_accuracy_of_what_it_dumps(folder, tested) -> None:
    assert len(tested) == 16
    hits = [int(np.argmax(p["pred_score"])) == int(p["gt_label"]) for p in tested]
    reported = re.findall(r"acc/top1: ([\d.]+)", full_log(folder / "tested"))[-1]
    assert float(reported) == pytest.approx(np.mean(hits), abs=1e-4)


@pytest.mark.parametrize(
    "command",
    [
        [UPSTREAM_TOOLS / "test.py"],
        pytest.param([TOOLS / "dist_test.sh", "2"], marks=pytest.mark.slow),
    ],
    ids=["upstream", "two_processes"],
)
def test_predictions_are_the_same(command, folder, tested) -> None:
    """By MMAction2's own tool, unchanged, and on two processes."""
    theirs = predictions(command, folder, command[0].stem)
    for a, b in zip(tested, theirs, strict=True):
        torch.testing.assert_close(a["pred_score"], b["pred_score"])


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="looks at the CPU's group")
def test_training_on_two_processes(folder) -> None:
    command = [TOOLS / "dist_train.sh", folder / "retrain.py", "2", "--no-validate"]
    run_process(*command, "--work-dir", folder / "dist", PORT=free_port())
    # 32 clips, 2 processes, batches of 4
    assert "Epoch(train) [1][4/4]" in full_log(folder / "dist")


@pytest.mark.slow
def test_a_shipped_search_on_two_processes(motion_clips, tmp_path) -> None:
    """By the command that the docs give for several GPUs."""
    options = [*data_options(motion_clips), "train_dataloader.batch_size=2"]
    options += ["train_cfg.max_epochs=3", "train_cfg.min_steps=0"]
    options += ["train_cfg.num_ranked=1"]
    command = [TOOLS / "dist_train.sh", CONFIGS / SEARCH, "2", "--seed", "0", "--amp"]
    command += ["--work-dir", tmp_path, "--cfg-options", *options]
    done = run_process(*command, PORT=free_port())
    assert "Search done: 3 genotype(s)" in done.stdout + done.stderr
    assert (tmp_path / "search" / "genotype.json").is_file()
    checkpoint = torch.load(tmp_path / "epoch_3.pth", weights_only=True)
    assert checkpoint["state_dict"]["backbone.alphas"].dtype == torch.float32


# -- MMAction2's own tools and interfaces, unchanged -------------------------------


@pytest.mark.slow
def test_upstream_trains_and_counts(folder) -> None:
    run_process(
        sys.executable, UPSTREAM_TOOLS / "train.py", folder / "retrain.py",
        "--work-dir", folder / "upstream",
    )  # fmt: skip
    assert "Epoch(train) [1][8/8]" in full_log(folder / "upstream")
    tool, shape = UPSTREAM_TOOLS / "analysis_tools/get_flops.py", (3, 6, 20, 20)
    command = [tool, folder / "retrain.py", "--shape", 1, *shape]
    text = run_process(sys.executable, *command).stdout
    flops, unit = re.findall(r"Flops: ([\d.]+)([KMG])", text)[0]
    found = float(flops) * {"K": 1e3, "M": 1e6, "G": 1e9}[unit]
    network = load_genotype(CONFIGS / "genotypes" / "pvnas-tiny.json")
    macs = network_cost(network.skeleton, network.blocks, shape, 8).macs
    # It adds batch normalisation, and leaves the head's 512 MACs out.
    assert 0.99 * macs < found < 1.2 * macs


@pytest.mark.parametrize(
    "form", ["dumped", pytest.param("shipped", marks=pytest.mark.slow)]
)
def test_interfaces_work_from_a_config_alone(form, folder, motion_clips, tmp_path):
    """In a process that has not imported this package: from a shipped config, and from
    what a training has written, which holds its genotype."""
    path, weights = CONFIGS / RETRAIN, None
    if form == "dumped":
        path, weights = folder / "work/retrain.py", str(folder / "work/epoch_1.pth")
        assert "pvnas-tiny.json" not in path.read_text()
    video = str(motion_clips / (motion_clips / "val.txt").read_text().split()[0])
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
    run_process(sys.executable, "-c", code, cwd=tmp_path)
