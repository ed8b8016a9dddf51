# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""What a user gets wrong when calling a tool: one line that says what to do."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from mmaction.registry import MODELS
from mmengine.config import Config
from tool_processes import RETRAIN, ROOT, SEARCH, load_tool

from pvnas_mmaction.apis import cli
from pvnas_mmaction.apis.config_checks import check_annotations
from pvnas_mmaction.apis.errors import error_line, is_user_error
from pvnas_mmaction.engine.checkpoint_files import check_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


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


def test_error_no_config(run_tool: Callable, tmp_path: Path) -> None:
    path = tmp_path / "none.py"
    assert run_tool("train", str(path)) == f"config: found no file {path}"


def test_error_config_that_does_not_parse(run_tool: Callable, tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("model = dict(\n")
    assert run_tool("train", str(path)).startswith(f"config {path}: ")


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.py", "a = undefined", "NameError: name 'undefined' is not defined"),
        ("a.py", "_base_ = ['b.py']\na = _base_.a", "AttributeError: "),
        ("a.py", "_base_ = ['b.py', 'c.py']", "KeyError: Duplicate key is not allowed"),
        ("a.yaml", "a: [1", "ParserError: "),
    ],
)
def test_error_in_a_config(
    run_tool: Callable, tmp_path: Path, name: str, text: str, reason: str
) -> None:
    for other in ("b.py", "c.py"):
        (tmp_path / other).write_text("x = 1\n")
    (tmp_path / name).write_text(text)
    line = run_tool("train", str(tmp_path / name))
    assert line.startswith(f"config {tmp_path / name}: {reason}")


@pytest.mark.parametrize("tool", ["train", "test", "export_onnx"])
def test_error_config_without_a_model(
    run_tool: Callable, tmp_path: Path, tool: str
) -> None:
    torch.save({}, tmp_path / "c.pth")
    argv = [str(ROOT / "configs/pvnas/_base_/default_runtime.py")]
    argv += [] if tool == "train" else [str(tmp_path / "c.pth")]
    argv += ["--out", "m.onnx"] if tool == "export_onnx" else []
    line = run_tool(tool, *argv)
    assert line.startswith(f"config {argv[0]}: found no model, expected a whole config")


def test_error_cfg_options_outside_of_a_list(run_tool: Callable) -> None:
    option = "train_dataloader.dataset.pipeline.30.type=Flip"
    line = run_tool(
        "train", str(ROOT / "configs/pvnas" / RETRAIN), "--cfg-options", option
    )
    assert line.startswith("--cfg-options: Index 30 exceeds the length of list")


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
    check_checkpoint(str(path), "checkpoint")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    config = str(ROOT / "configs/pvnas" / RETRAIN)
    line = run_tool("test", config, str(path))
    assert line.startswith(f"checkpoint: found a truncated file {path}, expected")
    line = run_tool("train", config, "--resume", str(path))
    assert line.startswith(f"--resume: found a truncated file {path}, expected")
    (tmp_path / "last_checkpoint").write_text(str(path))
    line = run_tool("train", config, "--work-dir", str(tmp_path), "--resume")
    assert line.startswith(f"--resume: found a truncated file {path}, expected")
    path.unlink()
    line = run_tool("train", config, "--work-dir", str(tmp_path), "--resume")
    assert line == f"--resume: found no file {path}"


def test_error_checkpoint_of_another_kind(run_tool: Callable, tmp_path: Path) -> None:
    path = tmp_path / "epoch_1.pth"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    line = run_tool("test", str(ROOT / "configs/pvnas" / RETRAIN), str(path))
    assert line.startswith(f"checkpoint: found another kind of file, {path}, expected")
    torch.save(dict(), path, _use_new_zipfile_serialization=False)
    check_checkpoint(str(path), "checkpoint")


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


@pytest.mark.parametrize("split", ["train", "test"])
def test_error_no_list_was_named(
    run_tool: Callable, tmp_path: Path, split: str
) -> None:
    config = next((ROOT / "configs/pvnas").glob("pvnas-tiny_retrain_*_custom-rgb.py"))
    argv = [str(config)]
    if split == "test":
        torch.save({}, tmp_path / "c.pth")
        argv.append(str(tmp_path / "c.pth"))
    line = run_tool(split, *argv)
    variable = dict(train="ANN_FILE_TRAIN", test="ANN_FILE_VAL")[split]
    assert line.startswith(f"{split}_dataloader.dataset.ann_file: found no file data/")
    assert f"or as the environment variable {variable}, with DATA_PREFIX" in line


@pytest.mark.parametrize("split", ["train", "test"])
def test_error_part_of_a_config(run_tool: Callable, tmp_path: Path, split: str) -> None:
    part = tmp_path / "part.py"
    part.write_text("model = dict(type='Recognizer3D')\n")
    torch.save({}, tmp_path / "c.pth")
    checkpoint = [str(tmp_path / "c.pth")] if split == "test" else []
    line = run_tool(split, str(part), *checkpoint)
    assert line.startswith(f"config {part}: found no {split}_dataloader with a dataset")


