"""What a search writes: run.json, its history, pictures of its networks."""

import json
import os
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from mmengine.hooks import Hook
from searching import build_search, run_search

import pvnas_mmaction
from pvnas_mmaction.engine.search_files import read_starts, start_facts
from pvnas_mmaction.engine.search_history_hook import SearchHistoryHook
from pvnas_mmaction.report.drawing import OTHER_COLOR, family_colors
from pvnas_mmaction.report.genotype_picture_hook import GenotypePictureHook
from pvnas_mmaction.search.archive import Archive
from pvnas_mmaction.search.diversity import diversity


class At(Hook):
    """Does something after a step."""

    def __init__(self, step: int, act) -> None:
        self.step, self.act = step, act

    def after_train_iter(self, runner, *_, **__) -> None:
        if runner.iter == self.step:
            self.act(runner)


def read(work_dir: Path) -> dict:
    return json.loads((work_dir / "search/run.json").read_text())


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
    assert start["step"] == 0
    times = [datetime.fromisoformat(start[name]) for name in ("started", "ended")]
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("error", "state"), [(KeyboardInterrupt(), "interrupted"), (OSError("x"), "failed")]
)
def test_a_search_that_is_stopped_and_resumed(tmp_path, error, state):
    runner = build_search(tmp_path)
    runner.register_hook(At(7, Mock(side_effect=error)))
    with pytest.raises(type(error)):
        runner.train()
    record = read(tmp_path)
    assert record["state"] == state
    assert record["error"] == (None if state == "interrupted" else "OSError: x")
    assert record["starts"][0]["ended"] is not None
    (tmp_path / "run.json").write_text('{"starts": [')
    with pytest.raises(ValueError, match=r"run\.json: expected the starts of a search"):
        read_starts(tmp_path / "run.json")
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


# -- history and pictures ----------------------------------------------------------

EVERY_FIVE = dict(checkpoint=dict(by_epoch=False, interval=5, max_keep_ckpts=-1))
HOOKS = [
    dict(type="LRDiversityHook", num_cycles=2),
    dict(type="SearchHistoryHook", interval=2),
    dict(type="GenotypePictureHook"),
]
BACKENDS = [dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> Path:
    work_dir = tmp_path_factory.mktemp("search")
    visualizer = dict(type="Visualizer", vis_backends=BACKENDS)
    changes = dict(custom_hooks=HOOKS, visualizer=visualizer)
    run_search(work_dir, default_hooks=EVERY_FIVE, **changes)
    return work_dir


def test_a_line_tells_of_its_step(searched):
    lines = (searched / "search/history.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    # Every second step, and the last one.
    assert [r["step"] for r in records] == [*range(0, 18, 2), 17]
    (path,) = searched.glob("*/vis_data/scalars.json")
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
    with pytest.raises(ValueError, match="interval: expected a whole number"):
        SearchHistoryHook(0)


@pytest.mark.parametrize("torn", ["", '{"step": 12, "ep'])
def test_a_resumed_search_drops_what_it_takes_again(searched, tmp_path, torn):
    before = (searched / "search/history.jsonl").read_text()
    kept = before.splitlines(keepends=True)[:7] if torn else [before]
    (tmp_path / "search").mkdir()
    (tmp_path / "search/history.jsonl").write_text("".join(kept) + torn)
    changes = dict(resume=True, load_from=str(searched / "iter_10.pth"))
    run_search(tmp_path, default_hooks=EVERY_FIVE, **changes)
    assert (tmp_path / "search/history.jsonl").read_text() == before


def test_every_cycle_has_a_picture(searched):
    """On disk and, next to the scalars, in TensorBoard."""
    module = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    (folder,) = {path.parent for path in searched.rglob("events.*")}
    events = module.EventAccumulator(str(folder)).Reload()
    entries = Archive.load(searched / "search/archive.json").entries
    shown = {
        image.step: image.encoded_image_string for image in events.Images("genotype")
    }
    assert list(shown) == [entry.step for entry in entries] and len(entries) == 2
    for entry in entries:
        (file,) = searched.rglob(f"vis_image/genotype_{entry.step}.png")
        families = {block.split("_")[0] for block in entry.blocks} - {"skip"}
        expected = {family_colors()[family] for family in families} | {OTHER_COLOR}
        for data in (file.read_bytes(), shown[entry.step]):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            colors = {f"#{r:02X}{g:02X}{b:02X}" for b, g, r in image.reshape(-1, 3)}
            assert expected <= colors
    for name in ("diversity", "gain", "expected_cost", "weights_lr", "alpha_loss"):
        assert events.Scalars(name)
    assert [event.step for event in events.Scalars("diversity")] == list(range(1, 19))


def test_what_a_search_ends_in_is_shown_where_its_archive_lacks_it(searched):
    archive = Archive.load(searched / "search/archive.json")
    first = archive.entries[0]
    archive.final = replace(first, blocks=("another", "network"))
    hook, shown = GenotypePictureHook(), []
    hook._show = lambda runner, entry, *names: shown.append((entry, *names))
    search = SimpleNamespace(archive=archive, at_cycle_end=True)
    loop = SimpleNamespace(search=search)
    hook.after_train_iter(SimpleNamespace(train_loop=loop), 0)
    assert shown == [
        (archive.entries[1], "genotype", "Cycle 2"),
        (archive.final, "genotype_final", "Found at the end"),
    ]
