# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""A clock for the CPU and the GPU, and the machine that its times hold for."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from ..space.checks import check_count, wrong

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Clock:
    """Milliseconds between marks.

    On a GPU they are on its own time line. On one thread of a CPU they are the time
    that this thread had the processor, so that a busy machine gives the times of an
    idle one but for what programs take from each other's caches. With several threads
    they are wall time.

    Args:
        device: Where the work runs.
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
    """The device of a name.

    Raises:
        ValueError: It is neither ``cpu`` nor ``cuda``, or there is no such GPU.
    """
    kind, _, index = name.partition(":")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if kind not in ("cpu", "cuda") or device.type == "meta":
        raise wrong("device", "cpu, cuda, or cuda:1 for the second GPU", repr(name))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise wrong("device", "cpu", repr(name), "PyTorch finds no GPU on this machine")
    # The index out of the name: a device keeps no more than eight bits of it.
    if device.type == "cuda" and index and int(index) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise wrong(
            "device", f"cuda:{last} at most, the last GPU of this machine", repr(name)
        )
    return device


def check_measurement(device: str, dtype: str, counts: dict[str, int | None]) -> None:
    """Check settings that every measurement has.

    Args:
        device: See :func:`check_device`.
        dtype: A name of :data:`DTYPES`.
        counts: Whole numbers from 1 up by their name; None is left out.

    Raises:
        ValueError: One is out of range; names it.
    """
    check_device(device)
    if dtype not in DTYPES:
        raise wrong("dtype", f"one of {', '.join(DTYPES)}", repr(dtype))
    for name, value in counts.items():
        if value is not None:
            check_count(name, value, 1)


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
