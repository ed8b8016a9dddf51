# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""``search/run.json``: what started a search, on what machine, and how it ended.

The report reads it, so that nothing has to be read out of logs. A resumed search has
several starts::

    {"format_version": 1, "state": "finished", "error": null,
     "config": "configs/mine.py", "seed": 0, "num_steps": 240,
     "data": {"ann_file": "my/train.txt", "num_weights_clips": 100, ...},
     "schedule": {"mode": "diversity", "num_cycles": 3, ...},
     "starts": [{"folder": "20260102_100000", "step": 0, "host": "a", "pid": 7,
                 "started": "2026-01-02T10:00:00", "ended": "2026-01-02T12:03:04",
                 "command": "python tools/train.py ...", "device": "CPU",
                 "pvnas_mmaction": "0.1.0", "python": "3.11.7", "torch": ...}]}

``state`` is ``running``, ``finished``, ``interrupted`` or ``failed`` (then ``error``
says by what); a search that was killed still has ``running``.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import mmengine
import torch
from mmengine.dist import is_main_process
from mmengine.runner import Runner

from .. import __version__
from ..space.genotype import write_atomically

FORMAT_VERSION = 1


def start_facts() -> dict[str, str]:
    """Command, device and versions of this process."""
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return dict(
        command=shlex.join(sys.argv),
        device=", ".join(names) or "CPU",
        pvnas_mmaction=__version__,
        python=platform.python_version(),
        torch=str(torch.__version__),
        mmengine=mmengine.__version__,
        opencv=cv2.__version__,
    )


@contextmanager
def recorded_run(runner: Runner, **facts: Any) -> Iterator[None]:
    """Write ``work_dir/search/run.json`` where a block of code starts and where it
    ends, however it ends; rank 0 alone.

    Args:
        runner: The runner, before any hook of the training has run.
        **facts: ``seed``, ``num_steps``, ``data`` and ``schedule``, as above.
    """
    if not is_main_process():
        yield
        return
    path = Path(runner.work_dir) / "search" / "run.json"
    start = dict(
        folder=runner.timestamp,
        step=runner.iter,
        started=_now(),
        ended=None,
        host=socket.gethostname(),
        pid=os.getpid(),
        **start_facts(),
    )
    record = dict(
        format_version=FORMAT_VERSION,
        state="running",
        error=None,
        config=str(runner.cfg.filename or ""),
        **facts,
        starts=[*(_earlier_starts(path) if runner.iter > 0 else ()), start],
    )
    _write(path, record)
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        record["state"] = "interrupted" if stopped else "failed"
        record["error"] = None if stopped else f"{type(error).__name__}: {error}"
        raise
    else:
        record["state"] = "finished"
    finally:
        start["ended"] = _now()
        _write(path, record)


def _earlier_starts(path: Path) -> list[dict[str, Any]]:
    """Starts of the search that is resumed; one that was killed ended when it last
    wrote its history."""
    if not path.is_file():
        return []
    starts = json.loads(path.read_text(encoding="utf-8"))["starts"]
    history = path.with_name("history.jsonl")
    if starts[-1]["ended"] is None and history.is_file():
        last = datetime.fromtimestamp(history.stat().st_mtime)
        starts[-1]["ended"] = last.isoformat(timespec="seconds")
    return starts


def _now() -> str:
    return datetime.now().isoformat(timespec="seconds")


def _write(path: Path, record: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(record, indent=2) + "\n")
