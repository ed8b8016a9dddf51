# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Reading work directories, whole and broken ones."""

from __future__ import annotations

import json
import os
import shutil
import time
from datetime import datetime
from pathlib import Path

import pytest
from mmengine.hooks import Hook
from report_runs import (
    BUDGET,
    CANDIDATES,
    LOG,
    genotype,
    write_json,
    write_launch,
    write_search,
    write_training,
)
from searching import build_search, run_search

from pvnas_mmaction.report.runlog import find_launches, parse_config
from pvnas_mmaction.report.views import search_view
from pvnas_mmaction.report.workdir import (
    SearchRun,
    TrainRun,
    read_work_dir,
    read_work_dirs,
)
from pvnas_mmaction.search.archive import Archive


def test_a_search_as_it_was_written(tmp_path):
    run = read_work_dir(write_search(tmp_path / "a", lines=9))
    assert isinstance(run, SearchRun) and run.finished and run.missing == []
    assert run.name == "a" and run.seed == 7
    assert run.candidates() == CANDIDATES
    assert run.budget == dict(kind="flops", budget=BUDGET)
    assert [record["step"] for record in run.history] == list(range(0, 180, 10))
    assert [network.entry.cycle for network in run.networks] == [0, 1]
    assert run.best() is run.networks[1]
    file = tmp_path / "a/search/genotypes/cycle_02.json"
    assert run.networks[1].text == file.read_text()
    launches = run.launches
    assert launches.seconds == 2 * 3600 + 3 * 60 + 4
    assert launches.started == datetime(2026, 1, 2, 10, 0, 0)
    assert launches.command == "python tools/train.py toy.py --seed 7"
    assert launches.code_version == "0.0.9"
    assert launches.environment["PyTorch"] == "2.9.0+cpu"
    assert launches.config["model"] == {"backbone": {"type": "PVNASSupernet"}}


@pytest.mark.parametrize("archived", [True, False])
def test_the_network_that_a_search_ended_in(tmp_path, archived):
    """The one of lower accuracy, of the archive or not: it is chosen all the same."""
    folder = write_search(tmp_path / "a") / "search"
    archive = json.loads((folder / "archive.json").read_text())
    archive["final"] = dict(archive["entries"][0])
    if not archived:
        source = folder / archive["final"]["file"]
        archive["final"] |= dict(file="genotypes/final.json", cycle=1, accuracy=0.1)
        blocks = [*archive["final"]["blocks"][:3], "mb_t5_k3_e2"]
        archive["final"]["blocks"] = blocks
        final = json.loads(source.read_text()) | dict(blocks=blocks)
        write_json(folder / "genotypes/final.json", final)
    write_json(folder / "archive.json", archive)
    run = read_work_dir(tmp_path / "a")
    assert run.missing == []
    assert len(run.networks) == 2
    assert run.best() is run.final
    assert run.final.entry == Archive.load(folder / "archive.json").final
    cards = search_view(run, "a", None).cards
    chosen = [card.title for card in cards if "chosen" in card.badges]
    assert len(cards) == (2 if archived else 3)
    tiles = {label: value for label, value, _ in search_view(run, "a", None).tiles}
    assert tiles["networks found"] == str(len(run.judged)) == str(len(cards))
    assert chosen == ["Cycle 1" if archived else "End of search"]


def test_a_real_search(tmp_path):
    runner = run_search(tmp_path)
    run = read_work_dir(tmp_path)
    assert run.missing == [] and run.finished
    assert [n.entry for n in run.networks] == runner.train_loop.archive.entries
    assert run.history[-1]["step"] == 17
    assert run.best().entry == runner.train_loop.archive.final
    assert run.seed == runner.train_loop.seed
    assert run.space.to_config() == runner.train_loop.space.to_config()
    logged = [r for r in run.launches.scalars if "iter" in r]
    assert [r["step"] for r in logged] == list(range(1, 19))


