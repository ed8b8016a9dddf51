# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Jobs of the benchmarks: their record of the command, and workers that end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.jobs import JobLog, missing

ROOT = Path(__file__).resolve().parent.parent


def test_other_settings_do_not_mix(tmp_path):
    log = JobLog(tmp_path, "log", dict(size=16, path=Path("a")))
    log.append(dict(number=1))
    again = JobLog(tmp_path, "log", dict(size=16, path=Path("a")))
    assert again.records == JobLog(tmp_path, "log").records == [dict(number=1)]
    with pytest.raises(ValueError, match=r"size: expected 24, got 16.*--work-dir"):
        JobLog(tmp_path, "log", dict(size=24, path=Path("a")))
    with pytest.raises(FileNotFoundError, match="nothing ran here"):
        JobLog(tmp_path, "other")


def test_what_is_missing(tmp_path):
    log = JobLog(tmp_path, "log", {})
    log.append(dict(number=2))
    jobs = [dict(number=n, place=place) for place, n in enumerate((3, 2, 1, 3))]
    left = missing(jobs, log, lambda job: job["number"])
    assert [job["place"] for job in left] == [0, 2]


SLEEPERS = """
import os, pathlib, sys, time
from benchmarks.jobs import JobLog, run_jobs

def sleep(state, job):
    pathlib.Path(job).write_text(str(os.getpid()))
    time.sleep(300)

if __name__ == "__main__":
    folder = sys.argv[1]
    jobs = [f"{folder}/pid_{number}" for number in range(2)]
    run_jobs(jobs, sleep, dict, JobLog(folder, "log", {}), workers=2)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="asks /proc")
def test_a_killed_command_leaves_no_worker(tmp_path):
    script = tmp_path / "sleepers.py"
    script.write_text(SLEEPERS)
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    command = [sys.executable, str(script), str(tmp_path)]
    process = subprocess.Popen(command, env=environment)
    files = [tmp_path / f"pid_{number}" for number in range(2)]
    pids: list[int] = []
    try:
        wait_until(lambda: all(f.is_file() and f.read_text() for f in files))
        pids = [int(file.read_text()) for file in files]
        assert all(map(is_running, pids))
        process.kill()
        process.wait()
        wait_until(lambda: not any(map(is_running, pids)))
    finally:
        process.kill()
        for pid in filter(is_running, pids):
            os.kill(pid, signal.SIGKILL)


def is_running(pid: int) -> bool:
    """Whether the process is there, and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.1)
