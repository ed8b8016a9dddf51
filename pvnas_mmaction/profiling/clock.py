"""A clock for the CPU and the GPU, and the machine that its times hold for."""

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
    """Milliseconds between marks: on a GPU those of its own events; of one CPU thread
    the time that it had the processor, which on a busy machine is near to that on an
    idle one; of several the wall time. ``kind`` says which."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.marks: list[Any] = []

    @property
    def kind(self) -> str:
        if self.device.type == "cuda":
            return "gpu events"
        return "thread time" if torch.get_num_threads() == 1 else "wall time"

    def mark(self) -> None:
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self.device))
            self.marks.append(event)
        else:
            one = self.kind == "thread time"
            self.marks.append(time.thread_time() if one else time.perf_counter())

    def intervals(self) -> list[float]:
        """Milliseconds from each mark to the next; the marks are cleared."""
        pairs, self.marks = pairwise(self.marks), []
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return [first.elapsed_time(second) for first, second in pairs]
        return [1e3 * (second - first) for first, second in pairs]


@contextmanager
def thread_count(number: int | None) -> Iterator[None]:
    previous = torch.get_num_threads()
    torch.set_num_threads(number or previous)
    try:
        yield
    finally:
        torch.set_num_threads(previous)


def check_device(name: str) -> torch.device:
    """The device of a name; ValueError where there is none."""
    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = ["cpu", *["cuda"][:number], *(f"cuda:{index}" for index in range(number))]
    if name not in there:
        raise wrong("device", f"one that is there: {', '.join(there)}", repr(name))
    return torch.device(name)


def machine_facts(device: torch.device | str = "cpu") -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else ""
    named = re.search(r"model name\s*: (.*)", text)
    facts: dict[str, Any] = dict(
        processor=named[1] if named else platform.processor() or platform.machine(),
        cores=os.cpu_count(),
        system=platform.system(),
        python=platform.python_version(),
        torch=torch.__version__,
    )
    if torch.device(device).type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
    return facts
