"""Reading work directories, whole and broken ones."""

import json
import os
from datetime import datetime
from pathlib import Path

import pytest
from report_runs import (
    RECORD,
    START,
    genotype,
    write_json,
    write_launch,
    write_search,
    write_training,
)
from searching import run_search

from pvnas_mmaction.report.data import SearchRun, read_work_dirs

BLOCKS = ["mb_t1_k3_e2", "skip", "mb_t5_k3_e2", "skip"]


def read(path: Path):
    (run,) = read_work_dirs([path])
    return run


@pytest.mark.parametrize("archived", [True, False])
def test_the_network_that_a_search_ended_in(tmp_path, archived):
    """The one of lower accuracy, of the archive or not: it is chosen all the same."""
    folder = write_search(tmp_path / "a") / "search"
    archive = json.loads((folder / "archive.json").read_text())
    archive["final"] = dict(archive["entries"][0])
    if not archived:
        archive["final"] |= dict(file="genotypes/final.json", cycle=1, accuracy=0.1)
        archive["final"]["blocks"] = BLOCKS
        write_json(folder / "genotypes/final.json", genotype(BLOCKS))
    write_json(folder / "archive.json", archive)
    run = read(tmp_path / "a")
    assert run.missing == [] and len(run.networks) == 2
    assert run.best() is run.final
    assert list(run.final.genotype.blocks) == archive["final"]["blocks"]
    assert len(run.judged) == (2 if archived else 3)


def test_a_real_search(tmp_path):
    runner = run_search(tmp_path)
    loop, run = runner.train_loop, read(tmp_path)
    assert run.missing == [] and run.finished
    assert [n.entry for n in run.networks] == loop.search.archive.entries
    assert run.history[-1]["step"] == 17
    assert run.best().entry == loop.search.archive.final
    assert run.record["seed"] == loop.search.seed
    assert run.diagnostics == loop.search.diagnostics != {}
    assert run.space.to_config() == loop.search.space.to_config()
    assert "SearchLoop" in run.config_text


def test_starts_add_up_and_a_running_one_ends_with_its_history(tmp_path):
    folder = write_search(tmp_path / "a", finished=False) / "search"
    second = START | dict(started="2026-01-03T10:00:00", ended=None, device="H100")
    write_json(folder / "run.json", RECORD | dict(state="running",
                                                  starts=[START, second]))  # fmt: skip
    end = datetime(2026, 1, 3, 11).timestamp()
    os.utime(folder / "history.jsonl", (end, end))
    run = read(tmp_path / "a")
    assert run.seconds == 7384 + 3600 and run.ended == datetime(2026, 1, 3, 11)
    assert run.missing == ["The search is still running, or was killed."]


# -- what is missing ---------------------------------------------------------------


def add_a_torn_line(search: Path) -> None:
    with (search / "history.jsonl").open("a") as stream:
        stream.write('{"step": 3, "p": [[0.')


def remove(name: str):
    return lambda search: (search / name).unlink()


def write(name: str, text: str):
    return lambda search: (search / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (add_a_torn_line, "history.jsonl: 1 line(s) can't be read"),
        (remove("history.jsonl"), "search/history.jsonl is not there."),
        (remove("archive.json"), "search/archive.json is not there."),
        (write("archive.json", '{"format'), "search/archive.json can't be read"),
        (remove("genotypes/cycle_02.json"), "cycle_02.json is not there."),
        (remove("space.json"), "search/space.json is not there."),
        (write("space.json", "{}"), "search/space.json can't be read"),
        (remove("run.json"), "search/run.json is not there."),
        (write("run.json", '{"state": 1}'), "search/run.json can't be read"),
    ],
)
def test_what_is_missing_is_named_and_the_rest_is_read(tmp_path, damage, message):
    write_search(tmp_path / "a")
    damage(tmp_path / "a/search")
    run = read(tmp_path / "a")
    assert any(message in line for line in run.missing), run.missing
    assert run.history or "history" in message
    assert run.networks or "archive" in message


def test_a_search_that_has_hardly_begun(tmp_path):
    assert "before its first step" in read(tmp_path).missing[0]
    write_launch(tmp_path, config="train_cfg = dict(type='SearchLoop')\n")
    run = read(tmp_path)
    assert isinstance(run, SearchRun)
    assert "is before its first step" in run.missing[0]
    (tmp_path / "search").mkdir()
    run = read(tmp_path)
    assert len(run.missing) == 5 and run.best() is None


# -- trainings ---------------------------------------------------------------------


def lines(*steps: int) -> list[dict]:
    return [dict(loss=1.0 / s, epoch=1 + s // 6, iter=s, step=s) for s in steps]


def test_a_resumed_training_counts_each_step_once(tmp_path):
    path = write_training(tmp_path / "t", epochs=3)
    again = [dict(loss=9.0, epoch=3, iter=s, step=s) for s in range(11, 16)]
    again.append({"acc/top1": 0.99, "step": 3})
    config = "resume = True\nstarted_with = dict(device='H100')\n"
    write_launch(path, "20260103_100000", again, config)
    # A test is no start of the training, nor is its metric one of the curve.
    write_launch(path, "20260104_100000", [{"acc/top1": 0.1, "step": 0}])
    run = read(path)
    assert len(run.starts) == 2 and run.seconds == 2 * 7384
    assert run.starts[1]["device"] == "H100"
    assert [r["step"] for r in run.train] == list(range(1, 16))
    assert [r["loss"] for r in run.train[10:]] == [9.0] * 5
    assert [r["acc/top1"] for r in run.val] == [0.125, 0.25, 0.99]


def test_the_genotype_of_a_training(tmp_path):
    write_json(tmp_path / "g.json", genotype(BLOCKS))
    for source in (f"{tmp_path}/g.json", genotype(BLOCKS)):
        path = tmp_path / f"t{isinstance(source, str)}"
        config = f"model = dict(backbone=dict(genotype={source!r}))\n"
        write_launch(path, scalars=lines(3), config=config)
        run = read(path)
        assert run.missing == [] and list(run.genotype.blocks) == BLOCKS
    (tmp_path / "g.json").unlink()
    (message,) = read(tmp_path / "tTrue").missing
    assert "The genotype can't be read" in message and "g.json" in message
