# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Options of tools/train.py and tools/test.py: MMAction2's own, and what ours add.
What they refuse is in test_tool_errors.py."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from tool_processes import UPSTREAM_TOOLS, load_tool

from pvnas_mmaction.apis import cli

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Callable[..., argparse.Namespace]:
    """``parse("train", "config.py", "--amp")``: the arguments that a tool sees."""

    def call(tool: str, *argv: str) -> argparse.Namespace:
        monkeypatch.setattr(sys, "argv", [tool, *argv])
        monkeypatch.setenv("LOCAL_RANK", "0")
        return load_tool(tool).parse_args()

    return call


FLAT = dict(
    default_scope="mmaction",
    optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
    default_hooks=dict(visualization=dict(type="VisualizationHook")),
    val_cfg=dict(),
    val_dataloader=dict(),
    val_evaluator=dict(type="AccMetric"),
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


@pytest.mark.parametrize(
    ("has_gpu", "dtype", "expected"),
    [
        (True, None, "AmpOptimWrapper"),
        (True, "bfloat16", "BFloat16OptimWrapper"),
        (False, None, "BFloat16OptimWrapper"),
    ],
)
def test_amp_fits_the_machine(parse, monkeypatch, has_gpu, dtype, expected) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    option = ["--cfg-options", f"optim_wrapper.dtype={dtype}"] if dtype else []
    args = parse("train", "config.py", "--amp", *option)
    wrapper = cli.merge_train_args(Config(FLAT), args).optim_wrapper
    assert wrapper.type == expected
    assert wrapper.get("loss_scale") == ("dynamic" if has_gpu else None)


def test_resume_without_a_checkpoint_starts_from_the_same_weights(
    parse, tmp_path: Path
) -> None:
    """A run that was killed before its first checkpoint starts again as it did."""
    weights = str(tmp_path / "weights.pth")
    torch.save({}, weights)
    for load_from, resume in ((None, True), (weights, False)):
        work_dir = ["--work-dir", str(tmp_path / "runs")]
        args = parse("train", "config.py", "--resume", *work_dir)
        merged = cli.merge_train_args(Config(dict(FLAT, load_from=load_from)), args)
        assert (merged.resume, merged.load_from) == (resume, load_from)
    torch.save({}, tmp_path / "epoch_2.pth")
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "epoch_2.pth"))
    for value in ([], [str(tmp_path / "epoch_2.pth")]):
        args = parse("train", "c.py", "--work-dir", str(tmp_path), "--resume", *value)
        merged = cli.merge_train_args(Config(dict(FLAT, load_from="other.pth")), args)
        assert merged.resume and merged.load_from == str(tmp_path / "epoch_2.pth")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("/my clips/train.txt", "/my clips/train.txt"),
        ("'/my clips/(old) train.txt'", "/my clips/(old) train.txt"),
        ("(-1, 128)", (-1, 128)),
        ("a, b", ["a", "b"]),
        ("None", None),
        ("1e-3", 1e-3),
    ],
)
def test_cfg_options_keep_the_spaces_of_a_text(parse, text, value) -> None:
    args = parse("train", "config.py", "--cfg-options", f"key={text}")
    assert args.cfg_options == dict(key=value)
