# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""SIGTERM, by which a scheduler such as Slurm preempts a job: a search ends at the next
step, with a checkpoint; anything else ends at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

EXIT_TERMINATED = 143  # 128 + SIGTERM, as shells count


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


class _State:
    """Whether SIGTERM came, and the process that ends at its next step if so."""

    asked = False
    waiting: int | None = None


@contextmanager
def on_sigterm() -> Iterator[None]:
    """Within this context SIGTERM raises :class:`Terminated`, now or, in a search, at
    the end of its step."""

    def handle(*_: Any) -> None:
        _State.asked = True
        if _State.waiting != os.getpid():  # a loader's worker has the handler, too
            raise Terminated

    _State.asked, before = False, signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class TerminationHook(Hook):
    """Ends a search at the end of the step in which SIGTERM came to any rank."""

    priority = "LOWEST"  # behind what saves and what ends a cycle

    def before_train(self, runner: Runner) -> None:
        _State.waiting = os.getpid()

    def after_train(self, runner: Runner) -> None:
        _State.waiting = None
        if _State.asked:  # since the last step, while networks were judged
            raise Terminated

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        asked = torch.tensor(int(_State.asked))
        if get_world_size() > 1:
            all_reduce(asked, "max")
        if not asked:
            return
        name = f"iter_{runner.iter + 1}.pth"
        runner.logger.info(f"SIGTERM: saving {name}")
        runner.save_checkpoint(runner.work_dir, name, by_epoch=False)
        if is_main_process():
            last = Path(runner.work_dir, "last_checkpoint")
            last.write_text(str(Path(runner.work_dir, name)), encoding="utf-8")
        _State.waiting = None
        raise Terminated
