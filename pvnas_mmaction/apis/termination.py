"""SIGTERM, which a scheduler such as Slurm sends to all processes of a job: a search
ends at the next step, with a checkpoint; anything else ends at once. Workers of loaders
leave it to their reader, which needs whole batches up to the end of its step."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ..space.checks import reading

EXIT_TERMINATED = 143  # 128 + SIGTERM, as shells count
PATIENCE = 1800.0
"""Seconds for a batch of a loader with workers: some readers hang on some clips."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


class _State:
    """Whether SIGTERM came, and whether this process ends at its next step if so."""

    asked = False
    waits = False


def asked_to_end() -> bool:
    return _State.asked


@contextmanager
def on_sigterm() -> Iterator[None]:
    """Within this context SIGTERM raises :class:`Terminated`, now or, in a search, at
    the end of its step. A process that is on its way out ignores another one."""

    def handle(*_: Any) -> None:
        _State.asked = True
        if not _State.waits:
            raise Terminated

    _State.asked, before = False, signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        after = signal.SIG_IGN if _State.asked else before
        signal.signal(signal.SIGTERM, after)


class TerminationHook(Hook):
    """Ends a search at the end of the step in which SIGTERM came to any rank."""

    priority = "LOWEST"  # behind what saves and what ends a cycle

    def before_train(self, runner: Runner) -> None:
        _State.waits = True

    def after_train(self, runner: Runner) -> None:
        _State.waits = False
        if _State.asked:  # since the last step, while networks were judged
            raise Terminated

    def after_train_iter(self, runner: Runner, *_, **__) -> None:
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
        barrier()  # a launcher kills all when the first one is gone
        _State.waits = False
        raise Terminated


class TerminableRunner(Runner):
    """A runner with loaders that wait :data:`PATIENCE` for a batch, and whose workers
    leave SIGTERM to it; what fails while it loads a checkpoint is said of that file."""

    def dump_config(self) -> None:
        """Nothing yet: a run that is refused leaves the config of another one."""

    def load_or_resume(self) -> None:
        with reading(self._load_from or self.work_dir, "a checkpoint that fits"):
            super().load_or_resume()

    @staticmethod
    def build_dataloader(*args: Any, **kwargs: Any) -> DataLoader:
        loader = Runner.build_dataloader(*args, **kwargs)
        loader.worker_init_fn = partial(_start_worker, loader.worker_init_fn)
        if loader.num_workers and not loader.timeout:
            loader.timeout = PATIENCE
        return loader


def _start_worker(init: Callable[[int], None] | None, worker: int) -> None:
    if init is not None:
        init(worker)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when the process that reads from it sends SIGTERM, as it does
    when it exits, or when anyone does once that process is gone."""
    parent = parent_process().pid
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent == os.getppid():
        pass
    os._exit(0)
