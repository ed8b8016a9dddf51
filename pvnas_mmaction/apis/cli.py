# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""What ``tools/train.py`` and ``tools/test.py`` share.

They take the options of MMAction2's own tools, and differ in this:

- ``--cfg-options`` are merged before the other options, so that these see them, and
  ``--seed``, ``--diff-rank-seed`` and ``--deterministic`` are merged into a
  ``randomness`` that the config sets instead of being dropped;
- ``--amp`` works without a GPU (bfloat16) and for the two optimizers of a search;
- a launcher without a GPU gets a gloo process group;
- a config may be named ``package::path``;
- a user's mistake ends in one line on stderr and exit status 2. Set the environment
  variable ``PVNAS_DEBUG=1`` to get the traceback.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmaction.registry import RUNNERS
from mmengine.config import Config, DictAction
from mmengine.dist import is_main_process
from mmengine.runner import Runner

from .. import __version__
from ..engine.checkpoint_files import check_checkpoint, latest_checkpoint
from ..engine.optim import is_bfloat16
from .config_checks import check_num_classes
from .config_files import merge_options
from .errors import error_line, is_user_error
from .launchers import LAUNCHERS, end_distributed, start_distributed
from .model_checks import ResumeCheckHook, check_head

EXIT_USER_ERROR = 2


class KeyValueAction(DictAction):
    """``DictAction`` that complains in one line and leaves the spaces of a text."""

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        text = val.strip("'\"").strip()
        if "," in text or text[:1] + text[-1:] in ("()", "[]"):
            return DictAction._parse_iterable(text)
        return DictAction._parse_int_float_bool(text)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        for value in values or ():
            if "=" not in value:
                parser.error(f"{option_string}: expected key=value, found {value!r}")
        try:
            super().__call__(parser, namespace, values, option_string)
        except AssertionError as error:  # of brackets
            parser.error(f"{option_string}: {error}")


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that training and testing have in common."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=KeyValueAction,
        metavar="KEY=VALUE",
        help="override settings of the config, e.g. train_cfg.max_epochs=5; lists as "
        "key=a,b or key='[a,b]', nested ones as key='[(a,b),(c,d)]', without spaces",
    )
    parser.add_argument(
        "--launcher", choices=LAUNCHERS, default="none", help="default: none"
    )
    # torchrun sets the environment variable; older launchers pass the option
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)


def set_work_dir(cfg: Config, work_dir: str | None, config: str) -> None:
    """Set ``cfg.work_dir``: the option, else the config's, else its file name."""
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = os.path.join("work_dirs", Path(config).stem)


def make_work_dir(cfg: Config) -> None:
    """Make the work dir, which mmengine would do with an error that names no option.

    Raises:
        ValueError: It cannot be made, or nothing can be written there.
    """
    make_out_folder(cfg.work_dir, "--work-dir")


def merge_train_args(cfg: Config, args: argparse.Namespace) -> Config:
    """Merge the options of ``tools/train.py`` into ``cfg``, in place.

    Raises:
        ValueError: If an option does not fit the config, or the checkpoint to start
            from is not whole.
        FileNotFoundError: If that checkpoint does not exist.
    """
    merge_options(cfg, args.cfg_options)
    cfg.launcher = args.launcher
    set_work_dir(cfg, args.work_dir, args.config)
    if args.no_validate:
        cfg.val_cfg = None
        cfg.val_dataloader = None
        cfg.val_evaluator = None
    if args.amp:
        enable_amp(cfg)
    if args.auto_scale_lr:
        auto_scale_lr = cfg.get("auto_scale_lr") or {}
        if not auto_scale_lr.get("base_batch_size"):
            raise ValueError(
                "--auto-scale-lr: found no auto_scale_lr.base_batch_size in the "
                "config, expected the batch size that its learning rates are meant "
                "for. Add --cfg-options auto_scale_lr.base_batch_size=N"
            )
        cfg.auto_scale_lr.enable = True
    if args.resume == "auto":
        found = latest_checkpoint(cfg.work_dir)
        # Killed before its first checkpoint: anew, from the same weights.
        cfg.resume = found is not None or not cfg.get("load_from")
        cfg.load_from = found or cfg.get("load_from")
    elif args.resume is not None:
        check_checkpoint(args.resume, "--resume")
        cfg.resume = True
        cfg.load_from = args.resume
    if cfg.get("load_from") and not cfg.get("resume"):
        check_checkpoint(cfg.load_from, "load_from")
    randomness = dict(cfg.get("randomness") or {"seed": None})
    if args.seed is not None:
        randomness["seed"] = args.seed
    if args.diff_rank_seed:
        randomness["diff_rank_seed"] = True
    if args.deterministic:
        randomness["deterministic"] = True
    cfg.randomness = randomness
    return cfg


