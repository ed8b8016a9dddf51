# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Whole runs of tools/train.py and tools/test.py on the shipped configs."""

from __future__ import annotations

import pickle
import re
import socket
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from tool_processes import RETRAIN, ROOT, SEARCH, TOOLS, UPSTREAM_TOOLS, run_process

from pvnas_mmaction import __version__
from pvnas_mmaction.space.genotype import save_genotype
from pvnas_mmaction.space.search_space import SearchSpace

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def write_config(path: Path, base: str, clips: Path, extra: str = "") -> Path:
    """A config that inherits a shipped one and reads the rendered clips."""
    loaders = "".join(
        f"{split}_dataloader = dict(batch_size=4, dataset=dict(\n"
        f"    ann_file='{clips / list_}', data_prefix=dict(video='{clips}')))\n"
        for split, list_ in (
            ("train", "train.txt"),
            ("val", "val.txt"),
            ("test", "val.txt"),
        )
    )
    path.write_text(
        f"_base_ = ['{ROOT / 'configs/pvnas' / base}']\n"
        + loaders
        + "default_hooks = dict(logger=dict(interval=1))\n"
        + extra
    )
    return path


def full_log(work_dir: Path) -> str:
    """The newest log of a work dir, with the config that it starts with."""
    return max(work_dir.glob("*/*.log"), key=lambda path: path.parent.name).read_text()


