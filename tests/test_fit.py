"""``pvnas fit`` on 40 tiny clips, also killed in each step, and ``pvnas predict``."""

import csv
import errno
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from mmaction.registry import DATASETS
from mmengine.registry import init_default_scope
from searching import run_forked
from tool_processes import CONFIGS, RETRAIN, SEARCH

from pvnas_mmaction.apis import clip_split, comparison, onnx_predict, verb_steps
from pvnas_mmaction.apis.comparison import bootstrap_interval
from pvnas_mmaction.apis.config_files import load_config
from pvnas_mmaction.apis.export import load_trained, preprocessing_of
from pvnas_mmaction.apis.fit import fit
from pvnas_mmaction.apis.run_checks import RunCheckHook
from pvnas_mmaction.apis.termination import Terminated, TerminationHook, _State
from pvnas_mmaction.apis.video_folder import Clip
from pvnas_mmaction.engine.lr_diversity_hook import LRDiversityHook
from pvnas_mmaction.profiling.onnx_parts import measured_ms
from pvnas_mmaction.report.predictions import load_scores
from pvnas_mmaction.space.genotype import load_genotype

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
BUDGET = 0.0015
# Where a run is killed: before a verb that is called for so many times, or in it.
POINTS = [
    ("search", 7), ("derive", 0), ("train", 4), ("test", 0), ("train", 2),
    ("export", 0), ("report", 0),
]  # fmt: skip


@pytest.fixture(scope="module")
def videos(motion_clips, tmp_path_factory) -> Path:
    """Five clips of each class in class folders."""
    folder = tmp_path_factory.mktemp("fit") / "Meine Vidéos ü"
    names = (motion_clips / "classes.txt").read_text().split()
    lines = (motion_clips / "train.txt").read_text().splitlines()
    lines += (motion_clips / "val.txt").read_text().splitlines()
    for path, label in (line.split() for line in lines):
        inner = folder / names[int(label)]
        inner.mkdir(parents=True, exist_ok=True)
        if len(list(inner.iterdir())) < 5:
            shutil.copy(motion_clips / path, inner / path.replace("/", " "))
    return folder


