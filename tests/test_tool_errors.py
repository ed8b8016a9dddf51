"""Options of the tools; what a user gets wrong: one line that names the field, exit
status 2; and what happens to all other errors, and to Ctrl-C."""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from mmaction.registry import OPTIMIZERS
from mmengine.config import Config
from tool_processes import (
    CONFIGS,
    RETRAIN,
    ROOT,
    SEARCH,
    TOOLS,
    UPSTREAM_TOOLS,
    data_options,
    free_port,
    load_tool,
)

from pvnas_mmaction.apis import cli, errors, termination
from pvnas_mmaction.apis.errors import user_line
from pvnas_mmaction.apis.run_checks import RunCheckHook
from pvnas_mmaction.engine.checkpoints import latest_checkpoint
from pvnas_mmaction.space.checks import COUNT

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
CONFIG = str(CONFIGS / RETRAIN)
CUSTOM = str(next(CONFIGS.glob("pvnas-tiny_retrain_*_custom-rgb.py")))
LISTS = [f"{s}_dataloader.dataset.ann_file={{dir}}/a.txt" for s in ("train", "val")]
CHECKPOINT = "{dir}/c.pth"
DATA, OTHER = "train_dataloader.dataset", "another value that"
S_GENOTYPE = f"model.backbone.genotype={CONFIGS}/genotypes/mb_t1_compact.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of all kinds that commands name wrongly."""
    texts = {
        "a.txt": "a.mp4 0\n",
        "syntax.py": "model = dict(\n",
        "one.py": "x = 1\n",
        "twice.py": "_base_ = ['one.py', 'two.py']",
        "two.py": "x = 2\n",
        "part.py": "model = dict(type='Recognizer3D')\n",
        "g.json": (CONFIGS / "genotypes" / "pvnas-tiny.json").read_text(),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    torch.save(dict(state_dict=dict(weight=torch.zeros(100))), tmp_path / "c.pth")
    whole = (tmp_path / "c.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pth").touch()
    torch.save([torch.zeros(100)], tmp_path / "list.pth")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "last_checkpoint").write_text(f"{tmp_path}/half.pth")
    return tmp_path