def enable_amp(cfg: Config) -> None:
    """Train with automatic mixed precision: float16 on a GPU, bfloat16 without.

    A config with one optimizer gets another wrapper type. One with a constructor of
    its own (a search) gets the type at its top, for the constructor to hand on.

    Raises:
        ValueError: If the config has no wrapper, or chooses one of its own.
    """
    wrapper = cfg.get("optim_wrapper")
    if wrapper is None:
        raise ValueError("--amp: found no optim_wrapper in the config, expected one")
    plain = (
        "OptimWrapper",
        "AmpOptimWrapper",
        "BFloat16OptimWrapper",
        "CPUAmpOptimWrapper",
    )
    found = wrapper.get("type", "OptimWrapper")
    if found not in plain:
        raise ValueError(
            f"--amp: found optim_wrapper.type={found!r}, expected one of {plain}"
        )
    if torch.cuda.is_available() or "constructor" in wrapper:
        alone = "constructor" not in wrapper and is_bfloat16(wrapper.get("dtype"))
        wrapper.type = "BFloat16OptimWrapper" if alone else "AmpOptimWrapper"
        wrapper.setdefault("loss_scale", "dynamic")
        if not torch.cuda.is_available():
            wrapper.setdefault("dtype", "bfloat16")
    else:
        wrapper.type = "CPUAmpOptimWrapper"


def merge_test_args(cfg: Config, args: argparse.Namespace) -> Config:
    """Merge the options of ``tools/test.py`` into ``cfg``, in place.

    Raises:
        ValueError: If an option does not fit the config, or the file to dump to is
            no pickle.
        FileNotFoundError: If the checkpoint does not exist.
    """
    merge_options(cfg, args.cfg_options)
    cfg.launcher = args.launcher
    set_work_dir(cfg, args.work_dir, args.config)
    check_checkpoint(args.checkpoint, "checkpoint")
    cfg.load_from = args.checkpoint
    cfg.resume = False
    if args.show or args.show_dir is not None:
        preprocessor = (cfg.get("model") or {}).get("data_preprocessor") or {}
        if preprocessor.get("format_shape") == "NCTHW":
            raise ValueError(
                "--show, --show-dir: found model.data_preprocessor.format_shape="
                "'NCTHW', expected another layout: MMAction2's VisualizationHook can't "
                "draw such clips; --dump writes the predictions"
            )
        hooks = cfg.get("default_hooks") or {}
        if not hooks.get("visualization"):
            raise ValueError(
                "--show, --show-dir: found no default_hooks.visualization in the "
                "config, expected dict(type='VisualizationHook')"
            )
        hooks.visualization.update(
            enable=True,
            show=args.show,
            wait_time=args.wait_time,
            out_dir=args.show_dir,
            interval=args.interval,
        )
    if args.dump is not None:
        if not args.dump.endswith((".pkl", ".pickle")):
            raise ValueError(f"--dump: found {args.dump!r}, expected FILE.pkl")
        check_out_file(args.dump, "--dump")
        if cfg.get("test_evaluator") is None:
            raise ValueError("--dump: found no test_evaluator in the config")
        evaluators = cfg.test_evaluator
        if not isinstance(evaluators, (list, tuple)):
            evaluators = [evaluators]
        dump = dict(type="DumpResults", out_file_path=args.dump)
        cfg.test_evaluator = [*evaluators, dump]
    return cfg


def check_out_file(path: str | os.PathLike[str], option: str = "--out") -> None:
    """Check that a file can be written where an option says, before the work is done.

    Its folder is made where missing.

    Raises:
        ValueError: It is a folder, or its folder can't be made.
    """
    if Path(path).is_dir() or str(path).endswith(os.sep):
        raise ValueError(
            f"{option}: found the folder {path}, expected the name of a file"
        )
    make_out_folder(Path(path).parent, option)


def make_out_folder(path: str | os.PathLike[str], option: str = "--out") -> None:
    """Make the folder that an option names, before the work is done.

    Raises:
        ValueError: It can't be made, or nothing can be written there.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(
            f"{option}: found {path}, expected a folder that can be written to "
            f"({error.strerror}). Give another one"
        ) from error


def build_runner(cfg: Config) -> Runner:
    """Build the runner that a config describes.

    Raises:
        ValueError: The parts of its model do not fit, or its work dir cannot be written
            to.
    """
    check_num_classes(cfg)
    start_distributed(cfg)
    if is_main_process():
        make_work_dir(cfg)
    runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
    check_head(runner.model)
    if cfg.get("resume"):
        runner.register_hook(ResumeCheckHook())
    # The report reads both back.
    runner.logger.info(f"Command: {shlex.join(sys.argv)}")
    runner.logger.info(f"Version: pvnas_mmaction {__version__}")
    return runner


def run(main: Callable[[], None]) -> None:
    """Run a tool; a user's mistake becomes one line on stderr and exit status 2."""
    try:
        main()
    except Exception as error:
        if os.environ.get("PVNAS_DEBUG") or not is_user_error(error):
            raise
        print(f"error: {error_line(error)}", file=sys.stderr)
        print("(PVNAS_DEBUG=1 shows where it was raised)", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    finally:
        end_distributed()
