# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""search/run.json: what started a search, and how it ended."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path

import pytest
from mmengine.hooks import Hook
from searching import build_search, run_search

import pvnas_mmaction
from pvnas_mmaction.engine.search_files import start_facts


class At(Hook):
    """Does something after a step."""

    def __init__(self, step: int, act) -> None:
        self.step, self.act = step, act

    def after_train_iter(self, runner, *_, **__) -> None:
        if runner.iter == self.step:
            self.act(runner)


def read(work_dir: Path) -> dict:
    return json.loads((work_dir / "search/run.json").read_text())


def stop(error: BaseException):
    def act(runner):
        raise error

    return act


def test_a_search_that_ends(tmp_path):
    seen = []
    runner = build_search(tmp_path)
    runner.register_hook(At(3, lambda _: seen.append(read(tmp_path))))
    runner.train()
    record, loop = read(tmp_path), runner.train_loop
    assert seen[0]["state"] == "running" and seen[0]["starts"][0]["ended"] is None
    assert record["state"] == "finished" and record["error"] is None
    assert (record["seed"], record["num_steps"]) == (loop.search.seed, 18)
    assert record["schedule"]["mode"] == "diversity"
    assert record["schedule"]["total_steps"] == 18
    halves = ("num_weights_clips", "num_alphas_clips")
    assert [record["data"][name] for name in halves] == [
        len(loop.data.weights_half), len(loop.data.alpha_half)
    ]  # fmt: skip
    (start,) = record["starts"]
    assert start.items() > start_facts().items()
    assert start["pvnas_mmaction"] == pvnas_mmaction.__version__
    assert (tmp_path / start["folder"]).is_dir()
    assert (start["step"], start["pid"]) == (0, os.getpid())
    times = [datetime.fromisoformat(start[name]) for name in ("started", "ended")]
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("error", "state"), [(KeyboardInterrupt(), "interrupted"), (OSError("x"), "failed")]
)
def test_a_search_that_is_stopped_and_resumed(tmp_path, error, state):
    runner = build_search(tmp_path)
    runner.register_hook(At(7, stop(error)))
    with pytest.raises(type(error)):
        runner.train()
    record = read(tmp_path)
    assert record["state"] == state
    assert record["error"] == (None if state == "interrupted" else "OSError: x")
    assert record["starts"][0]["ended"] is not None
    run_search(tmp_path, resume=True)
    record = read(tmp_path)
    assert record["state"] == "finished" and record["error"] is None
    steps = [start["step"] for start in record["starts"]]
    assert len(steps) == 2 and steps[0] == 0 < steps[1] <= 7
    # Another search in the folder has starts of its own.
    run_search(tmp_path)
    assert len(read(tmp_path)["starts"]) == 1
    (moved,) = tmp_path.glob("search_before_*")
    assert len(json.loads((moved / "run.json").read_text())["starts"]) == 2


def test_a_killed_search_ended_with_its_history(tmp_path):
    """A killed process writes no end."""
    run_search(tmp_path)
    record = read(tmp_path)
    record["state"], record["starts"][0]["ended"] = "running", None
    (tmp_path / "search/run.json").write_text(json.dumps(record))
    killed = datetime(2026, 1, 2, 3, 4, 5)
    os.utime(tmp_path / "search/history.jsonl", times=(killed.timestamp(),) * 2)
    run_search(tmp_path, resume=True, load_from=str(tmp_path / "epoch_5.pth"))
    first, second = read(tmp_path)["starts"]
    assert first["ended"] == killed.isoformat() and second["step"] == 15
