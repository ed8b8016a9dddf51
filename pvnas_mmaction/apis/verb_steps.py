# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Verbs that are called once each in a folder, with a line about how far they are."""

import contextlib
import gc
import io
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from mmengine.logging import MessageHub

from ..space.genotype import write_atomically
from .commands import call

SECONDS_PER_LINE = 30


class Steps:
    """Steps of one or more verbs; one that has ended leaves a file in ``work/done``."""

    def __init__(self, out: Path) -> None:
        self.out, self.done = out, out / "work" / "done"
        self.seconds: dict[str, float] = {}  # expected for each step
        self._gone = 0.0  # of these, in steps that this process has done
        self._first: dict[str, int] = {}  # iteration where this process began
        self._started = self._told = time.monotonic()

    def expect(self, seconds: dict[str, float]) -> int:
        """Start to count; minutes that the steps not yet done are expected to take."""
        self.seconds = {k: v for k, v in seconds.items() if not self.is_done(k)}
        self._started = time.monotonic()
        return max(1, round(sum(self.seconds.values()) / 60))

    def run(
        self, name: str, title: str, *calls: tuple[str, list], mark: bool = True
    ) -> None:
        """Call some verbs with their arguments, unless that was done before."""
        if self.is_done(name):
            return
        print(f"{title} ...", flush=True)
        self._told = time.monotonic()
        known = name, MessageHub.get_current_instance(), sys.stdout
        log = _Log(self.out / "fit.log", lambda: self._tell(*known))
        for verb, argv in calls:
            command = shlex.join(["pvnas", verb, *map(str, argv)])
            file = self.out / "commands.sh"
            lines = file.read_text(encoding="utf-8") if file.is_file() else ""
            if f"{command}\n" not in lines:
                write_atomically(file, f"{lines}{command}\n")
            log.write(f"$ {command}\n")
            with contextlib.redirect_stdout(log):
                call(verb, argv)
            gc.collect()  # a runner is a cycle of references
        self._gone += self.seconds.get(name, 0.0)
        if mark:
            self.mark(name)

    def is_done(self, name: str) -> bool:
        return (self.done / name).is_file()

    def mark(self, name: str) -> None:
        write_atomically(self.done / name, time.strftime("%F %T\n"))

    def _tell(self, name: str, before: MessageHub, terminal: TextIO) -> None:
        """Say, now and then, how far a search or a training is."""
        now, hub = time.monotonic(), MessageHub.get_current_instance()
        most = hub.get_info("max_iters", 0)
        if hub is before or not most or name not in self.seconds:
            return
        step = hub.get_info("iter", 0)
        if name not in self._first:  # of a training that goes on
            self._first[name] = step
            self.seconds[name] *= 1 - step / most
        if now - self._told < SECONDS_PER_LINE:
            return
        self._told, minutes = now, (now - self._started) / 60
        first = self._first[name]
        # The estimate, corrected by how long its part so far took.
        gone = self._gone + self.seconds[name] * (step - first) / (most - first)
        share = gone / sum(self.seconds.values())
        about = f" of about {minutes / share:.0f}" if share > 0.02 else ""
        place = f"step {step} of {most}"
        if name == "search" and step + 1 >= most:
            place = "comparing the networks found"
        text = f"  {place}; {minutes:.0f}{about} minutes gone"
        print(text, file=terminal, flush=True)


class _Log(io.TextIOBase):
    """A file as a stream that says when something was written."""

    def __init__(self, path: Path, written: Callable[[], None]) -> None:
        self.path, self.written = path, written

    def write(self, text: str) -> int:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
        self.written()
        return len(text)