@pytest.mark.parametrize(
    "argv",
    [
        ["export_onnx", "c.py", "none", "--out"],
        ["report", "w", "--out"],
        ["build_latency_table", "c.py", "--out"],
    ],
)
def test_error_folder_in_place_of_a_file(
    run_tool: Callable, tmp_path: Path, argv: list[str]
) -> None:
    line = run_tool(*argv, str(tmp_path))
    assert line == f"--out: found the folder {tmp_path}, expected the name of a file"


@pytest.mark.parametrize(
    ("work_dir", "reason"),
    [
        ("file", "File exists"),
        ("file/runs", "Not a directory"),
        ("locked", "Read-only file system"),
    ],
)
def test_error_work_dir(
    run_tool: Callable, tmp_path: Path, monkeypatch, work_dir: str, reason: str
) -> None:
    (tmp_path / "file").write_text("a.mp4 0\n")
    (tmp_path / "locked").mkdir()
    if work_dir == "locked":  # by a file system, for which even a superuser is no one
        error = OSError(errno.EROFS, os.strerror(errno.EROFS))
        monkeypatch.setattr(tempfile, "TemporaryFile", Mock(side_effect=error))
    fields = [f"{split}_dataloader.dataset.ann_file" for split in ("train", "val")]
    line = run_tool(
        "train", str(ROOT / "configs/pvnas" / RETRAIN),
        "--work-dir", str(tmp_path / work_dir),
        "--cfg-options", *(f"{field}={tmp_path / 'file'}" for field in fields),
    )  # fmt: skip
    assert line == (
        f"--work-dir: found {tmp_path / work_dir}, expected a folder that can be "
        f"written to ({reason}). Give another one"
    )


def test_error_list_named_by_a_variable_alone(
    run_tool: Callable, tmp_path: Path
) -> None:
    config = tmp_path / "own.py"
    config.write_text(
        f"_base_ = {str(ROOT / 'configs/pvnas' / RETRAIN)!r}\n"
        "ann_file_train = 'my/train.txt'\n"
        f"train_dataloader = dict(dataset=dict(ann_file='{tmp_path}/none.txt'))\n"
    )
    field = "train_dataloader.dataset.ann_file"
    assert run_tool("train", str(config)) == (
        f"{field}: found no file {tmp_path}/none.txt, expected an annotation list with "
        "one video and its class id per line. ann_file_train='my/train.txt' is not "
        f"passed on to a data set that a config inherits: set {field}"
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_error_head_with_too_few_classes(
    run_tool: Callable, tmp_path: Path, split: str
) -> None:
    given = tmp_path / "given.txt"
    given.write_text("a.mp4 0\n")
    field = f"{split}_dataloader.dataset.num_classes"
    line = run_tool(
        "train", str(ROOT / "configs/pvnas" / RETRAIN), "--cfg-options",
        f"train_dataloader.dataset.ann_file={given}",
        f"val_dataloader.dataset.ann_file={given}",
        f"{field}=9",
    )  # fmt: skip
    assert line == f"model.cls_head.num_classes: found 8, expected 9, as {field} says"


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
        check_annotations(cfg, ("train", "val"))


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


def test_error_unknown_setting_in_the_config(
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = dict(type="mmaction.PVNASNet", genotype="none.json", width=3)
    with pytest.raises(SystemExit, match=f"^{cli.EXIT_USER_ERROR}$"):
        cli.run(lambda: MODELS.build(settings))
    expected = "error: PVNASNet.__init__() got an unexpected keyword argument 'width'"
    assert capsys.readouterr().err.splitlines()[0] == expected
    # A call that goes wrong within the program is no such setting.
    assert not is_user_error(TypeError("f() got an unexpected keyword argument"))


@pytest.mark.parametrize(("name", "channels"), [(RETRAIN, 768), (SEARCH, 64)])
def test_error_head_that_does_not_fit(
    run_tool: Callable, tmp_path: Path, motion_clips: Path, name: str, channels: int
) -> None:
    genotype = ROOT / "configs/pvnas/genotypes/pvnas-s.json"
    options = [f"model.backbone.genotype={genotype}"]
    if name == SEARCH:
        options = ["model.cls_head.in_channels=32"]
    for split, file in (("train", "train"), ("val", "val"), ("test", "val")):
        field = f"{split}_dataloader.dataset"
        options += [f"{field}.ann_file={motion_clips / file}.txt"]
        options += [f"{field}.data_prefix.video={motion_clips}"]
    config = str(ROOT / "configs" / "pvnas" / name)
    line = run_tool(
        "train", config, "--work-dir", str(tmp_path), "--cfg-options", *options
    )
    found = 32 if name == SEARCH else 64
    assert line == (
        f"model.cls_head.in_channels: found {found}, expected {channels}, the "
        "head_channels of the backbone"
    )


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
    assert error_line(info.value) == "label: found 9, expected less than 8"
