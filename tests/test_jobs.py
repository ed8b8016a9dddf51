# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Jobs of the benchmarks: their record of the command, and workers that end with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.jobs import JobLog, missing


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
