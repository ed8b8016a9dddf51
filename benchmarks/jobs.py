# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Many independent jobs over several processes, with results that survive a kill.

Each finished job is one line of JSON at the end of a file. A command that is started
again with the same settings skips what is there.
"""

from __future__ import annotations

import datetime
import json
import multiprocessing
import os
import shlex
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from pvnas_mmaction.profiling.timing import machine_facts, thread_count
from pvnas_mmaction.space.genotype import write_atomically

Record = dict[str, Any]


def provenance(script: str, device: str = "cpu") -> dict[str, Any]:
    """Command, date and machine of this process, for the record.

    Args:
        script: Path of the script from the project's root.
        device: Where it computes. Default ``"cpu"``.
    """
    # Where the project and the data lie on this machine is nobody's business.
    words = [
        Path(word).name if Path(word).is_absolute() or word.startswith("..") else word
        for word in sys.argv[1:]
    ]
    return dict(
        command=shlex.join(["python", script, *words]),
        date=datetime.date.today().isoformat(),
        machine=machine_facts(device),
    )


class JobLog:
    """Finished jobs in ``FOLDER/NAME.jsonl``, with their settings beside them.

    Args:
        folder: Made where it is missing.
        name: Of the file, without ending.
        settings: What all jobs share, as plain data. It is written on first use and
            compared afterwards. Default None: only read what is there.

    Raises:
        FileNotFoundError: No settings are given and there is nothing to read.
        ValueError: The jobs that are there had other settings, or a line is no JSON.
    """

    def __init__(
        self, folder: str | Path, name: str, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.path = Path(folder) / f"{name}.jsonl"
        described = Path(folder) / f"{name}_settings.json"
        if described.is_file():
            self.settings = json.loads(described.read_text())
            if settings is not None:
                _check_same(described, self.settings, json.loads(json.dumps(settings)))
        elif settings is None:
            raise FileNotFoundError(f"{described}: no such file, nothing was run here")
        else:
            self.settings = json.loads(json.dumps(settings))
            write_atomically(described, json.dumps(self.settings, indent=1) + "\n")
        self.records = self._read()

    def _read(self) -> list[Record]:
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            # A process was killed while it wrote the last line.
            with self.path.open("r+b") as stream:
                stream.truncate(len(whole))
        records = []
        for number, line in enumerate(whole.decode().splitlines(), start=1):
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise ValueError(
                    f"{self.path}: line {number}: found {line[:40]!r}, expected JSON"
                ) from error
        return records

    def append(self, record: Record) -> None:
        """Add a result; on return it is on disk."""
        self.records.append(record)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def _check_same(path: Path, found: Any, expected: Any, place: str = "") -> None:
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted({*found, *expected}):
            inner = f"{place}.{key}" if place else key
            _check_same(path, found.get(key), expected.get(key), inner)
    elif found != expected:
        raise ValueError(
            f"{path}: {place}: found {found!r}, expected {expected!r}; results of "
            "different settings do not mix, choose another --work-dir"
        )


_STATE: Any = None


def run_jobs(
    jobs: Sequence[Any],
    work: Callable[[Any, Any], Record],
    make_state: Callable[[], Any],
    log: JobLog,
    workers: int = 1,
    title: str = "Jobs",
) -> None:
    """Run jobs and log their results as they come.

    A line with the time left is drawn where stderr is a terminal, nothing elsewhere.

    Args:
        jobs: Plain data, one for each job.
        work: Called as ``work(state, job)``; gives the record. A function of a module,
            for it runs in other processes.
        make_state: Builds what the jobs of one process share.
        log: Where records go.
        workers: Number of processes, each with one thread. Default 1: this process.
        title: Of the line. Default ``"Jobs"``.
    """
    console = Console(stderr=True)
    columns = [*Progress.get_default_columns()[:2], MofNCompleteColumn()]
    columns.append(TimeRemainingColumn(elapsed_when_finished=True))
    if not jobs:
        return
    with Progress(
        *columns,
        console=console,
        disable=not console.is_terminal,
        speed_estimate_period=3600,
    ) as progress:
        task = progress.add_task(title, total=len(jobs))
        if workers <= 1:
            with thread_count(1):
                state = make_state()
                for job in jobs:
                    log.append(work(state, job))
                    progress.advance(task)
            return
        with ProcessPoolExecutor(
            min(workers, len(jobs)),
            # Not forked: a process that has used a GPU can't be.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(make_state,),
        ) as pool:
            futures = [pool.submit(_run, work, job) for job in jobs]
            try:
                for future in as_completed(futures):
                    log.append(future.result())
                    progress.advance(task)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _start(make_state: Callable[[], Any]) -> None:
    global _STATE
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _STATE = make_state()


def _leave_with_parent() -> None:
    """End this process when the one that started it is gone: a killed command leaves
    no worker behind that goes on with its job for nobody."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(work: Callable[[Any, Any], Record], job: Any) -> Record:
    return work(_STATE, job)
