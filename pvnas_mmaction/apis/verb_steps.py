"""Verbs that are called once each in a folder, with a line about how far they are."""

import contextlib
import gc
import io
import re
import shlex
import sys
import time
from pathlib import Path

from ..space.genotype import write_atomically
from .commands import call

SECONDS_PER_LINE = 30


class Steps:
    """Steps of one or more verbs; one that has ended leaves a file in ``work/done``."""

    def __init__(self, out: Path) -> None:
        self.out, self.done = out, out / "work" / "done"

    def run(self, name: str, title: str, *calls: tuple[str, list]) -> None:
        """Call some verbs with their arguments, unless that was done before."""
        if self.is_done(name):
            return
        print(f"{title} ...", flush=True)
        log = _Log(self.out / "fit.log")
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
        write_atomically(self.done / name, time.strftime("%F %T\n"))

    def is_done(self, name: str) -> bool:
        return (self.done / name).is_file()


class _Log(io.TextIOBase):
    """A file as a stream; now and then the terminal has the time that a line gives."""

    def __init__(self, path: Path) -> None:
        self.path, self.terminal, self.told = path, sys.stdout, time.monotonic()

    def write(self, text: str) -> int:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
        found = re.search(r"(Epoch\(train\)\s+\[.*?\]\[.*?\]).*eta: (\S+)", text)
        if found and time.monotonic() - self.told >= SECONDS_PER_LINE:
            self.told = time.monotonic()
            print(f"  {found[1]}, {found[2]} left", file=self.terminal, flush=True)
        return len(text)
