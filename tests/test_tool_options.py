# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Options of tools/train.py and tools/test.py: MMAction2's own, and what ours add."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, DictAction
from tool_processes import TOOLS, UPSTREAM_TOOLS, load_tool, run_process

from pvnas_mmaction.apis import cli
from pvnas_mmaction.models.recognizers import view_of
from pvnas_mmaction.space.genotype import load_genotype

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Callable[..., argparse.Namespace]:
    """``parse("train", "config.py", "--amp")``: the arguments that a tool sees."""

    def call(tool: str, *argv: str) -> argparse.Namespace:
        monkeypatch.setattr(sys, "argv", [tool, *argv])
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


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("bfloat16", "BFloat16OptimWrapper"), ("float16", "AmpOptimWrapper")],
)
def test_amp_with_a_type_of_its_own(parse, monkeypatch, dtype, expected) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    option = f"optim_wrapper.dtype={dtype}"
    args = parse("train", "config.py", "--amp", "--cfg-options", option)
    cfg = Config(FLAT)
    cfg.merge_from_dict(args.cfg_options)
    assert cli.merge_train_args(cfg, args).optim_wrapper.type == expected


def test_amp_refuses_another_wrapper(parse: Callable) -> None:
    cfg = Config(dict(FLAT, optim_wrapper=dict(type="ApexOptimWrapper")))
    with pytest.raises(ValueError, match=r"--amp: found optim_wrapper.type='Apex"):
        cli.merge_train_args(cfg, parse("train", "config.py", "--amp"))


def test_amp_wants_a_wrapper(parse: Callable) -> None:
    cfg = Config(dict(default_scope="mmaction"))
    with pytest.raises(ValueError, match="--amp: found no optim_wrapper in the config"):
        cli.merge_train_args(cfg, parse("train", "config.py", "--amp"))


def test_auto_scale_lr_wants_a_base_batch_size(parse: Callable) -> None:
    args = parse("train", "config.py", "--auto-scale-lr")
    for cfg in (FLAT, dict(FLAT, auto_scale_lr=dict(base_batch_size=0))):
        with pytest.raises(ValueError, match=r"found no auto_scale_lr.base_batch_size"):
            cli.merge_train_args(Config(cfg), args)
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


def test_resume_without_a_checkpoint_starts_from_the_same_weights(
    parse: Callable, tmp_path: Path
) -> None:
    """A run that was killed before its first checkpoint starts anew as it did."""
    weights = str(tmp_path / "weights.pth")
    torch.save({}, weights)
    for load_from, resume in ((None, True), (weights, False)):
        work_dir = ["--work-dir", str(tmp_path / "runs")]
        args = parse("train", "config.py", "--resume", *work_dir)
        merged = cli.merge_train_args(Config(dict(FLAT, load_from=load_from)), args)
        assert (merged.resume, merged.load_from) == (resume, load_from)
    torch.save({}, tmp_path / "epoch_2.pth")
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "epoch_2.pth"))
    args = parse("train", "config.py", "--resume", "--work-dir", str(tmp_path))
    merged = cli.merge_train_args(Config(dict(FLAT, load_from="other.pth")), args)
    assert (merged.resume, merged.load_from) == (True, str(tmp_path / "epoch_2.pth"))


def test_weights_to_start_from_are_checked(parse: Callable, tmp_path: Path) -> None:
    (tmp_path / "empty.pth").touch()
    args = parse("train", "config.py")
    for name, error in (("empty", ValueError), ("missing", FileNotFoundError)):
        cfg = Config(dict(FLAT, load_from=str(tmp_path / f"{name}.pth")))
        with pytest.raises(error, match=f"load_from: found .*{name}.pth"):
            cli.merge_train_args(cfg, args)


def test_pictures_of_clips_are_refused(parse: Callable, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "c.pth")
    args = parse("test", "config.py", str(tmp_path / "c.pth"), "--show-dir", "shown")
    model = dict(data_preprocessor=dict(format_shape="NCTHW"))
    with pytest.raises(
        ValueError, match=r"--show-dir: found model.data_preprocessor.fo"
    ):
        cli.merge_test_args(Config(dict(FLAT, model=model)), args)


def test_folders_of_results_are_made_or_refused_before_the_work(tmp_path: Path) -> None:
    cli.check_out_file(tmp_path / "a/b/c.json")
    assert (tmp_path / "a/b").is_dir()
    (tmp_path / "file").touch()
    for check, path in (
        (cli.check_out_file, tmp_path / "file/c.json"),
        (cli.make_out_folder, tmp_path / "file"),
    ):
        with pytest.raises(ValueError, match=r"--out: found .*file, expected a folder"):
            check(path)


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


