"""What ``tools/train.py`` and ``tools/test.py`` share.

They take the options of MMAction2's own tools, which here also work without a GPU and
for the two optimizers of a search; ``--cfg-options`` are merged before the others.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import CheckpointLoader, Runner
from rich.console import Console
from tqdm import tqdm

from ..compat import keep_freed_memory
from ..engine.checkpoints import check_checkpoint, latest_checkpoint
from ..engine.folder_lock import folder_lock
from ..engine.optim import is_bfloat16
from ..engine.search_files import start_facts
from ..models.supernet import PVNASSupernet
from ..search.distributed import together
from ..space.checks import NAME, check, wrong
from . import run_checks
from .config_checks import check_num_classes, warn_of_shared_clips
from .config_files import KeyValueAction, make_portable, merge_options
from .errors import run  # noqa: F401
from .launchers import LAUNCHERS, start_distributed
from .termination import TerminableRunner, TerminationHook

_WRAPPERS = ("OptimWrapper", "AmpOptimWrapper", "BFloat16OptimWrapper")


def tool_parser(doc: str | None, **settings: str) -> argparse.ArgumentParser:
    """A parser whose help begins with a tool's docstring, as it stands there."""
    kind = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=doc, formatter_class=kind, **settings)


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``."""
    text = "override settings of the config, e.g. train_cfg.max_epochs=5; lists as "
    text += "key=a,b or key='[a,b]', nested ones as key='[(a,b),(c,d)]', without spaces"
    add = partial(parser.add_argument, "--cfg-options", action=KeyValueAction)
    add(nargs="+", metavar="KEY=VALUE", help=text)


def add_input_shape(parser: argparse.ArgumentParser, default: str) -> None:
    """Add ``--input-shape C T H W``; ``default`` says what holds without it."""
    text, names = f"shape of one view; default: {default}", ("C", "T", "H", "W")
    parser.add_argument("--input-shape", nargs=4, type=int, metavar=names, help=text)


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that training and testing have in common."""
    add_config_options(parser)
    add = parser.add_argument_group("several processes").add_argument
    launcher = "what starts the processes; default: none"
    add("--launcher", choices=LAUNCHERS, default="none", help=launcher)
    # torchrun sets the environment variable; older launchers pass the option
    rank = "number of this process on its machine; default: 0"
    add("--local_rank", "--local-rank", type=int, default=0, help=rank)


def _merge_shared(cfg: Config, args: argparse.Namespace) -> None:
    merge_options(cfg, args.cfg_options)
    cfg.launcher = args.launcher
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    if args.work_dir is not None:
        check("--work-dir", args.work_dir, NAME)
        cfg.work_dir = args.work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = os.path.join("work_dirs", Path(args.config).stem)


def merge_train_args(cfg: Config, args: argparse.Namespace) -> Config:
    """Merge the options of ``tools/train.py`` into ``cfg``, in place; ValueError or
    FileNotFoundError for one that does not fit."""
    _merge_shared(cfg, args)
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if args.amp:
        enable_amp(cfg)
    if args.auto_scale_lr:
        if not (cfg.get("auto_scale_lr") or {}).get("base_batch_size"):
            expected = "auto_scale_lr.base_batch_size, what the rates are meant for"
            hint = "add --cfg-options auto_scale_lr.base_batch_size=N"
            raise wrong("--auto-scale-lr", expected, "none", hint)
        cfg.auto_scale_lr.enable = True
    found = None
    if args.resume == "auto":
        found = latest_checkpoint(cfg.work_dir)
        # Killed before its first checkpoint: from the start, with the same weights.
        cfg.resume = found is not None or not cfg.get("load_from")
        cfg.load_from = found or cfg.get("load_from")
    elif args.resume is not None:
        cfg.resume, cfg.load_from = True, args.resume
    if cfg.get("load_from") is not None:
        option = "--resume" if cfg.get("resume") else "load_from"
        check_checkpoint(cfg.load_from, option)
    run_checks.check_work_dir(cfg, resumed=found is not None)
    randomness = dict(cfg.get("randomness") or {"seed": None})
    if args.seed is not None:
        randomness["seed"] = args.seed
    elif cfg.get("resume") and randomness.get("seed") is None and cfg.load_from:
        # MMEngine would take it when the loaders have drawn another one.
        load = CheckpointLoader.load_checkpoint
        meta = load(cfg.load_from, "cpu", logger="silent").get("meta", {})
        randomness["seed"] = meta.get("seed")
    flags = ("diff_rank_seed", "deterministic")
    cfg.randomness = randomness | {flag: True for flag in flags if getattr(args, flag)}
    return cfg


