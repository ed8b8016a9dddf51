# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The course of a search as a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from searching import run_search

from pvnas_mmaction.engine.search_history_hook import SearchHistoryHook
from pvnas_mmaction.search.diversity import diversity

EVERY_FIVE = dict(checkpoint=dict(by_epoch=False, interval=5, max_keep_ckpts=-1))


def read(work_dir: Path) -> list[dict]:
    lines = (work_dir / "search/history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory) -> Path:
    work_dir = tmp_path_factory.mktemp("history")
    run_search(work_dir, default_hooks=EVERY_FIVE)
    return work_dir


def test_a_line_tells_of_its_step(work_dir):
    records = read(work_dir)
    # Every second step, and the last one.
    assert [r["step"] for r in records] == [*range(0, 18, 2), 17]
    (path,) = work_dir.glob("*/vis_data/scalars.json")
    logged = [json.loads(line) for line in path.read_text().splitlines()]
    logged = [row for row in logged if "loss" in row]
    for record in records:
        step = record["step"]
        assert record["epoch"] == step // 3
        assert record["cycle"] == step // 9
        assert record["u"] == pytest.approx(step % 9 / 9)
        # Step 8 ends a cycle: p is that before the restart.
        assert diversity(record["p"]) == pytest.approx(record["diversity"], abs=1e-4)
        row = logged[step]
        assert row["step"] == step + 1
        # MMEngine logs the last alpha step's again where none was taken.
        of_alphas = {"alpha_loss", "alpha_top1_acc"}
        assert of_alphas & set(record) == (of_alphas if step % 9 >= 3 else set())
        for name in set(record) - {"step", "epoch", "cycle", "u", "p"}:
            assert record[name] == pytest.approx(row[name], rel=1e-12)
    assert {"loss", "alpha_loss", "gain", "num_skips"} < set(records[-1])


@pytest.mark.parametrize("torn", ["", '{"step": 12, "ep'])
def test_a_resumed_search_drops_what_it_takes_again(work_dir, tmp_path, torn):
    before = (work_dir / "search/history.jsonl").read_text()
    kept = before.splitlines(keepends=True)[:7] if torn else [before]
    (tmp_path / "search").mkdir()
    (tmp_path / "search/history.jsonl").write_text("".join(kept) + torn)
    run_search(
        tmp_path,
        default_hooks=EVERY_FIVE,
        resume=True,
        load_from=str(work_dir / "iter_10.pth"),
    )
    assert (tmp_path / "search/history.jsonl").read_text() == before


@pytest.mark.parametrize("interval", [0, 2.0])
def test_wrong_interval(interval):
    match = f"interval: expected an integer of 1 or more, got {interval}"
    with pytest.raises(ValueError, match=match):
        SearchHistoryHook(interval)