def test_a_training_as_it_was_written(tmp_path):
    run = read_work_dir(write_training(tmp_path / "t", epochs=3, per_epoch=5))
    assert isinstance(run, TrainRun)
    assert run.missing == ["The config names no genotype: the network is not drawn."]
    val = [r for r in run.launches.scalars if "acc/top1" in r]
    assert [r["after_step"] for r in val] == [5, 10, 15]


def test_a_resumed_training_counts_each_step_once(tmp_path):
    run_dir = write_training(tmp_path / "t", epochs=3, per_epoch=5)
    again = [dict(loss=9.0, epoch=3, iter=s, step=s) for s in range(11, 16)]
    again.append({"acc/top1": 0.99, "step": 3})
    write_launch(run_dir, "20260103_100000", again)
    # A test is no start of the training, nor is its metric one of the curve.
    tested = write_launch(run_dir, "20260104_100000", [{"acc/top1": 0.1, "step": 0}])
    write_json(tested / f"{tested.name}.json", {"acc/top1": 0.1})
    launches = read_work_dir(run_dir).launches
    assert len(launches.folders) == 2
    assert launches.seconds == 2 * 7384
    train = [r for r in launches.scalars if "iter" in r]
    assert [r["step"] for r in train] == list(range(1, 16))
    assert [r["loss"] for r in train[10:]] == [9.0] * 5
    val = [r["acc/top1"] for r in launches.scalars if "acc/top1" in r]
    assert val == [0.125, 0.25, 0.99]


TRAINS = "train_cfg = dict(max_epochs=2)\nresume = {}\n"
SEARCHES = "train_cfg = dict(type='SearchLoop')\nresume = {}\n"


def _configure(folder: Path, text: str, resumed_at: int | None = None) -> None:
    (folder / "vis_data/config.py").write_text(text.format(resumed_at is not None))
    if resumed_at is not None:
        with (folder / f"{folder.name}.log").open("a") as log:
            log.write(
                "2026/01/02 12:03:04 - mmengine - INFO - "
                f"resumed epoch: 1, iter: {resumed_at}\n"
            )