CASES = [
    # configs
    ("train {dir}/none.py", "config: expected a file, got {dir}/none.py"),
    ("train nopack::x.py", "nopack::x.py: expected an installed package"),
    ("train {dir}/syntax.py", "config {dir}/syntax.py: "),
    ("train {dir}/twice.py", "config {dir}/twice.py: expected a config, got s"),
    ("train {dir}/one.py", "config {dir}/one.py: expected a model, got none"),
    ("train {dir}/part.py", "config {dir}/part.py: expected a train_dataloader"),
    (f"train {CONFIG} -o {DATA}.pipeline.30.type=Flip", "Index 30 exceeds"),
    ("show_space {dir}/g.json", "config {dir}/g.json: expected a config, got a genot"),
    # fields of every config, and those that a class refuses
    *((f"train {CONFIG} --work-dir {{dir}}/w -o {' '.join(LISTS)} {option}",
       f"{option.split('=')[0]}: expected {expected}, got ") for option, expected in (
        ("model=abc", "a mapping"), ("model.cls_head=3", "a mapping"),
        (f"{DATA}.data_prefix=clips", "a mapping"),
        ("train_cfg.max_epochs=0", COUNT[0]), ("train_cfg.max_epochs=True", COUNT[0]),
        ("train_cfg.val_interval=0", COUNT[0]), (f"{DATA}.num_classes=abc", COUNT[0]),
        ("train_dataloader.batch_size=abc", COUNT[0]), ("load_from=", "a name"),
        ("val_dataloader.num_workers=-1", "a number in [0, inf)"),
        ("optim_wrapper.optimizer.lr=nan", "a number"), ("resume=c.pth", "one of True"
         ", False"), (f"{DATA}.ann_file={{dir}}", "a list of lines 'path class_id'"),
        ("model.data_preprocessor.std=0", "numbers above 0"), ("default_scope=abc", "on"
         "e of mmaction, pvnas_mmaction"),
        ("model.data_preprocessor.mean=abc", f"{OTHER} ActionDataPreprocessor takes"),
        ("model.backbone.width=3", f"{OTHER} PVNASNet takes"),
        ("model.backbone.out_indices=[9]", "indices from 0 to 4, the output behind al"
         "l stages"), ("model.backbone.type=NoSuchNet", "another value"))),
    # checkpoints
    (f"test {CONFIG} {{dir}}/none.pth", "checkpoint: expected a checkpoint, got no "),
    (f"test {CONFIG} {{dir}}/half.pth", "checkpoint: expected a whole checkpoint"),
    (f"train {CONFIG} --work-dir {{dir}}/half --resume", "--resume: expected a whole"),
    (f"train {CONFIG} -o load_from={{dir}}/empty.pth", "load_from: expected a whole "),
    (f"train {CONFIG} -o load_from={{dir}}/g.json", "expected a whole "),
    (f"test {CONFIG} {{dir}}/list.pth", "checkpoint {dir}/list.pth: expected weights"),
    ("derive_genotype {dir}/half/x --out {dir}/m", "expected a checkpoint, got no fi"),
    (f"train {CONFIG} --work-dir=", "--work-dir: expected a name, got ''"),
    # lists
    (f"test {CONFIG} {CHECKPOINT} -o test_dataloader.dataset.ann_file={{dir}}/no",
     "test_dataloader.dataset.ann_file: expected a list of lines 'path class_id', "),
    (f"train {CUSTOM}", "got 'data/custom/train.txt', which does not exist (looked"),
    # folders
    ("export_onnx c.py none --out {dir}", "--out: expected the name of a file"),
    (f"train {CONFIG} --work-dir {{dir}}/a.txt -o {' '.join(LISTS)}",
     "--work-dir: expected a folder that can be written to, got {dir}/a.txt (File ex"),
    # models
    (f"train {CONFIG} --work-dir {{dir}}/w -o {' '.join(LISTS)} {S_GENOTYPE}",
     "model.cls_head.in_channels: expected 256, the output width of the backbone, got"),
    (f"train {CONFIGS / SEARCH} --work-dir {{dir}}/w -o {' '.join(LISTS)} "
     "model.cls_head.in_channels=32", "model.cls_head.in_channels: expected 64, the "),
    (f"export_onnx {CONFIGS / SEARCH} none --out {{dir}}/m", "model.backbone.type: e"),
    # options
    (f"train {CONFIG} --amp -o optim_wrapper.type=ApexOptimWrapper",
     "--amp: expected an optim_wrapper.type of "),
    (f"train {CONFIG} --auto-scale-lr", "--auto-scale-lr: expected auto_scale_lr.base"),
    (f"test {CONFIG} {CHECKPOINT} --dump a.json", "--dump: expected FILE.pkl, got 'a."),
    (f"test {CONFIG} {CHECKPOINT} --show", "--show, --show-dir: expected a model of 2"),
    (f"train {CONFIG} --launcher pytorch -o {' '.join(LISTS)}",
     "environment variable RANK expected, but not set"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "message"), CASES, ids=[c[1][:40] for c in CASES])