@pytest.fixture(scope="module")
def trained(motion_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work dir after one epoch of the retrain config, which sets a seed itself."""
    folder = tmp_path_factory.mktemp("tools")
    space = SearchSpace.from_config(
        Config.fromfile(ROOT / "configs/pvnas/_base_/spaces/tiny.py").space
    )
    genotype = space.genotype([1] * len(space.layers), {})
    save_genotype(genotype, folder / "genotype.json")
    config = write_config(
        folder / "retrain.py",
        RETRAIN,
        motion_clips,
        f"model = dict(backbone=dict(genotype='{folder / 'genotype.json'}'))\n"
        "randomness = dict(seed=1)\n",
    )
    run_process(
        sys.executable,
        TOOLS / "train.py",
        config,
        "--work-dir",
        folder / "work",
        "--seed",
        "3",
        "--amp",
        "--auto-scale-lr",
        "--cfg-options",
        "auto_scale_lr.base_batch_size=8",
        "train_cfg.max_epochs=1",
        "param_scheduler=None",
        cwd=folder,
    )
    return folder


def test_run_obeys_the_options(trained: Path) -> None:
    log = full_log(trained / "work")
    assert "seed: 3" in log
    assert "Command: " in log and "--seed 3" in log
    assert f"Version: pvnas_mmaction {__version__}" in log
    assert "type='BFloat16OptimWrapper'" in log
    assert "Scaling the original LR by 0.5" in log
    cfg = Config.fromfile(next((trained / "work").glob("*.py")))
    lr = cfg.optim_wrapper.optimizer.lr
    assert f"lr: {lr / 2:.4e}" in log
    assert "Epoch(train) [1][8/8]" in log  # 32 clips in batches of 4
    assert "Epoch(val) [1]" in log


def test_run_resumes_from_the_latest_checkpoint(trained: Path) -> None:
    work_dir = trained / "resumed"
    work_dir.mkdir()
    checkpoint = work_dir / "epoch_1.pth"
    checkpoint.write_bytes((trained / "work" / "epoch_1.pth").read_bytes())
    (work_dir / "last_checkpoint").write_text(str(checkpoint))
    run_process(
        sys.executable,
        TOOLS / "train.py",
        trained / "retrain.py",
        "--work-dir",
        work_dir,
        "--resume",
        "--no-validate",
        "--cfg-options",
        "train_cfg.max_epochs=2",
        "param_scheduler=None",
    )
    log = full_log(work_dir)
    assert "resumed epoch: 1, iter: 8" in log
    assert "Epoch(train) [2][8/8]" in log
    assert "Epoch(train) [1]" not in log and "Epoch(val)" not in log
    assert (work_dir / "epoch_2.pth").is_file()


def test_run_does_not_resume_with_another_number_of_classes(trained: Path) -> None:
    done = run_process(
        sys.executable,
        TOOLS / "train.py",
        trained / "retrain.py",
        "--work-dir",
        trained / "other_classes",
        "--resume",
        trained / "work" / "epoch_1.pth",
        "--cfg-options",
        "model.cls_head.num_classes=9",
        ok=False,
    )
    message = (
        "error: --resume: found cls_head.fc_cls.weight of shape (8, 64) in the "
        "checkpoint, expected (9, 64). Resume with the config that it was written with"
    )
    assert done.returncode == 2
    assert message in done.stderr


def accuracy(predictions: list[dict]) -> float:
    """Top-1 accuracy, from the dumped scores alone."""
    hits = [int(np.argmax(p["pred_score"])) == int(p["gt_label"]) for p in predictions]
    return float(np.mean(hits))


def reported_accuracy(work_dir: Path) -> float:
    return float(re.findall(r"acc/top1: ([\d.]+)", full_log(work_dir))[-1])


def predictions(tool: Path, trained: Path, name: str) -> list[dict]:
    """What a test tool predicts with the checkpoint of ``trained``."""
    dump = trained / f"{name}.pkl"
    run_process(
        sys.executable,
        tool,
        trained / "retrain.py",
        trained / "work" / "epoch_1.pth",
        "--work-dir",
        trained / name,
        "--dump",
        dump,
    )
    return pickle.loads(dump.read_bytes())


@pytest.fixture(scope="module")
def tested(trained: Path) -> list[dict]:
    return predictions(TOOLS / "test.py", trained, "tested")


def test_test_reports_the_accuracy_of_what_it_dumps(
    trained: Path, tested: list[dict]
) -> None:
    assert len(tested) == 16
    assert reported_accuracy(trained / "tested") == pytest.approx(
        accuracy(tested), abs=1e-4
    )


def test_upstream_test_predicts_the_same(trained: Path, tested: list[dict]) -> None:
    """MMAction2's own tool, unchanged, on the same config and checkpoint."""
    theirs = predictions(UPSTREAM_TOOLS / "test.py", trained, "upstream")
    for a, b in zip(tested, theirs, strict=True):
        torch.testing.assert_close(a["pred_score"], b["pred_score"])


def free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="looks at the CPU's group")
def test_dist_train_and_test_on_two_processes(
    trained: Path, tested: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half the iterations; testing on two processes gives one process's predictions."""
    monkeypatch.setenv("PORT", free_port())
    run_process(
        TOOLS / "dist_train.sh",
        trained / "retrain.py",
        "2",
        "--work-dir",
        trained / "dist",
        "--no-validate",
        "--cfg-options",
        "train_cfg.max_epochs=1",
    )
    log = full_log(trained / "dist")
    assert "Epoch(train) [1][4/4]" in log  # 32 clips, 2 processes, batches of 4
    monkeypatch.setenv("PORT", free_port())
    run_process(
        TOOLS / "dist_test.sh",
        trained / "retrain.py",
        trained / "work" / "epoch_1.pth",
        "2",
        "--work-dir",
        trained / "dist_tested",
        "--dump",
        trained / "dist.pkl",
    )
    both = pickle.loads((trained / "dist.pkl").read_bytes())
    for a, b in zip(tested, both, strict=True):
        torch.testing.assert_close(a["pred_score"], b["pred_score"])


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads from /proc")
def test_run_ends_the_threads_of_a_group() -> None:
    """Though a cycle of references, as in a runner, holds on to it."""
    code = """
        import os

        import torch
        from torch import distributed

        from pvnas_mmaction.apis import cli

        class Runner:
            def __init__(self):
                linear = torch.nn.Linear(2, 2)
                self.model = torch.nn.parallel.DistributedDataParallel(linear)
                self.itself = self

        def threads():
            tasks = "/proc/self/task"
            return [open(f"{tasks}/{id}/comm").read() for id in os.listdir(tasks)]

        def main():
            url = "tcp://127.0.0.1:PORT"
            distributed.init_process_group("gloo", url, rank=0, world_size=1)
            Runner()
            assert any("gloo" in name for name in threads()), threads()

        cli.run(main)
        assert not any("gloo" in name for name in threads()), threads()
    """
    code = textwrap.dedent(code).replace("PORT", free_port())
    run_process(sys.executable, "-c", code, cwd=ROOT)


def test_search_runs_with_amp(motion_clips: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "search.py", SEARCH, motion_clips)
    run_process(
        sys.executable,
        TOOLS / "train.py",
        config,
        "--work-dir",
        tmp_path / "work",
        "--amp",
        "--no-validate",
        "--cfg-options",
        "train_cfg.max_epochs=3",
        "train_cfg.min_steps=0",
    )
    checkpoint = torch.load(tmp_path / "work" / "epoch_3.pth", weights_only=True)
    alphas = [v for k, v in checkpoint["state_dict"].items() if "alphas" in k]
    assert alphas and all(alpha.dtype == torch.float32 for alpha in alphas)


def test_a_shipped_search_on_two_processes(motion_clips, tmp_path):
    """By the command that the README gives for several GPUs."""
    config = write_config(
        tmp_path / "search.py",
        SEARCH,
        motion_clips,
        "train_dataloader.update(batch_size=2)\n"
        "train_cfg = dict(max_epochs=3, min_steps=0, num_ranked=1)\n",
    )
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    work_dir = tmp_path / "work"
    command = ["env", f"PORT={port}", TOOLS / "dist_train.sh", config, "2"]
    done = run_process(*command, "--work-dir", work_dir, "--seed", "0")
    assert "Search done: 3 genotype(s)" in done.stdout + done.stderr
    assert (work_dir / "search" / "genotype.json").is_file()