def enable_amp(cfg: Config) -> None:
    """Train with automatic mixed precision: float16 on a GPU, bfloat16 without, and in
    a search, whose constructor hands the type on to both of its wrappers."""
    wrapper = cfg.get("optim_wrapper")
    if wrapper is None or wrapper.get("type", _WRAPPERS[0]) not in _WRAPPERS:
        found = "none" if wrapper is None else repr(wrapper.type)
        raise wrong("--amp", f"an optim_wrapper.type of {_WRAPPERS}", found)
    searches = wrapper.get("constructor") == "SearchOptimWrapperConstructor"
    if searches or is_bfloat16(wrapper.get("dtype")) or not torch.cuda.is_available():
        wrapper.type = "BFloat16OptimWrapper"
    else:
        wrapper.type = "AmpOptimWrapper"
        wrapper.setdefault("loss_scale", "dynamic")


def merge_test_args(cfg: Config, args: argparse.Namespace) -> Config:
    """Merge the options of ``tools/test.py`` into ``cfg``, in place, likewise."""
    _merge_shared(cfg, args)
    check_checkpoint(args.checkpoint, "checkpoint")
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.show or args.show_dir is not None:
        preprocessor = (cfg.get("model") or {}).get("data_preprocessor") or {}
        if preprocessor.get("format_shape") == "NCTHW":
            expected = "a model of 2D clips, which alone MMAction2 can draw"
            raise wrong("--show, --show-dir", expected, "format_shape 'NCTHW'")
        hook = dict(type="VisualizationHook", enable=True, out_dir=args.show_dir)
        hook |= {key: getattr(args, key) for key in ("show", "wait_time", "interval")}
        cfg.merge_from_dict({"default_hooks.visualization": hook})
    if args.dump is not None:
        if not args.dump.endswith((".pkl", ".pickle")):
            raise wrong("--dump", "FILE.pkl", repr(args.dump))
        check_out_file(args.dump, "--dump")
        evaluators = cfg.get("test_evaluator") or []
        if not isinstance(evaluators, (list, tuple)):
            evaluators = [evaluators]
        dump = dict(type="DumpResults", out_file_path=args.dump)
        cfg.test_evaluator = [*evaluators, dump]
    return cfg


def bar(description: str) -> Callable:
    """What wraps an iterable to show, in a terminal, a bar with the time left."""
    return partial(tqdm, desc=description, disable=None)


def wide_console() -> Console:
    """What prints tables, at full width where it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else 130, highlight=False)


def check_out_file(path: str | os.PathLike[str], option: str = "--out") -> None:
    """Check that a file can be written where an option says, before the work is done;
    makes its folder."""
    if Path(path).is_dir() or str(path).endswith(os.sep):
        raise wrong(option, "the name of a file", f"the folder {path}")
    make_out_folder(Path(path).parent, option)


def make_out_folder(path: str | os.PathLike[str], option: str = "--out") -> None:
    """Make the folder that an option names, before the work is done."""
    check(option, str(path), NAME)
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        got = f"{path} ({error.strerror})"
        hint = "give another one"
        raise wrong(option, "a folder that can be written to", got, hint) from error


def build_runner(cfg: Config, tested: bool = False) -> Runner:
    """The runner of a config, to train or to test; ValueError where the parts of its
    model do not fit, or its work dir cannot be written to or is in use."""
    check_num_classes(cfg)
    make_portable(cfg)
    cfg.started_with = start_facts()  # for the report
    start_distributed(cfg)
    if not torch.cuda.is_available():
        keep_freed_memory()
    lock = ExitStack()  # held until the runner, or the process, ends
    with together():
        if is_main_process():
            make_out_folder(cfg.work_dir, "--work-dir")
            if not tested:
                file = Path(cfg.work_dir) / ".training.lock"
                lock.enter_context(folder_lock(file, "the training"))
    runner = TerminableRunner.from_cfg(cfg)
    if is_main_process():
        warn_of_shared_clips(cfg)
    run_checks.check_head(runner.model)
    hook = run_checks.RunCheckHook(resumed=bool(cfg.get("resume")), tested=tested)
    hook.lock = lock
    runner.register_hook(hook)
    if isinstance(run_checks.backbone_of(runner.model), PVNASSupernet):
        runner.register_hook(TerminationHook())
    if not tested:
        run_checks.check_batches(runner)
    return runner