def test_one_line_that_names_the_field(
    command, message, folder, call_tool, monkeypatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    if "pytorch" in command and torch.cuda.is_available():
        pytest.skip("about machines without a GPU")
    monkeypatch.chdir(folder)
    command = command.replace(" -o ", " --cfg-options ")
    line = call_tool(*command.format(dir=folder).split())
    assert message.format(dir=folder) in line
    assert not (folder / "m").exists()


# -- which errors are the user's ---------------------------------------------------


def test_a_setting_that_a_class_does_not_take() -> None:
    """And not what goes wrong within the program."""
    cfg = Config(dict(optimizer=dict(type="SGD", lr="fast")))
    with pytest.raises(TypeError) as caught:
        OPTIMIZERS.build(dict(cfg.optimizer, params=[torch.zeros(1)]))
    line = "optimizer.lr: expected another value that SGD takes, got 'fast' (TypeErr"
    assert user_line(caught.value).startswith(line)
    assert user_line(TypeError("f() got an unexpected keyword argument")) is None


def test_tracebacks(monkeypatch) -> None:
    """On request, and of what is no mistake of a user."""

    def fail(error: BaseException) -> None:
        raise error

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        cli.run(lambda: fail(RuntimeError("mat1 and mat2 shapes cannot be multiplied")))
    monkeypatch.setenv("PVNAS_DEBUG", "0")
    with pytest.raises(SystemExit, match=f"^{errors.EXIT_USER_ERROR}$"):
        cli.run(lambda: fail(FileNotFoundError("none")))
    with pytest.raises(SystemExit, match=f"^{errors.EXIT_INTERRUPTED}$"):
        cli.run(lambda: fail(KeyboardInterrupt()))
    of_a_worker = ValueError("Original Traceback:\n  File ...\nValueError: label: bad")
    assert user_line(of_a_worker) == "label: bad"
    monkeypatch.setenv("PVNAS_DEBUG", "1")
    with pytest.raises(FileNotFoundError, match="none"):
        cli.run(lambda: fail(FileNotFoundError("none")))


# -- while it runs -----------------------------------------------------------------


def test_the_log_file_has_the_traceback(motion_clips, tmp_path, call_tool, monkeypatch):
    """Of a mistake that shows only once training has started; the terminal has one
    line."""
    error = Mock(side_effect=ValueError("a: expected b, got c"))
    monkeypatch.setattr(RunCheckHook, "after_train_iter", error)
    argv = ["--work-dir", tmp_path, "--cfg-options", *data_options(motion_clips)]
    assert call_tool("train", CONFIG, *argv) == "a: expected b, got c"
    log = next(tmp_path.glob("*/*.log")).read_text()
    assert "Traceback (most recent call last)" in log
    assert log.endswith("ValueError: a: expected b, got c\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "number", "ranks"),
    [
        (RETRAIN, signal.SIGINT, 1), (SEARCH, signal.SIGINT, 1),
        (RETRAIN, signal.SIGTERM, 1), (SEARCH, signal.SIGTERM, 1),
        (SEARCH, signal.SIGTERM, 2),
    ],
)  # fmt: skip
def test_ended_by_a_signal(config, number, ranks, motion_clips, tmp_path) -> None:
    """To all processes, as of a terminal or Slurm: one line that says how to go on, and
    the exit status that shells expect; after SIGTERM a search has a checkpoint of that
    step."""
    command = [sys.executable, TOOLS / "train.py", CONFIGS / config]
    if ranks > 1:
        command = [TOOLS / "dist_train.sh", CONFIGS / config, ranks]
    command += ["--work-dir", tmp_path / "work", "--cfg-options"]
    command += [*data_options(motion_clips), "train_cfg.max_epochs=1000"]
    command += ["default_hooks.logger.interval=1", "train_dataloader.num_workers=2"]
    command += [f"train_dataloader.persistent_workers={config == SEARCH}"]
    env = {**os.environ, "PYTHON": sys.executable, "PORT": free_port()}
    options = dict(cwd=ROOT, env=env, text=True, start_new_session=True)
    # A job in the background, as of some CI, would ignore it.
    options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    command, out = list(map(str, command)), subprocess.PIPE
    with (
        (tmp_path / "err").open("w") as err,
        subprocess.Popen(command, stdout=out, stderr=err, **options) as process,
    ):
        try:
            for line in process.stdout:
                if "Epoch(train)" in line:
                    break
            os.killpg(process.pid, number)
            if number == signal.SIGTERM:  # `timeout` sends it twice
                os.killpg(process.pid, number)
            process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 128 + number
    *_, line = (tmp_path / "err").read_text().splitlines()
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert line.startswith(f"{word}: ") and "--resume" in line
    assert "Traceback" not in (tmp_path / "err").read_text()
    if config == SEARCH and number == signal.SIGTERM:
        last = latest_checkpoint(tmp_path / "work")
        found = torch.load(last, weights_only=True)
        assert found["meta"]["iter"] == found["pvnas_search"]["num_steps"] > 0
        assert Path(last).name == f"iter_{found['meta']['iter']}.pth"


# -- options -----------------------------------------------------------------------


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Callable[..., argparse.Namespace]:
    """``parse("train", "config.py", "--amp")``: the arguments that a tool sees."""

    def call(tool: str, *argv: str) -> argparse.Namespace:
        monkeypatch.setattr(sys, "argv", [tool, *argv])
        monkeypatch.setenv("LOCAL_RANK", "0")
        return load_tool(tool).parse_args()

    return call


FLAT = dict(
    optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
    default_hooks=dict(visualization=dict(type="VisualizationHook")),
    test_evaluator=dict(type="AccMetric"),
)


@pytest.mark.parametrize("tool", ["train", "test"])
def test_every_option_of_mmaction2_is_there(tool, parse, capsys) -> None:
    options = re.findall(r"'(--[\w-]+)'", (UPSTREAM_TOOLS / f"{tool}.py").read_text())
    assert len(options) > 8
    with pytest.raises(SystemExit):
        parse(tool, "--help")
    helped = capsys.readouterr().out
    assert {option for option in options if option not in helped} == set()


def test_resume_without_a_checkpoint_starts_from_the_same_weights(parse, tmp_path):
    """A run that was killed before its first checkpoint starts again as it did."""
    weights = str(tmp_path / "weights.pth")
    torch.save(dict(weight=torch.zeros(1)), weights)
    for load_from, resume in ((None, True), (weights, False)):
        work_dir = ["--work-dir", str(tmp_path / "runs")]
        args = parse("train", "config.py", "--resume", *work_dir)
        merged = cli.merge_train_args(Config(dict(FLAT, load_from=load_from)), args)
        assert (merged.resume, merged.load_from) == (resume, load_from)
    shutil.copy(weights, tmp_path / "epoch_2.pth")
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "epoch_2.pth"))
    for value in ([], [str(tmp_path / "epoch_2.pth")]):
        args = parse("train", "c.py", "--work-dir", str(tmp_path), "--resume", *value)
        merged = cli.merge_train_args(Config(dict(FLAT, load_from="other.pth")), args)
        assert merged.resume and merged.load_from == str(tmp_path / "epoch_2.pth")


