"""Many independent jobs over several processes, with results that survive a kill.

Each finished job is one line of JSON at the end of a file. A command that is started
again with the same settings skips what is there.
"""

import datetime
import json
import multiprocessing
import os
import shlex
import sys
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from pvnas_mmaction.profiling.clock import machine_facts, thread_count
from pvnas_mmaction.space.checks import wrong
from pvnas_mmaction.space.genotype import write_json

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
    """Finished jobs in ``FOLDER/NAME.jsonl``, with their settings next to them.

    Args:
        folder: Made where it is missing.
        name: Of the file, without ending.
        settings: What all jobs share, as plain data. It is written on first use and
            compared afterwards. Default None: only read what is there.

    Raises:
        FileNotFoundError: No settings are given and there is nothing to read.
        ValueError: The jobs that are there had other settings.
    """

    def __init__(
        self, folder: str | Path, name: str, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.path = Path(folder) / f"{name}.jsonl"
        described = Path(folder) / f"{name}_settings.json"
        given = settings and json.loads(json.dumps(settings, default=str))
        if not described.is_file():
            if given is None:
                raise FileNotFoundError(f"{described}: no such file; nothing ran here")
            write_json(described, given)
        self.settings = json.loads(described.read_text())
        if given is not None and given != self.settings:
            keys = sorted({*given, *self.settings})
            key = next(k for k in keys if given.get(k) != self.settings.get(k))
            raise wrong(
                f"{described}: {key}",
                repr(given.get(key)),
                repr(self.settings.get(key)),
                "results of other settings do not mix, choose another --work-dir",
            )
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
        return [json.loads(line) for line in whole.decode().splitlines()]

    def append(self, record: Record) -> None:
        """Add a result; on return it is on disk."""
        self.records.append(record)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def missing(
    jobs: Sequence[Any], log: JobLog, key: Callable[[Any], Hashable]
) -> list[Any]:
    """The jobs that a log has no record of.

    Args:
        jobs: All jobs; of several with one key the first counts.
        log: What is done.
        key: What tells jobs apart, of a job and of its record alike.
    """
    done = set(map(key, log.records))
    wanted = {key(job): job for job in reversed(jobs)}
    return [wanted[k] for k in dict.fromkeys(map(key, jobs)) if k not in done]


_STATE: Any = None


def run_jobs(
    jobs: Sequence[Any],
    work: Callable[[Any, Any], Record],
    make_state: Callable[[], Any],
    log: JobLog,
    workers: int = 1,
) -> None:
    """Run jobs and log their results as they come.

    A line with the time left is drawn where stderr is a terminal, nothing elsewhere.

    Args:
        jobs: Plain data, one for each job.
        work: Called as ``work(state, job)``; gives the record. A function of a module,
            since it runs in other processes.
        make_state: Builds what the jobs of one process share.
        log: Where records go.
        workers: Number of processes, each with one thread. Default 1: this process.
    """
    if not jobs:
        return
    bar = tqdm(total=len(jobs), disable=None, smoothing=0)
    if workers <= 1:
        with bar, thread_count(1):
            state = make_state()
            for job in jobs:
                log.append(work(state, job))
                bar.update()
        return
    with (
        bar,
        ProcessPoolExecutor(
            min(workers, len(jobs)),
            # Not forked: a process that has used a GPU can't be.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(make_state,),
        ) as pool,
    ):
        try:
            futures = [pool.submit(_run, work, job) for job in jobs]
            for future in as_completed(futures):
                log.append(future.result())
                bar.update()
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
    no worker behind that continues its job for nobody."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(work: Callable[[Any, Any], Record], job: Any) -> Record:
    return work(_STATE, job)