def test_cfg_options_with_brackets_that_do_not_match(
    parse: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse("train", "config.py", "--cfg-options", "scale=[1,(2")
    assert "--cfg-options: Imbalanced brackets" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("/my clips/train.txt", "/my clips/train.txt"),
        ("'/my clips/(old) train.txt'", "/my clips/(old) train.txt"),
        ("[1, 2]", [1, 2]),
        ("(-1, 128)", (-1, 128)),
        ("a, b", ["a", "b"]),
        (" 3 ", 3),
        ("None", None),
        ("True", True),
        ("1e-3", 1e-3),
    ],
)
def test_cfg_options_keep_the_spaces_of_a_text(
    parse: Callable, text: str, value: object
) -> None:
    args = parse("train", "config.py", "--cfg-options", f"key={text}")
    assert args.cfg_options == dict(key=value)


def test_demo_needs_two_epochs_of_retraining() -> None:
    command = [sys.executable, TOOLS / "demo.py", "--retrain-epochs", "1"]
    done = run_process(*command, ok=False)
    assert done.returncode == 2
    assert "--retrain-epochs: found 1, expected 2 or more" in done.stderr


@pytest.mark.parametrize(
    ("space", "size", "epochs", "warmup"),
    [("tiny", 112, 60, 3), ("compact", 48, 60, 6)],
)
def test_demo_on_own_videos_says_what_the_configs_do_and_no_more(
    space, size, epochs, warmup, parse
) -> None:
    """Its options change nothing where none was given, and all that depends on a size
    or a number of epochs where one was."""
    demo = load_tool("demo")
    data = ["--ann-file-train", "a", "--ann-file-val", "b", "--data-prefix", "c"]
    own = [*data, "--num-classes", "7", "--space", space]

    def configs(*changes: str) -> list[Config]:
        setting = demo.own_videos(parse("demo", *own, *changes))
        assert setting.control.is_file()
        assert load_genotype(setting.control).space == space
        merged = []
        for path, more in (
            (setting.search, setting.search_options),
            (setting.retrain, setting.retrain_options),
        ):
            action = argparse.ArgumentParser()
            action.add_argument("--cfg-options", nargs="+", action=DictAction)
            texts = ["--cfg-options", *setting.options, *more]
            config = Config.fromfile(path)
            config.merge_from_dict(action.parse_args(texts).cfg_options)
            merged.append(config)
        return merged

    search, retrain = demo.OWN[space]
    shipped = [Config.fromfile(path) for path in (search, retrain)]
    assert [str(view_of(config)) for config in shipped] == [f"8x{size}x{size}"] * 2
    for found, expected in zip(configs(), shipped, strict=True):
        for name in ("train_cfg", "train_dataloader", "test_dataloader"):
            assert found[name] == expected[name]
        assert found.get("param_scheduler") == expected.get("param_scheduler")
    assert shipped[1].param_scheduler[1].end == epochs

    searched, retrained = configs(
        "--size", "64", "--search-epochs", "5", "--retrain-epochs", "20"
    )
    assert searched.train_cfg.max_epochs == 5
    assert tuple(searched.train_cfg.input_shape) == (3, 8, 64, 64)
    assert retrained.train_cfg.max_epochs == 20
    rising, falling = retrained.param_scheduler
    assert rising.end == falling.begin == 20 * warmup // epochs
    assert falling.end == 20
    for config in (searched, retrained):
        assert str(view_of(config)) == "8x64x64"
        crop = config.train_dataloader.dataset.pipeline[5]
        assert crop == dict(type="Resize", scale=(64, 64), keep_ratio=False)
        assert config.val_dataloader.dataset.pipeline[3].scale == (-1, 73)


def test_demo_says_what_is_wrong(tmp_path, capsys, parse) -> None:
    for option in ("--size", "--search-epochs"):
        with pytest.raises(SystemExit):
            parse("demo", option, "0")
        assert f"{option}: found 0, expected 1 or more" in capsys.readouterr().err
    script = "import sys; print('a table'); print('error: no list'); sys.exit(2)"
    demo = load_tool("demo")
    with pytest.raises(SystemExit, match=r"^2$"):
        demo.run("search", [sys.executable, "-c", script], tmp_path / "log", NAME="a b")
    shown = capsys.readouterr()
    assert shown.err.splitlines()[-1] == "error: no list"
    assert "a table" not in shown.err
    assert shown.out.startswith("\n$ NAME='a b' python -c")


def test_demo_renders_clips_for_tiny_alone(parse, capsys) -> None:
    with pytest.raises(SystemExit):
        parse("demo", "--space", "compact")
    assert "--space: found 'compact', expected 'tiny'" in capsys.readouterr().err