def _lines(*steps: int) -> list[dict]:
    return [dict(loss=1.0 / s, epoch=1 + s // 6, iter=s, step=s) for s in steps]


def test_a_training_that_starts_anew_leaves_earlier_ones_out(tmp_path):
    starts = {
        "20260102_100000": (_lines(3, 6), None),
        "20260103_100000": (_lines(2, 4, 6, 9), None),
        # Killed at step 11, it went on from a checkpoint of step 5.
        "20260104_100000": (_lines(8, 10, 11), 5),
        # It found no checkpoint to go on from, and started at step 1 for that.
        "20260105_100000": (_lines(4, 8), None),
    }
    for name, (lines, resumed_at) in starts.items():
        folder = write_launch(tmp_path / "t", name, lines)
        _configure(folder, TRAINS, resumed_at)
        found = read_work_dir(tmp_path / "t").launches
        if name == "20260103_100000":
            assert [path.name for path in found.folders] == [name]
            assert [r["step"] for r in found.scalars] == [2, 4, 6, 9]
            assert found.seconds == 7384
        if name == "20260104_100000":
            assert len(found.folders) == 2
            assert [r["step"] for r in found.scalars] == [2, 4, 8, 10, 11]
    (folder / "vis_data/config.py").write_text(TRAINS.format(True))
    found = read_work_dir(tmp_path / "t").launches
    assert found.folders == [folder]
    assert [r["step"] for r in found.scalars] == [4, 8]


def test_starts_that_logged_nothing_are_passed_over(tmp_path):
    """A test that was killed, and a training that was killed before its first line."""
    first = write_launch(tmp_path / "t", scalars=_lines(3, 6))
    _configure(first, TRAINS)
    for name in ("20260103_100000", "20260104_100000"):
        killed = write_launch(tmp_path / "t", name)
        _configure(killed, TRAINS)
        (killed / "vis_data/scalars.json").unlink()
    launches = read_work_dir(tmp_path / "t").launches
    assert launches.folders == [first]
    assert len(launches.scalars) == 2 and launches.seconds == 7384


def test_a_training_in_a_search_s_directory_is_a_run_of_its_own(tmp_path):
    path = write_search(tmp_path / "a")
    searched = path / "20260102_100000"
    _configure(searched, SEARCHES)
    trained = write_launch(path, "20260103_100000", _lines(3, 6))
    _configure(trained, TRAINS)
    late = LOG.replace("2026/01/02", "2026/01/03").replace("--seed 7", "--seed 8")
    (trained / "20260103_100000.log").write_text(late)
    search, training = read_work_dirs([path])
    assert isinstance(search, SearchRun) and isinstance(training, TrainRun)
    assert (search.name, training.name) == ("a", "a, training")
    assert search.launches.folders == [searched] and search.launches.scalars == []
    assert search.launches.command.endswith("--seed 7")
    assert training.launches.folders == [trained]
    assert training.launches.command.endswith("--seed 8")
    assert len(training.launches.scalars) == 2
    # A start that logged nothing is none.
    (trained / "vis_data/scalars.json").unlink()
    assert len(read_work_dirs([path])) == 1


def test_a_search_that_was_moved_aside_is_reported(tmp_path):
    path = write_search(tmp_path / "a")
    earlier = path / "search_before_20260104_100000"
    (path / "search").rename(earlier)
    write_search(tmp_path / "b", lines=6, finished=False)
    (tmp_path / "b/search").rename(path / "search_before_20260106_100000")
    write_search(tmp_path / "c", seed=9)
    (tmp_path / "c/search").rename(path / "search")
    folders = ("20260103_100000", "20260104_100000", "20260105_100000",
               "20260106_100000")  # fmt: skip
    for name in folders:
        _configure(write_launch(path, name), SEARCHES, 5 if name[7] in "35" else None)
    _configure(path / "20260102_100000", SEARCHES)
    run = read_work_dir(path)
    assert run.seed == 9 and run.missing == []
    assert [p.name for p in run.launches.folders] == ["20260106_100000"]
    assert [p.name for p in run.earlier] == [
        "search_before_20260104_100000", "search_before_20260106_100000"
    ]  # fmt: skip
    pairs = dict(search_view(run, "a", None).provenance)
    assert "search_before_20260104_100000" in pairs["Earlier searches here"]
    first, second = read_work_dirs(run.earlier)
    assert first.name == "a/search_before_20260104_100000"
    assert first.missing == [] and first.finished and first.seed == 7
    assert len(first.history) == 24 and len(first.networks) == 2
    names = [p.name for p in first.launches.folders]
    assert names == ["20260102_100000", "20260103_100000"]
    assert len(second.history) == 12 and second.earlier == []
    assert second.missing == [
        "genotype.json is not there: the search was stopped before its end."
    ]
    names = [p.name for p in second.launches.folders]
    assert names == ["20260104_100000", "20260105_100000"]


def test_a_validation_stands_at_the_steps_before_it(tmp_path):
    """Not at those of the last line of training, which an epoch may go on after."""
    text = "2026/01/02 12:03:04 - mmengine - INFO - Epoch({})  [{}][{}/{}]  lr: 1\n"
    lines, log = [], LOG
    for epoch in (1, 2, 3):
        # Epochs of 50 steps, a line every 20; the second validation is left out.
        for inner in (20, 40):
            lines += _lines(50 * (epoch - 1) + inner)
            lines[-1]["epoch"] = epoch
            log += text.format("train", epoch, inner, 50)
        if epoch != 2:
            lines.append({"acc/top1": 0.25, "step": epoch})
            log += text.format("val", epoch, 4, 4)
    folder = write_launch(tmp_path / "t", scalars=lines)
    (folder / f"{folder.name}.log").write_text(log)
    val = [r for r in read_work_dir(tmp_path / "t").launches.scalars if "acc/top1" in r]
    assert [r["after_step"] for r in val] == [50, 150]
    # A loop that counts steps logs the step of a validation itself.
    by_step = [*_lines(20, 40), {"acc/top1": 0.25, "step": 50}]
    write_launch(tmp_path / "s", scalars=by_step)
    assert read_work_dir(tmp_path / "s").launches.scalars[-1]["after_step"] == 50


def _cut_last_line(search: Path) -> None:
    path = search / "history.jsonl"
    path.write_text(path.read_text()[:-40])


def _other_lines(search: Path) -> None:
    lines = ["[1, 2]", json.dumps({"step": 3}),
             json.dumps({"step": 4, "cycle": 0, "p": [[0.5, 0.5]]}),
             json.dumps({"step": 5, "cycle": 0,
                         "p": [[float("nan")]] * 4})]  # fmt: skip
    with (search / "history.jsonl").open("a") as stream:
        stream.write("\n".join(lines))


def _set(path: Path, **changes) -> None:
    write_json(path, json.loads(path.read_text()) | changes)


def _file_elsewhere(search: Path) -> None:
    path = search / "archive.json"
    archive = json.loads(path.read_text())
    archive["entries"][0]["file"] = "/nowhere/cycle_01.json"
    write_json(path, archive)


def _break_genotype(search: Path) -> None:
    (search / "genotypes/cycle_01.json").write_text('{"format_version": 1}')


BROKEN = {
    "half a line": (_cut_last_line, "history.jsonl: 1 line(s) can't be read"),
    "other lines": (_other_lines, "history.jsonl: 4 line(s) can't be read"),
    "no history": (
        lambda s: (s / "history.jsonl").unlink(),
        "search/history.jsonl is not there: there is nothing to draw over time",
    ),
    "empty history": (
        lambda s: (s / "history.jsonl").write_text(""),
        "search/history.jsonl holds no line yet",
    ),
    "no archive": (
        lambda s: (s / "archive.json").unlink(),
        "search/archive.json is not there: no cycle has ended yet",
    ),
    "half an archive": (
        lambda s: (s / "archive.json").write_text('{"format_version": 1, "entr'),
        "search/archive.json can't be read",
    ),
    "a genotype that is none": (
        _break_genotype,
        "search/genotypes/cycle_01.json can't be read",
    ),
    "no genotype": (
        lambda s: (s / "genotypes/cycle_02.json").unlink(),
        "search/genotypes/cycle_02.json is not there: this network is not drawn",
    ),
    "no space": (
        lambda s: (s / "space.json").unlink(),
        "search/space.json is not there: candidates are numbered",
    ),
    "a space that is none": (
        lambda s: write_json(s / "space.json", {"space": {"name": "x"}}),
        "search/space.json can't be read",
    ),
    "a budget that is none": (
        lambda s: _set(s / "space.json", budget=5),
        "search/space.json can't be read",
    ),
    "a shape that is none": (
        lambda s: _set(s / "space.json", input_shape=[3, 8]),
        "search/space.json can't be read (input_shape: found [3, 8], expected",
    ),
    "a file elsewhere": (
        _file_elsewhere,
        "/nowhere/cycle_01.json is not there: this network is not drawn",
    ),
    "no end": (
        lambda s: (s / "genotype.json").unlink(),
        "search/genotype.json is not there: the search is still running",
    ),
    "no log": (
        lambda s: shutil.rmtree(s.parent / "20260102_100000"),
        "There is no log folder",
    ),
    "empty log": (
        lambda s: (s.parent / "20260102_100000/20260102_100000.log").write_text(""),
        "The log is empty or missing",
    ),
    "half scalars": (
        lambda s: (s.parent / "20260102_100000/vis_data/scalars.json").write_text("{"),
        "scalars.json: 1 line(s) can't be read",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_missing_is_named_and_the_rest_is_read(tmp_path, name):
    damage, message = BROKEN[name]
    write_search(tmp_path / "a")
    damage(tmp_path / "a/search")
    run = read_work_dir(tmp_path / "a")
    assert any(message in line for line in run.missing), run.missing
    assert run.history or "history" in name or name == "no history"
    assert len(run.networks) in (1, 2) or "archive" in name


def test_without_a_space_candidates_are_numbered(tmp_path):
    write_search(tmp_path / "a")
    (tmp_path / "a/search/space.json").unlink()
    run = read_work_dir(tmp_path / "a")
    assert [len(row) for row in run.candidates()] == [3, 4, 2, 3]
    assert run.candidates()[2] == ["candidate 1", "candidate 2"]


def test_a_search_that_has_only_made_its_folder(tmp_path):
    (tmp_path / "a/search").mkdir(parents=True)
    run = read_work_dir(tmp_path / "a")
    assert len(run.missing) == 6 and run.best() is None


def test_an_empty_directory_is_said_to_be_empty(tmp_path):
    run = read_work_dir(tmp_path)
    assert run.missing == [
        "The directory is empty: the search has not started, or wrote elsewhere."
    ]


def test_a_wrong_path_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such directory"):
        read_work_dir(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"notes.txt: found a file, expected the work"):
        read_work_dir(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match="found neither search/ nor a folder <date>"):
        read_work_dir(tmp_path)


def test_names_tell_runs_apart(tmp_path):
    paths = [tmp_path / name for name in ("a/run", "b/run", "c/other")]
    for path in paths:
        path.mkdir(parents=True)
    names = [run.name for run in read_work_dirs(paths)]
    assert names == ["a/run", "b/run", "other"]
    names = [run.name for run in read_work_dirs([paths[2], paths[2]])]
    assert len(set(names)) == 2


def test_a_config_is_read_without_being_run(tmp_path):
    target = tmp_path / "made"
    text = (
        f"import os\na = os.mkdir({str(target)!r})\nb = [1, (2, -3), {{'x': None}}]\n"
        "c = dict(d=dict(e='f'))\ng = dict([(1, 2)])\nh: int = 3\n"
    )
    assert parse_config(text) == {
        "b": [1, (2, -3), {"x": None}],
        "c": {"d": {"e": "f"}},
    }
    assert not target.exists()
    assert parse_config("a = (") == {}


def test_starts_of_an_earlier_search_are_not_counted(tmp_path):
    """A search that starts in a folder moves an earlier one beside its own."""
    write_search(tmp_path / "a")
    write_launch(tmp_path / "a", "20260103_110000")
    folder = write_launch(tmp_path / "a", "20260105_120000")
    late = LOG.replace("2026/01/02", "2026/01/05").replace("--seed 7", "--seed 8")
    (folder / "20260105_120000.log").write_text(late)
    # It has logged no step yet: all the same, the config is its own.
    (folder / "vis_data/scalars.json").unlink()
    (folder / "vis_data/config.py").write_text("model = dict(type='other')\n")
    for start in ("20260103_110000", "20260105_120000"):
        (tmp_path / f"a/search_before_{start}").mkdir()
    launches = read_work_dir(tmp_path / "a").launches
    assert launches.folders == [folder]
    assert launches.seconds == 7384
    assert launches.started == datetime(2026, 1, 5, 10)
    assert launches.command.endswith("--seed 8")
    assert launches.config == {"model": {"type": "other"}}


def test_a_real_search_after_another_one(tmp_path):
    run_search(tmp_path, log_level="INFO")
    (first,) = find_launches(tmp_path)
    # Folders are named by the second.
    while datetime.now().strftime("%Y%m%d_%H%M%S") == first.name:
        time.sleep(0.05)
    run_search(tmp_path, log_level="INFO")
    run = read_work_dir(tmp_path)
    (second,) = run.launches.folders
    assert second != first and run.missing == []
    assert run.launches.started >= datetime.strptime(second.name, "%Y%m%d_%H%M%S")


def test_the_environment_is_that_of_the_last_start(tmp_path):
    """Begun on a GPU, resumed without one."""
    write_search(tmp_path / "a")
    log = tmp_path / "a/20260102_100000/20260102_100000.log"
    on_gpu = LOG.replace(
        "CUDA available: False", "CUDA available: True\n    GPU 0: NVIDIA H100"
    )
    log.write_text(on_gpu)
    assert read_work_dir(tmp_path / "a").launches.environment["GPU 0"] == "NVIDIA H100"
    write_launch(tmp_path / "a", "20260103_110000")
    environment = read_work_dir(tmp_path / "a").launches.environment
    assert "GPU 0" not in environment and environment["CUDA available"] == "False"


@pytest.mark.parametrize("searches", [True, False])
def test_a_start_that_wrote_nothing_is_told_by_its_config(tmp_path, searches):
    folder = write_launch(tmp_path / "a")
    if searches:
        config = "train_cfg = dict(type='SearchLoop', max_epochs=3)\n"
        (folder / "vis_data/config.py").write_text(config)
    run = read_work_dir(tmp_path / "a")
    assert isinstance(run, SearchRun if searches else TrainRun)
    if searches:
        assert run.missing == [
            "search/ is not there: the search has not come to its first step."
        ]


def test_a_finished_search_that_goes_on_from_an_earlier_step(tmp_path):
    hooks = [
        dict(type="LRDiversityHook", mode="diversity", num_cycles=2),
        dict(type="SearchHistoryHook", interval=1),
    ]
    run_search(tmp_path, custom_hooks=hooks)
    assert read_work_dir(tmp_path).finished
    seen = []

    class Look(Hook):
        priority = "VERY_LOW"

        def after_train_iter(self, runner, *_, **__):
            seen.append(read_work_dir(tmp_path))

    checkpoint = str(tmp_path / "epoch_5.pth")
    again = build_search(
        tmp_path, custom_hooks=hooks, resume=True, load_from=checkpoint
    )
    again.register_hook(Look())
    again.train()
    # After the last step the archive is its own again.
    assert [run.finished for run in seen] == [False, False, True]
    for run in seen[:2]:
        assert any("resumed at an earlier step" in line for line in run.missing)
    assert read_work_dir(tmp_path).missing == seen[2].missing == []


def test_a_genotype_that_is_newer_than_the_training(tmp_path):
    """As when another search has replaced the file that the config names."""
    run_dir = write_training(tmp_path / "t")
    write_json(tmp_path / "g.json", genotype(["mb_t1_k3_e2", "skip"] * 2))
    (config,) = run_dir.glob("*/vis_data/config.py")
    config.write_text(f"model = dict(backbone=dict(genotype='{tmp_path}/g.json'))\n")
    start = datetime(2026, 1, 2, 10).timestamp()
    for written, number in ((start - 60, 0), (start + 60, 1)):
        os.utime(tmp_path / "g.json", (written, written))
        found = read_work_dir(run_dir).missing
        assert len(found) == number
    assert "g.json has been written since the training started" in found[0]


def test_a_log_of_several_starts_adds_up(tmp_path):
    write_search(tmp_path / "a")
    folder = write_launch(tmp_path / "a", "20260103_110000")
    late = LOG.replace("2026/01/02", "2026/01/03").replace("--seed 7", "--resume")
    (folder / "20260103_110000.log").write_text(late)
    launches = read_work_dir(tmp_path / "a").launches
    assert launches.seconds == 2 * 7384
    assert launches.started == datetime(2026, 1, 2, 10)
    assert launches.ended == datetime(2026, 1, 3, 12, 3, 4)
    assert launches.command.endswith("--resume")
