# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""tools/train.py, tools/test.py and the launchers, on the shipped configs."""

from __future__ import annotations

import argparse
import importlib.util
import os
import pickle
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import mmaction
import numpy as np
import pytest
import torch
from mmengine.config import Config

from pvnas_mmaction import __version__, cli
from pvnas_mmaction.genotype import save_genotype
from pvnas_mmaction.search_space import SearchSpace

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "tools"
UPSTREAM_TOOLS = Path(mmaction.__file__).parent / ".mim" / "tools"
SEARCH, RETRAIN = (
    next((ROOT / "configs/pvnas").glob(f"pvnas-tiny_{kind}_*_motion-clips.py")).name
    for kind in ("search", "retrain")
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tool_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Callable[..., argparse.Namespace]:
    """``parse("train", "config.py", "--amp")``: the arguments that a tool sees."""

    def call(tool: str, *argv: str) -> argparse.Namespace:
        monkeypatch.setattr(sys, "argv", [tool, *argv])
        return load_tool(tool).parse_args()

    return call


@pytest.fixture
def run_tool(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run a tool in this process up to its user error; its one line on stderr."""

    def call(tool: str, *argv: str) -> str:
        monkeypatch.setattr(sys, "argv", [tool, *argv])
        monkeypatch.setenv("LOCAL_RANK", "0")
        with pytest.raises(SystemExit, match=f"^{cli.EXIT_USER_ERROR}$"):
            cli.run(load_tool(tool).main)
        lines = capsys.readouterr().err.splitlines()
        assert lines[-1] == "(PVNAS_DEBUG=1 shows where it was raised)"
        assert lines[-2].startswith("error: ")
        return lines[-2].removeprefix("error: ")

    return call


def run_process(
    *command: str, ok: bool = True, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=400,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHON": sys.executable, "PYTHONWARNINGS": "ignore"},
    )
    assert (done.returncode == 0) == ok, done.stdout[-5000:] + done.stderr[-5000:]
    return done


def write_config(path: Path, base: str, clips: Path, extra: str = "") -> Path:
    """A config that inherits a shipped one and reads the clips of this session."""
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


# options


FLAT = dict(
    default_scope="mmaction",
    optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
    default_hooks=dict(visualization=dict(type="VisualizationHook")),
    val_cfg=dict(),
    val_dataloader=dict(),
    val_evaluator=dict(type="AccMetric"),
    test_evaluator=dict(type="AccMetric"),
)


def upstream_merge(tool: str, cfg: Config, args: argparse.Namespace) -> Config:
    """What MMAction2's own tool makes of the same config and options."""
    spec = importlib.util.spec_from_file_location(
        f"upstream_{tool}", UPSTREAM_TOOLS / f"{tool}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.merge_args(cfg, args)


@pytest.mark.parametrize("tool", ["train", "test"])
def test_every_option_of_mmaction2_is_there(tool: str) -> None:
    upstream = (UPSTREAM_TOOLS / f"{tool}.py").read_text()
    options = set(re.findall(r"'(--[\w-]+)'", upstream))
    assert len(options) > 8
    helped = run_process(sys.executable, TOOLS / f"{tool}.py", "--help").stdout
    assert {option for option in options if option not in helped} == set()


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--work-dir", "elsewhere"],
        ["--resume"],
        ["--no-validate"],
        ["--seed", "3", "--diff-rank-seed", "--deterministic"],
        ["--cfg-options", "val_cfg.a=1", "list=[1,2]"],
    ],
    ids=lambda options: " ".join(options) or "none",
)
def test_train_options_do_what_upstream_does(parse: Callable, options: list) -> None:
    """Where upstream is right, the merged config is the same."""
    args = parse("train", "some/config.py", *options)
    ours = cli.merge_train_args(Config(FLAT), args).to_dict()
    theirs = upstream_merge("train", Config(FLAT), args).to_dict()
    for cfg in (ours, theirs):
        cfg["work_dir"] = os.path.normpath(cfg["work_dir"])
    # upstream spells out the defaults of Runner.set_randomness
    defaults = dict(seed=None, diff_rank_seed=False, deterministic=False)
    ours["randomness"] = {**defaults, **ours["randomness"]}
    assert ours == theirs


@pytest.mark.parametrize(
    "options",
    [
        ["--show-dir", "pictures", "--interval", "3", "--wait-time", "0.5"],
        ["--dump", "predictions.pkl"],
    ],
    ids=lambda options: options[0],
)
def test_test_options_do_what_upstream_does(
    parse: Callable, options: list, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "some.pth"
    torch.save({}, checkpoint)
    args = parse("test", "some/config.py", str(checkpoint), *options)
    ours = cli.merge_test_args(Config(FLAT), args)
    theirs = upstream_merge("test", Config(FLAT), args)
    assert ours.default_hooks == theirs.default_hooks
    assert ours.test_evaluator == theirs.test_evaluator
    assert ours.load_from == str(checkpoint)


def test_seed_wins_over_the_config_and_keeps_the_rest(parse: Callable) -> None:
    cfg = Config(dict(FLAT, randomness=dict(seed=1, deterministic=True)))
    args = parse("train", "config.py", "--seed", "3")
    assert cli.merge_train_args(cfg, args).randomness == dict(
        seed=3, deterministic=True
    )


def test_seed_of_the_config_stays_without_the_option(parse: Callable) -> None:
    cfg = Config(dict(FLAT, randomness=dict(seed=1)))
    merged = cli.merge_train_args(cfg, parse("train", "config.py", "--deterministic"))
    assert merged.randomness == dict(seed=1, deterministic=True)


@pytest.mark.parametrize("has_gpu", [True, False])
def test_amp_fits_the_machine(
    parse: Callable, monkeypatch: pytest.MonkeyPatch, has_gpu: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    args = parse("train", "config.py", "--amp")
    wrapper = cli.merge_train_args(Config(FLAT), args).optim_wrapper
    search = Config(dict(FLAT))
    search.optim_wrapper = dict(
        constructor="SearchOptimWrapperConstructor",
        weights=dict(optimizer=dict(type="SGD", lr=0.1)),
        alphas=dict(optimizer=dict(type="Adam", lr=0.1)),
    )
    search_wrapper = cli.merge_train_args(search, args).optim_wrapper
    assert search_wrapper.type == "AmpOptimWrapper"
    assert search_wrapper.loss_scale == "dynamic"
    assert search_wrapper.get("dtype") == (None if has_gpu else "bfloat16")
    if has_gpu:
        assert wrapper.type == "AmpOptimWrapper"
        assert wrapper.loss_scale == "dynamic"
    else:
        assert wrapper.type == "CPUAmpOptimWrapper"


def test_amp_refuses_another_wrapper(parse: Callable) -> None:
    cfg = Config(dict(FLAT, optim_wrapper=dict(type="ApexOptimWrapper")))
    with pytest.raises(ValueError, match=r"--amp: found optim_wrapper.type='Apex"):
        cli.merge_train_args(cfg, parse("train", "config.py", "--amp"))


def test_auto_scale_lr_wants_a_base_batch_size(parse: Callable) -> None:
    args = parse("train", "config.py", "--auto-scale-lr")
    with pytest.raises(ValueError, match=r"found no auto_scale_lr.base_batch_size"):
        cli.merge_train_args(Config(FLAT), args)
    option = "auto_scale_lr.base_batch_size=8"
    args = parse("train", "c.py", "--auto-scale-lr", "--cfg-options", option)
    merged = cli.merge_train_args(Config(FLAT), args)
    assert merged.auto_scale_lr == dict(enable=True, base_batch_size=8)


def test_resume_names_a_checkpoint(parse: Callable, tmp_path: Path) -> None:
    checkpoint = tmp_path / "epoch_1.pth"
    args = parse("train", "config.py", "--resume", str(checkpoint))
    with pytest.raises(FileNotFoundError, match=r"--resume: found no file .*epoch_1"):
        cli.merge_train_args(Config(FLAT), args)
    torch.save({}, checkpoint)
    merged = cli.merge_train_args(Config(FLAT), args)
    assert merged.resume is True and merged.load_from == str(checkpoint)


def test_options_for_pictures_need_the_hook(parse: Callable, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "c.pth")
    args = parse("test", "config.py", str(tmp_path / "c.pth"), "--show")
    cfg = Config(dict(FLAT, default_hooks=dict()))
    with pytest.raises(ValueError, match=r"found no default_hooks.visualization"):
        cli.merge_test_args(cfg, args)


def test_dump_wants_a_pickle(parse: Callable, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "c.pth")
    args = parse("test", "config.py", str(tmp_path / "c.pth"), "--dump", "a.json")
    with pytest.raises(ValueError, match=r"--dump: found 'a.json', expected FILE.pkl"):
        cli.merge_test_args(Config(FLAT), args)


def test_cfg_options_without_a_value(
    parse: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse("train", "config.py", "--cfg-options", "train_cfg.max_epochs")
    assert (
        "--cfg-options: expected key=value, found 'train_cfg.max_epochs'"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("launcher", "env"),
    [
        ("slurm", ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")),
        (
            "mpi",
            (
                "OMPI_COMM_WORLD_RANK",
                "OMPI_COMM_WORLD_SIZE",
                "OMPI_COMM_WORLD_LOCAL_RANK",
            ),
        ),
    ],
)
def test_ranks_of_other_launchers(
    monkeypatch: pytest.MonkeyPatch, launcher: str, env: tuple[str, ...]
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "unset")  # restored after the test
        monkeypatch.delenv(name)
    with pytest.raises(ValueError, match=f"--launcher {launcher}: found no .*{env[0]}"):
        cli._export_ranks(launcher)
    for name, value in zip((*env, "MASTER_ADDR"), ("5", "8", "1", "a"), strict=True):
        monkeypatch.setenv(name, value)
    cli._export_ranks(launcher)
    found = [os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    assert found == ["5", "8", "1"]
    assert os.environ["MASTER_PORT"] == "29500"


# what a user gets wrong


def test_error_no_config(run_tool: Callable, tmp_path: Path) -> None:
    path = tmp_path / "none.py"
    assert run_tool("train", str(path)) == f"config: found no file {path}"


def test_error_config_that_does_not_parse(run_tool: Callable, tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("model = dict(\n")
    assert run_tool("train", str(path)).startswith(f"config {path}: ")


def test_error_no_checkpoint(run_tool: Callable, tmp_path: Path) -> None:
    config = str(ROOT / "configs/pvnas" / RETRAIN)
    path = tmp_path / "none.pth"
    assert run_tool("test", config, str(path)) == f"checkpoint: found no file {path}"


@pytest.mark.parametrize("share", [0, 0.5])
def test_error_truncated_checkpoint(
    run_tool: Callable, tmp_path: Path, share: float
) -> None:
    path = tmp_path / "epoch_1.pth"
    torch.save(dict(state_dict=dict(weight=torch.zeros(100))), path)
    cli.check_checkpoint(str(path), "checkpoint")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    config = str(ROOT / "configs/pvnas" / RETRAIN)
    line = run_tool("test", config, str(path))
    assert line.startswith(f"checkpoint: found a truncated file {path}, expected")
    line = run_tool("train", config, "--resume", str(path))
    assert line.startswith(f"--resume: found a truncated file {path}, expected")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_error_no_annotation_file(
    run_tool: Callable, tmp_path: Path, split: str
) -> None:
    config = str(ROOT / "configs/pvnas" / RETRAIN)
    option = f"{split}_dataloader.dataset.ann_file"
    missing = str(tmp_path / "none.txt")
    given = tmp_path / "given.txt"
    given.write_text("a.mp4 0\n")
    options = [
        f"{name}_dataloader.dataset.ann_file={given}"
        for name in ("train", "val", "test")
        if name != split
    ]
    argv = [config, "--cfg-options", f"{option}={missing}", *options]
    if split == "test":
        torch.save({}, tmp_path / "c.pth")
        argv.insert(1, str(tmp_path / "c.pth"))
    line = run_tool("test" if split == "test" else "train", *argv)
    assert line.startswith(f"{option}: found no file {missing}, expected")


def test_error_empty_list(run_tool: Callable, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n  \n")
    option = f"train_dataloader.dataset.ann_file={empty}"
    line = run_tool(
        "train", str(ROOT / "configs/pvnas" / RETRAIN), "--cfg-options", option
    )
    assert line == (
        f"train_dataloader.dataset.ann_file: found no line in {empty}, expected one "
        "video and its class id per line"
    )


def test_error_in_a_wrapped_data_set(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a.mp4 0\n")
    inner = [dict(type="V", data_root=str(tmp_path), ann_file=f) for f in ("a.txt", "")]
    missing = dict(type="V", data_root=str(tmp_path), ann_file="b.txt")
    concat = dict(type="ConcatDataset", datasets=[*inner, missing])
    cfg = Config(dict(train_dataloader=dict(dataset=dict(type="R", dataset=concat))))
    with pytest.raises(
        FileNotFoundError,
        match=r"train_dataloader.dataset.dataset.datasets\[2\].ann_file: found no file",
    ):
        cli.check_annotations(cfg, ("train", "val"))


def test_error_unknown_name_in_the_config(run_tool: Callable, tmp_path: Path) -> None:
    (tmp_path / "given.txt").write_text("a.mp4 0\n")
    line = run_tool(
        "train",
        str(ROOT / "configs/pvnas" / RETRAIN),
        "--work-dir",
        str(tmp_path),
        "--cfg-options",
        "model.backbone.type=NoSuchNet",
        f"train_dataloader.dataset.ann_file={tmp_path / 'given.txt'}",
        f"val_dataloader.dataset.ann_file={tmp_path / 'given.txt'}",
    )
    assert "NoSuchNet is not in the mmaction::model registry" in line


def test_error_traceback_on_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PVNAS_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["train", str(tmp_path / "none.py")])
    with pytest.raises(FileNotFoundError, match="config: found no file"):
        cli.run(load_tool("train").main)


def test_error_of_the_program_keeps_its_traceback() -> None:
    def main() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        cli.run(main)


def test_error_from_a_worker_of_a_data_loader() -> None:
    class Bad(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> int:
            raise ValueError("label: found 9, expected less than 8")

    with pytest.raises(ValueError, match="Original Traceback") as info:
        list(torch.utils.data.DataLoader(Bad(), num_workers=1))
    assert cli.error_line(info.value) == "label: found 9, expected less than 8"


# launchers


ECHO = '#!/bin/sh\nfor a in "$@"; do echo "[$a]"; done\necho "PYTHONPATH=$PYTHONPATH"\n'
SPACED = "model.name=two words"


def echoed(script: str, args: list[str], tmp_path: Path, **env: str) -> list[str]:
    """Arguments that a launcher passes on to the program that it starts."""
    for name in ("echo_python", "srun"):
        (tmp_path / name).write_text(ECHO)
        (tmp_path / name).chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    python = str(tmp_path / "echo_python")
    done = subprocess.run(
        [str(TOOLS / script), *args],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": path, "PYTHON": python, **env},
    )
    *lines, pythonpath = done.stdout.splitlines()
    first = pythonpath.removeprefix("PYTHONPATH=").split(os.pathsep)[0]
    assert Path(first).resolve() == ROOT
    return [line[1:-1] for line in lines]


@pytest.mark.parametrize("tool", ["train", "test"])
def test_dist_script_passes_every_argument_whole(tool: str, tmp_path: Path) -> None:
    files = ["my config.py"] + ["my checkpoint.pth"] * (tool == "test")
    args = echoed(
        f"dist_{tool}.sh",
        [*files, "3", "--cfg-options", SPACED, "a=[1, 2]"],
        tmp_path,
        NNODES="2",
        NODE_RANK="1",
        PORT="12345",
        MASTER_ADDR="10.0.0.1",
    )
    assert args == [
        "-m",
        "torch.distributed.run",
        "--nnodes=2",
        "--node_rank=1",
        "--master_addr=10.0.0.1",
        "--master_port=12345",
        "--nproc_per_node=3",
        str(TOOLS / f"{tool}.py"),
        *files,
        "--launcher",
        "pytorch",
        "--cfg-options",
        SPACED,
        "a=[1, 2]",
    ]


@pytest.mark.parametrize("tool", ["train", "test"])
def test_slurm_script_passes_every_argument_whole(tool: str, tmp_path: Path) -> None:
    files = ["my config.py"] + ["my checkpoint.pth"] * (tool == "test")
    args = echoed(
        f"slurm_{tool}.sh",
        ["part", "my job", *files, "--cfg-options", SPACED],
        tmp_path,
        GPUS="4",
        GPUS_PER_NODE="2",
        SRUN_ARGS="--exclusive --mem=1G",
    )
    assert args == [
        "-p",
        "part",
        "--job-name=my job",
        "--gres=gpu:2",
        "--ntasks=4",
        "--ntasks-per-node=2",
        "--cpus-per-task=5",
        "--kill-on-bad-exit=1",
        "--exclusive",
        "--mem=1G",
        str(tmp_path / "echo_python"),
        "-u",
        str(TOOLS / f"{tool}.py"),
        *files,
        "--launcher",
        "slurm",
        "--cfg-options",
        SPACED,
    ]


@pytest.mark.parametrize("script", sorted(TOOLS.glob("*_t*.sh")), ids=lambda p: p.name)
def test_script_without_arguments_says_how_to_use_it(script: Path) -> None:
    done = subprocess.run([str(script)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


# whole runs


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
    assert "type='CPUAmpOptimWrapper'" in log
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


def accuracy(predictions: list[dict]) -> float:
    """Top-1 accuracy, from the dumped scores alone."""
    hits = [int(np.argmax(p["pred_score"])) == int(p["gt_label"]) for p in predictions]
    return float(np.mean(hits))


def reported_accuracy(work_dir: Path) -> float:
    return float(re.findall(r"acc/top1: ([\d.]+)", full_log(work_dir))[-1])


@pytest.fixture(scope="module")
def tested(trained: Path) -> list[dict]:
    """Predictions of tools/test.py for the checkpoint of ``trained``."""
    run_process(
        sys.executable,
        TOOLS / "test.py",
        trained / "retrain.py",
        trained / "work" / "epoch_1.pth",
        "--work-dir",
        trained / "tested",
        "--dump",
        trained / "ours.pkl",
    )
    return pickle.loads((trained / "ours.pkl").read_bytes())


def test_test_reports_the_accuracy_of_what_it_dumps(
    trained: Path, tested: list[dict]
) -> None:
    assert len(tested) == 16
    assert reported_accuracy(trained / "tested") == pytest.approx(
        accuracy(tested), abs=1e-4
    )


def test_upstream_test_predicts_the_same(trained: Path, tested: list[dict]) -> None:
    """MMAction2's own tool, unchanged, on the same config and checkpoint."""
    run_process(
        sys.executable,
        UPSTREAM_TOOLS / "test.py",
        trained / "retrain.py",
        trained / "work" / "epoch_1.pth",
        "--work-dir",
        trained / "upstream",
        "--dump",
        trained / "upstream.pkl",
    )
    theirs = pickle.loads((trained / "upstream.pkl").read_bytes())
    for a, b in zip(tested, theirs, strict=True):
        torch.testing.assert_close(a["pred_score"], b["pred_score"])


def free_port() -> str:
    import socket

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

        from pvnas_mmaction import cli

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
    )
    checkpoint = torch.load(tmp_path / "work" / "epoch_3.pth", weights_only=True)
    alphas = [v for k, v in checkpoint["state_dict"].items() if "alphas" in k]
    assert alphas and all(alpha.dtype == torch.float32 for alpha in alphas)