def test_cfg_options_keep_the_spaces_of_a_text(parse) -> None:
    for text, value in {
        "/my clips/train.txt": "/my clips/train.txt",
        "'/my clips/(old) train.txt'": "/my clips/(old) train.txt",
        "(-1, 128)": (-1, 128),
        "a, b": ["a", "b"],
        "None": None,
        "1e-3": 1e-3,
    }.items():
        args = parse("train", "config.py", "--cfg-options", f"key={text}")
        assert args.cfg_options == dict(key=value)
    for option in ("train_cfg.max_epochs", "scale=[1,(2"):  # which cannot be read
        with pytest.raises(SystemExit, match="2"):
            parse("train", "config.py", "--cfg-options", option)


def test_options_reach_the_config(parse, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = ["--diff-rank-seed", "--deterministic", "--cfg-options", "work_dir=007"]
    args = parse("train", "config.py", "--amp", "--seed", "0", *options)
    cfg = cli.merge_train_args(Config(dict(FLAT, randomness=dict(seed=3))), args)
    assert cfg.randomness.seed == 0
    assert cfg.randomness.diff_rank_seed and cfg.randomness.deterministic
    assert cfg.optim_wrapper.type == "BFloat16OptimWrapper" and cfg.work_dir == "007"
    torch.save(dict(weight=torch.zeros(1)), tmp_path / "c.pth")
    argv = [tmp_path / "c.pth", "--dump", tmp_path / "p.pkl", "--show-dir", tmp_path]
    cfg = cli.merge_test_args(Config(FLAT), parse("test", "c.py", *map(str, argv)))
    dump = dict(type="DumpResults", out_file_path=str(tmp_path / "p.pkl"))
    assert cfg.test_evaluator == [FLAT["test_evaluator"], dump]
    assert cfg.default_hooks.visualization.out_dir == str(tmp_path)


class Hanging(torch.utils.data.Dataset):
    """A data set whose reader never returns."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        time.sleep(1000)


def test_a_reader_that_hangs_is_an_error(monkeypatch):
    monkeypatch.setattr(termination, "PATIENCE", 1.0)
    sampler = dict(type="DefaultSampler", shuffle=False)
    config = dict(dataset=Hanging(), sampler=sampler, batch_size=1, num_workers=1)
    loader = termination.TerminableRunner.build_dataloader(config)
    with pytest.raises(RuntimeError, match="timed out") as caught:
        next(iter(loader))
    assert "take PVNASVideoDataset" in user_line(caught.value)