@pytest.fixture(scope="module")
def settings(videos) -> dict:
    config, train = videos.parent / "s.py", videos.parent / "t.py"
    config.write_text(
        f"_base_ = {str(CONFIGS / SEARCH)!r}\n"
        "train_cfg = dict(max_epochs=2, min_steps=12, num_ranked=1)\n"
        "default_hooks = dict(checkpoint=dict(interval=2))\n"
    )
    train.write_text(f"_base_ = {str(CONFIGS / RETRAIN)!r}\n")
    return dict(
        config=str(config), train_config=str(train), budget_gflops=BUDGET,
        num_networks=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def fitted(videos, settings) -> Path:
    out = videos.parent / "out"
    assert run_forked(fit, videos, out=out, **settings) == 0
    return out


def test_what_is_written(fitted, videos) -> None:
    result = json.loads((fitted / "result.json").read_text())
    names = sorted(path.name for path in videos.iterdir())
    assert result["classes"] == names
    assert (fitted / "labels.txt").read_text().split() == names
    seen = set()
    for split, count in dict(train=24, val=8, test=8).items():
        lines = (fitted / f"{split}.txt").read_text().splitlines()
        assert len(lines) == count
        assert {int(line.split()[-1]) for line in lines} == set(range(8))
        seen.update(lines)
    assert len(seen) == 40
    costs = {name: row["cost"] for name, row in result["networks"].items()}
    assert list(costs) == ["searched_1", "reference"]
    assert max(costs.values()) <= BUDGET * 1e9
    chosen = result["networks"][result["chosen"]]
    assert list(load_genotype(fitted / "genotype.json").blocks) == chosen["blocks"]
    commands = (fitted / "commands.sh").read_text().splitlines()
    verbs = " ".join(line.split()[1] for line in commands)
    assert verbs == "search derive train test train test export report"
    assert (fitted / "report.html").stat().st_size > 10_000
    assert "measured_ms" not in result  # the budget is no time
    search = load_config(str(fitted / "work" / "search.py"))
    shape = search.train_cfg.input_shape
    assert 0 < measured_ms(fitted / "model.onnx", shape, 1) < 1000
    assert search.train_dataloader.num_workers == 0  # frames are cached
    assert not (fitted / "work" / "frames").exists()
    assert "cache" in (fitted / "work" / "search.py").read_text()
    assert "cache" not in (fitted / "config.py").read_text()


def predictions(path: Path) -> np.ndarray:
    found = json.loads(path.read_text())["predictions"]
    return np.array([row["probabilities"] for row in found])


def test_predictions_with_and_without_torch(
    fitted, videos, tmp_path, call_tool
) -> None:
    """They are those of the test tool; the folder may move; no torch is imported."""
    moved = tmp_path / "mit Leerzeichen ä"
    shutil.copytree(fitted, moved)
    lines = (fitted / "test.txt").read_text().splitlines()
    files = [str(videos / line.rsplit(" ", 1)[0]) for line in lines]
    assert not call_tool("predict", moved, *files, "--out", tmp_path / "torch.json")
    code = """import runpy, sys
del sys.argv[0]
sys.modules.update(torch=None, pvnas_mmaction=None)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    command = [sys.executable, "-c", code, onnx_predict.__file__, moved, *files]
    command += ["--out", tmp_path / "onnx.json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    by_torch, by_onnx = (predictions(tmp_path / f"{n}.json") for n in ("torch", "onnx"))
    chosen = json.loads((fitted / "result.json").read_text())["chosen"]
    pairs = load_scores(fitted / "work" / chosen / "test.pkl")
    expected = np.array([scores.numpy() for _, scores in pairs])
    assert abs(by_torch - expected).max() < 1e-5
    assert abs(by_onnx - expected).max() < 1e-3
    assert (by_onnx.argmax(1) == expected.argmax(1)).all()
    assert len({tuple(row) for row in expected.round(6).tolist()}) > 4


def test_windows_and_csv(fitted, videos, tmp_path, capsys) -> None:
    """8 frames at 12 per second: windows of 3 frames, and one at the very end."""
    deployed = load_trained(str(fitted), None, "cpu")
    (video,) = onnx_predict.find_videos([str(next((videos / "grow").iterdir()))])
    rows = onnx_predict.predict(deployed, video, window=0.25)
    times = [(round(r["start"] * 12), round(r["end"] * 12)) for r in rows]
    assert times == [(0, 3), (3, 6), (5, 8)]
    for row in rows:
        assert sum(row["probabilities"]) == pytest.approx(1)
        row["top"] = ["grow"]
    onnx_predict.write(rows, deployed.labels, tmp_path / "a" / "b.csv")
    table = list(csv.reader((tmp_path / "a" / "b.csv").open()))
    assert table[0][:4] == ["video", "start", "end", "top_1"]
    assert [row[1] for row in table[1:]] == ["0.000", "0.250", "0.417"]


@pytest.mark.parametrize(
    "name",
    ["s_retrain_1xb8-u8-12e_custom-rgb", "tiny_retrain_1xb8-6x1x1-2e_motion-clips"],
)
def test_preprocessing_is_that_of_the_test_pipeline(name, motion_clips) -> None:
    init_default_scope("mmaction")
    cfg = load_config(f"pvnas_mmaction::pvnas/pvnas-{name}.py")
    dataset = cfg.test_dataloader.dataset
    dataset.update(ann_file=str(motion_clips / "val.txt"), num_classes=8,
                   data_prefix=dict(video=str(motion_clips)))  # fmt: skip
    built = DATASETS.build(dataset)
    preprocessing = preprocessing_of(cfg)
    for index in range(3):
        expected = built[index]["inputs"][0].numpy().astype(np.float32)
        keys = ("mean", "std")
        mean, std = (np.float32(preprocessing[k])[:, None, None, None] for k in keys)
        path = built.get_data_info(index)["filename"]
        ((clip, _),) = onnx_predict.clips_of(path, preprocessing)
        assert (clip == (expected - mean) / std).all()


def fit_and_die(verb: str, steps: int, videos: Path, **settings) -> None:
    """Fit, and be killed before a verb, or at the start of its n-th training step."""
    call, left = verb_steps.call, itertools.count(steps, -1)
    hook = LRDiversityHook if verb == "search" else RunCheckHook
    before = hook.before_train_iter

    def die_at_last(*args, **kwargs):
        if next(left) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        before(*args, **kwargs)

    def killing(name, argv):
        if name == verb:
            if steps == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            hook.before_train_iter = die_at_last
        call(name, argv)

    verb_steps.call = killing
    fit(videos, **settings)


@pytest.mark.slow
def test_killed_in_each_step(fitted, videos, settings, tmp_path) -> None:
    """The same command goes on, and ends in the same result."""
    out = tmp_path / "out"
    for verb, steps in POINTS:
        code = run_forked(fit_and_die, verb, steps, videos, out=out, **settings)
        assert code == -signal.SIGKILL, (verb, steps)
    assert not (out / "result.json").exists()
    assert run_forked(fit, videos, out=out, **settings) == 0
    first, second = (json.loads((f / "result.json").read_text()) for f in (fitted, out))
    assert first == second
    files = [f / "checkpoint.pth" for f in (fitted, out)]
    states = [torch.load(f, weights_only=True)["state_dict"] for f in files]
    assert states[0].keys() == states[1].keys()
    assert all(map(torch.equal, states[0].values(), states[1].values()))


def test_sigterm_while_networks_are_judged(monkeypatch) -> None:
    """After the last step nothing looks whether it came but the end of the search."""
    monkeypatch.setattr(_State, "asked", True)
    with pytest.raises(Terminated):
        TerminationHook().after_train(Mock())


# -- what a user gets wrong ----------------------------------------------------------


def wrong_folder(tmp_path: Path, videos: Path, kind: str) -> Path:
    folder = tmp_path / "videos"
    if kind == "empty":
        folder.mkdir()
    elif kind != "none":
        shutil.copytree(videos, folder)
    if kind == "one class":
        for inner in sorted(folder.iterdir())[1:]:
            shutil.rmtree(inner)
    elif kind == "one clip":
        for file in sorted((folder / "grow").iterdir())[1:]:
            file.unlink()
    elif kind.endswith("corrupt"):
        for file in folder.rglob("*.mp4" if kind == "corrupt" else "grow/*.mp4"):
            file.write_bytes(b"no video")
    return folder


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("none", "", "VIDEOS: expected a folder with a folder of videos for each cl"),
        ("empty", "", "VIDEOS: .* two classes or more, got no videos in .*/\\*/"),
        ("one class", "", "VIDEOS: .* two classes or more, got videos of one class "),
        ("one clip", "", "VIDEOS: expected 5 clips or more of each class that can b"),
        ("one class corrupt", "", r"got 0 of .* \(5 set aside: .*\); add clips"),
        ("corrupt", "", "VIDEOS: expected clips that can be read, got none of 40, s"),
        ("whole", "--budget-gflops 1e-4", "--budget-gflops: .* or more, the cheap"),
        ("whole", "--budget-gflops -1", "budget: expected a number above 0 for one"),
        ("whole", "--group-regex (", "--group-regex: expected a regular expression"),
        ("whole", "--group-regex xyz", "--group-regex: .* no match in"),
        ("whole", "--group-regex mp4", "VIDEOS: .* lacks one; add clips, or name g"),
        ("whole", "--config a.py", "--config: expected --train-config as well"),
    ],
)
def test_one_line(kind, options, message, tmp_path, videos, call_tool) -> None:
    folder = wrong_folder(tmp_path, videos, kind)
    argv = [folder, "--out", tmp_path / "out", "--space", "tiny", *options.split()]
    if "budget" not in options:
        argv += ["--budget-gflops", 1]
    line = call_tool("fit", *argv)
    assert re.search(message, line), line


def test_an_out_that_cannot_be_used(fitted, videos, settings, monkeypatch) -> None:
    """Another call's folder stays as it is."""
    before = sorted(fitted.rglob("*"))
    with pytest.raises(ValueError, match="--out: expected a fit with budget_gflops 1"):
        fit(videos, out=fitted, **{**settings, "budget_gflops": 1.0})
    assert sorted(fitted.rglob("*")) == before
    error = OSError(errno.EROFS, os.strerror(errno.EROFS))
    monkeypatch.setattr(tempfile, "TemporaryFile", Mock(side_effect=error))
    with pytest.raises(ValueError, match="--out: expected a folder that can be"):
        fit(videos, out=fitted, **settings)


def test_a_clip_that_cannot_be_read_is_set_aside(videos, settings, tmp_path, capsys):
    folder = tmp_path / "videos"
    shutil.copytree(videos, folder)
    (folder / "grow" / "bad.mp4").write_bytes(b"no video")
    first, *_ = (folder / "grow").iterdir()
    shutil.copy(first, folder / "grow" / "line\nbreak.mp4")
    shutil.copytree(folder / "grow", folder / ".hidden")
    assert fit(folder, out=tmp_path / "out", dry_run=True, **settings) is None
    printed = capsys.readouterr().out
    assert "2 of 42 clips can't be read, set aside:\n  grow/bad.mp4: " in printed
    assert "grow/line?break.mp4: its name can't stand in a list" in printed
    assert "hidden" not in printed
    assert "minute(s) on this machine\nNothing was trained" in printed
    assert "bad" not in "".join(p.read_text() for p in (tmp_path / "out").glob("*.txt"))


def test_progress_in_place_of_logs(tmp_path, monkeypatch, capsys) -> None:
    def call(verb: str, argv: list) -> None:
        print("before the runner")
        for step in (50, 75):
            clock[0] += 20
            print(f"Epoch(train) [1][{step}/100]  lr: 0.1  eta: 0:01:00  time: 0.1")

    clock = [0.0]
    monkeypatch.setattr(verb_steps, "call", call)
    monkeypatch.setattr(verb_steps.time, "monotonic", lambda: clock[0])
    steps = verb_steps.Steps(tmp_path)
    for _ in range(2):
        steps.run("search", "Searching", ("search", ["a b.py"]))
    told = capsys.readouterr().out.splitlines()
    assert told == ["Searching ...", "  Epoch(train) [1][75/100], 0:01:00 left"]
    assert (tmp_path / "commands.sh").read_text() == "pvnas search 'a b.py'\n"
    assert "[50/100]  lr: 0.1" in (tmp_path / "fit.log").read_text()


# -- parts ---------------------------------------------------------------------------


def clip(name: str, label: int, *hashes: int) -> Clip:
    return Clip(f"{name}.mp4", label, 10, 25.0, 32, 32, hashes)


def test_near_duplicates_stay_together() -> None:
    """Twelve scenes of five clips each, whose frames differ in few bits."""
    scenes, *others = np.random.default_rng(0).integers(0, 2**63, (6, 12)).tolist()
    clips = [
        clip(f"{s % 3}/{s}_{k}", s % 3, scene ^ (1 << k), others[k][s])
        for s, scene in enumerate(scenes)
        for k in range(5)
    ]
    grouped = clip_split.group_clips(clips, None)
    assert len({c.group for c in grouped}) == 12
    lists = clip_split.split_clips(grouped, 0)
    sides = {(c.path.split("_")[0], split) for split in lists for c in lists[split]}
    assert len(sides) == 12
    assert clip_split.lacking(lists) is None
    by_name = clip_split.group_clips(clips, r"/(\d+)_")
    assert {c.group for c in by_name} == {str(i) for i in range(12)}


@pytest.mark.parametrize(
    ("right", "costs", "chosen", "why"),
    [
        ("11111110", (10, 9), "searched_1", None),  # beyond the interval
        ("00000001", (9, 10), "reference", None),
        ("00111111", (10, 9), "reference", "cheaper"),
        ("11110000", (9, 10), "searched_1", "cheaper"),
        ("00111111", (10, 9.95), "searched_1", "better"),  # as expensive
        ("11000000", (9.95, 10), "reference", "better"),
        ("11110000", (9.95, 10), "searched_1", "cheaper"),
    ],
)
def test_which_network_is_exported(monkeypatch, right, costs, chosen, why) -> None:
    other = "00001111" if why else right.translate(str.maketrans("01", "10"))
    hits = dict(searched_1=right, reference=other)

    def scores(name: str) -> list:
        return [(1, np.array([0, int(hit)])) for hit in hits[name]]

    monkeypatch.setattr(comparison, "load_scores", scores)
    rows = {n: dict(cost=c, validation=0.5) for n, c in zip(hits, costs, strict=True)}
    result = comparison.compare(rows, {name: name for name in rows})
    assert result["chosen"] == chosen and result["as_good"] == bool(why)
    text = comparison.summary(dict(result, unit="params"), "{:.2f}".format, Path("out"))
    assert (f"the {why} one, {chosen}, is exported" if why else chosen) in text


def test_bootstrap_interval() -> None:
    """Next to the normal approximation."""
    difference = np.repeat([1.0, 0.0, -1.0], [30, 50, 20])
    error = 1.96 * difference.std() / 10
    expected = pytest.approx((0.1 - error, 0.1 + error), abs=0.02)
    assert bootstrap_interval(difference) == expected
    assert bootstrap_interval(np.zeros(5)) == (0, 0)
