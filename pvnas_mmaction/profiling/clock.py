# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""A clock for the CPU and the GPU, and the machine that its times hold for."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from ..space.checks import wrong


class Clock:
    """Milliseconds between marks.

    On a GPU they are on its own time line. On one thread of a CPU they are the time
    that this thread had the processor, so that a busy machine gives the times of an
    idle one but for what programs take from each other's caches. With several threads
    they are wall time.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.marks: list[Any] = []

    @property
    def kind(self) -> str:
        """``"gpu events"``, ``"thread time"`` or ``"wall time"``."""
        if self.device.type == "cuda":
            return "gpu events"
        return "thread time" if torch.get_num_threads() == 1 else "wall time"

    def mark(self) -> None:
        """Take the time."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self.device))
            self.marks.append(event)
        elif self.kind == "thread time":
            self.marks.append(time.thread_time())
        else:
            self.marks.append(time.perf_counter())

    def intervals(self) -> list[float]:
        """Milliseconds from each mark to the next; the marks are cleared."""
        marks, self.marks = self.marks, []
        pairs = pairwise(marks)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return [first.elapsed_time(second) for first, second in pairs]
        return [1e3 * (second - first) for first, second in pairs]


@contextmanager
def thread_count(number: int | None) -> Iterator[None]:
    """A number of threads within this context; None changes nothing."""
    previous = torch.get_num_threads()
    torch.set_num_threads(number or previous)
    try:
        yield
    finally:
        torch.set_num_threads(previous)


def check_device(name: str) -> torch.device:
    """The device of a name; ValueError where there is none."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise wrong("device", "cpu, cuda, or cuda:1 for the second GPU", repr(name))
    kind, _, index = name.partition(":")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and int(index or 0) >= found:
        hint = f"PyTorch finds {found} GPU(s) on this machine"
        raise wrong("device", "one that is there", repr(name), hint)
    return torch.device(name)


def machine_facts(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What a time depends on: processor, number of its cores, versions."""
    facts: dict[str, Any] = dict(
        processor=_processor_name(),
        cores=os.cpu_count(),
        system=platform.system(),
        python=platform.python_version(),
        torch=torch.__version__,
    )
    if torch.device(device).type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
    return facts


def _processor_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
