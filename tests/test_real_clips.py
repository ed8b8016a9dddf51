# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Trainings on real clips: folds, views, the recipe, the verdict, and a small run."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import real_clips, real_study
from benchmarks.real_data import Fold, RealClips, Split, read_folds
from benchmarks.real_report import difference, requirements, summarise
from benchmarks.real_training import (
    Network,
    Setting,
    learning_rate,
    train,
    use_channels_last,
)

LISTS = dict(
    fold1_train="c.mp4 0\nd.mp4 1\ne.mp4 1\n",
    fold1_val="a.mp4 0\nb.mp4 1\n",
    fold2_train="a.mp4 0\nb.mp4 1\ne.mp4 1\n",
    fold2_val="c.mp4 0\nd.mp4 1\n",
)


FOUR_FOLDS = {
    f"fold{fold}_{part}": "".join(f"{name}.mp4 0\n" for name in names)
    for fold, (train_names, val_names) in enumerate(
        [("qrs", "p"), ("prs", "q"), ("pqs", "r"), ("pqr", "s")], start=1
    )
    for part, names in (("train", train_names), ("val", val_names))
}


def write_lists(folder: Path, **changes: str) -> Path:
    (folder / "classes.txt").write_text("push\npull\n")
    for name, text in {**LISTS, **changes}.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


# -- folds --------------------------------------------------------------------------


def test_folds_by_hand(tmp_path):
    names, labels, folds = read_folds(write_lists(tmp_path))
    assert names == ["push", "pull"]
    assert labels == {"c.mp4": 0, "d.mp4": 1, "e.mp4": 1, "a.mp4": 0, "b.mp4": 1}
    # Rows: c, d, e, a, b. What the next fold tests on is held out of the training part.
    assert folds == [
        Fold(Split(train=(0, 1, 2), val=(3, 4)), (Split(train=(2,), val=(0, 1)),)),
        Fold(Split(train=(3, 4, 2), val=(0, 1)), (Split(train=(2,), val=(3, 4)),)),
    ]


def test_each_other_fold_is_held_out_in_turn_the_next_one_first(tmp_path):
    _, labels, folds = read_folds(write_lists(tmp_path, **FOUR_FOLDS))
    path = {row: name[0] for row, name in enumerate(labels)}
    spelt = [
        ["".join(map(path.get, part)) for split in fold.inner for part in split]
        for fold in folds
    ]
    assert spelt == [
        ["rs", "q", "qs", "r", "qr", "s"],
        ["ps", "r", "pr", "s", "rs", "p"],
        ["pq", "s", "qs", "p", "ps", "q"],
        ["qr", "p", "pr", "q", "pq", "r"],
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(fold1_val="c.mp4 0\n"), "fold 1: found 'c.mp4' in both lists"),
        (dict(fold1_val="a.mp4 2\n"), "line 1: found 'a.mp4 2', expected a path and"),
        (dict(fold1_val="a.mp4\n"), "line 1: found 'a.mp4', expected a path and a cl"),
        (dict(fold2_train="a.mp4 1\n"), "found class 1 for 'a.mp4', expected 0"),
        (dict(fold2_val="f.mp4 0\n"), "fold 1: found 0 training clips that fold 2 "),
    ],
)
def test_wrong_lists_are_told(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_folds(write_lists(tmp_path, **changes))


def test_one_fold_is_too_few(tmp_path):
    write_lists(tmp_path)
    (tmp_path / "fold2_train.txt").unlink()
    with pytest.raises(FileNotFoundError, match="found 1 folds, expected fold1_train"):
        read_folds(tmp_path)


def test_the_tennis_folds_share_no_clip(tennis7):
    names, labels, folds = read_folds(tennis7)
    assert (len(names), len(labels), len(folds)) == (7, 295, 4)
    tested = [row for fold in folds for row in fold.whole.val]
    assert sorted(tested) == list(range(295))
    for fold in folds:
        assert not set(fold.whole.train) & set(fold.whole.val)
        for split in fold.inner:
            assert sorted(split.train + split.val) == sorted(fold.whole.train)
        held_out = [row for split in fold.inner for row in split.val]
        assert sorted(held_out) == sorted(fold.whole.train)


# -- views --------------------------------------------------------------------------


def numbered_clips(clip_len: int = 2, crop: int = 4) -> RealClips:
    """One clip of six frames of 4x8; a pixel says frame and column."""
    time, column = np.mgrid[0:6, 0:8]
    frames = np.broadcast_to((10 * time + column)[:, None, :, None], (6, 4, 8, 3))
    return RealClips(
        torch.from_numpy(frames.astype(np.uint8))[None],
        torch.tensor([0]),
        clip_len,
        crop,
    )


def test_the_view_to_test_on_is_the_middle():
    view = numbered_clips().views([0])
    assert view.shape == (1, 3, 2, 4, 4)
    # Frames 1 and 4 of the halves 0 to 2 and 3 to 5, columns 2 to 5.
    for position, frame in enumerate((1, 4)):
        rows = view[0, :, position].reshape(-1, 4)
        assert (rows == 10 * frame + torch.arange(2.0, 6.0)).all()


def test_training_views_draw_one_frame_of_each_part_and_follow_from_the_seed():
    clips = numbered_clips()
    seen = []
    for seed in range(40):
        view = clips.views([0], [seed])
        assert torch.equal(view, clips.views([0], [seed]))
        # Columns go up: no view is mirrored. Frames are ten apart.
        assert (view.diff(dim=-1) >= 0).all()
        start = clips._times(np.random.default_rng(seed))
        seen.append(tuple(start))
    assert {first for first, _ in seen} == {0, 1, 2}
    assert {second for _, second in seen} == {3, 4, 5}


def test_crops_keep_area_and_ratio():
    frames = torch.zeros(1, 2, 100, 120, 3, dtype=torch.uint8)
    clips = RealClips(frames, torch.tensor([0]), 2, 16)
    for seed in range(200):
        top, left, height, width = clips._box(np.random.default_rng(seed))
        assert 0 <= top <= 100 - height and 0 <= left <= 120 - width
        # What is cut at the border is lost, and a side is rounded.
        assert height * width <= 1.02 * 100 * 120
        if height < 100 and width < 120:
            assert height * width >= 0.38 * 100 * 120
            assert 0.73 <= width / height <= 1.36


def test_too_few_stored_frames_are_told():
    frames = torch.zeros(1, 4, 8, 8, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="stored_frames: found 4, expected 8 or more"):
        RealClips(frames, torch.tensor([0]), 8, 8)


# -- the recipe ---------------------------------------------------------------------


def test_learning_rate_by_hand():
    setting = Setting(warmup=0.2)
    rates = [learning_rate(setting, 0.3, step, 10) for step in range(10)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert rates[6] == pytest.approx(0.15)
    assert rates[9] == pytest.approx(0.15 * (1 + math.cos(math.pi * 7 / 8)))


@pytest.mark.parametrize("name", ["TSM-MobileNetV2", "X3D-S"])
def test_channels_last_gives_the_same_numbers(name):
    torch.manual_seed(0)
    network = Network(name, 3, 4).eval()
    convolutions = [
        m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)
    ]
    layouts = (torch.channels_last, torch.channels_last_3d)
    assert any(
        conv.weight.is_contiguous(memory_format=layouts[conv.weight.dim() - 4])
        and not conv.weight.is_contiguous()
        for conv in convolutions
    )
    x = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        found = network(x)
        for conv in convolutions:
            conv.weight.data = conv.weight.data.contiguous()
        expected = network(x)
        use_channels_last(network)
        again = network(x)
    assert found.shape == (2, 3)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found, again, rtol=0, atol=0)


def test_a_batch_larger_than_the_clips_is_told():
    clips = numbered_clips()
    with pytest.raises(ValueError, match="batch_size: found 16, expected at most 1"):
        train("X3D-S", 2, clips, clips, Setting(), 0.1, 0)


# -- the verdict --------------------------------------------------------------------

ACCURACIES = {
    "TSM-R50": {1: (0.25, 0.25), 2: (0.5, 0.5)},
    "TSM-MobileNetV2": {1: (0.375, 0.625), 2: (0.375, 0.125)},
    "light <= TSM-MobileNetV2": {1: (0.5, 0.75), 2: (0.5, 0.25)},
}


def made_records() -> list[dict]:
    return [
        dict(name=name, fold=fold, seed=seed, lr=0.1, accuracy=accuracy)
        for name, by_fold in ACCURACIES.items()
        for fold, values in by_fold.items()
        for seed, accuracy in enumerate(values)
    ]


def test_difference_and_its_error_are_over_the_folds():
    found = difference(made_records(), "light <= TSM-MobileNetV2", "TSM-MobileNetV2")
    # Folds: 62.5 - 50 and 37.5 - 25.
    assert found == dict(mean=12.5, standard_error=0)
    found = difference(made_records(), "light <= TSM-MobileNetV2", "TSM-R50")
    gains = [62.5 - 25, 37.5 - 50]
    error = statistics.stdev(gains) / math.sqrt(2)
    assert found == dict(mean=12.5, standard_error=pytest.approx(error))


@pytest.mark.parametrize(("share", "met"), [(0.0, True), (0.0625, False)])
def test_the_margin_is_asked_of_the_best_tsm(share, met):
    records = made_records()
    for record in records:
        if record["name"] == "TSM-MobileNetV2":
            # Above TSM-R50, and by another share in each fold.
            record["accuracy"] += 0.03125 + share * (2 * record["fold"] - 3)
    costs = {name: [dict(macs=1, params=2, latency_ms=3.0)] for name in ACCURACIES}
    result = summarise(records, costs, list(ACCURACIES))
    [item] = result["requirements"]
    assert item["name"].endswith("against TSM-MobileNetV2, points")
    assert item["found"] == pytest.approx(12.5 - 3.125)
    assert item["standard_error"] == pytest.approx(100 * share)
    assert item["met"] is met
    assert requirements(records, result["rows"][2:]) == []


# -- a run --------------------------------------------------------------------------


def test_small_study_goes_on_where_it_stopped(motion_clips, tmp_path, capsys):
    """Two folds of motion clips: a search, the choice of a learning rate, trainings."""
    data = tmp_path / "data"
    data.mkdir()
    lines = (motion_clips / "train.txt").read_text().splitlines()
    (data / "clips").symlink_to(motion_clips)
    lines = [f"clips/{line}" for line in lines]
    parts = [lines[:8], lines[8:16], lines[16:]]
    (data / "classes.txt").write_text("\n".join(map(str, range(8))))
    for fold, other in ((0, 1), (1, 0)):
        train_lines = "\n".join(parts[other] + parts[2])
        (data / f"fold{fold + 1}_train.txt").write_text(train_lines)
        (data / f"fold{fold + 1}_val.txt").write_text("\n".join(parts[fold]))
    work_dir = tmp_path / "work"
    arguments = [data, "--reduced", "--work-dir", work_dir, "--models"]
    arguments += ["TSM-MobileNetV2", "--search-space", "tiny", "--search-budgets"]
    arguments += ["TSM-MobileNetV2", "--random", 2, "--search-epochs", 9, "--epochs", 1]
    arguments += ["--search-seeds", 0, 1]
    arguments += ["--batch-size", 8, "--frames", 4, "--stored-frames", 8]
    arguments += ["--crop", 24, "--learning-rates", 0.01, 0.05]
    arguments = list(map(str, arguments))
    real_clips.main(arguments)
    printed = capsys.readouterr().out
    result = json.loads((work_dir / "real_clips.json").read_text())
    assert [row["name"] for row in result["rows"]] == [
        "TSM-MobileNetV2",
        "tiny random 1",
        "tiny random 2",
        "tiny <= TSM-MobileNetV2",
    ]
    assert [row["trainings"] for row in result["rows"]] == [2, 2, 2, 4]
    found = [(s["fold"], s["seed"]) for s in result["searches"]]
    assert sorted(found) == [(1, 0), (1, 1), (2, 0), (2, 1)]
    used = [s["genotype"]["provenance"]["seed"] for s in result["searches"]]
    assert sorted(used) == [1, 2, 1001, 1002]
    # Two rates for each network of a fold, once where both searches found it.
    networks = {(s["fold"], *s["genotype"]["blocks"]) for s in result["searches"]}
    assert len(result["tuning"]) == 2 * (3 * 2 + len(networks))
    for search in result["searches"]:
        assert search["macs"] <= search["max_macs"] == result["rows"][0]["macs"]
    for row in result["rows"][1:]:
        assert row["max_macs"] <= result["rows"][0]["max_macs"]
    drawn = {r["name"]: r["blocks"] for r in result["trainings"] if "rand" in r["name"]}
    assert len(set(drawn.values())) == 2
    identity = ("name", "fold", "blocks")
    for record in result["trainings"]:
        own = [
            r
            for r in result["tuning"]
            if [r[key] for key in identity] == [record[key] for key in identity]
        ]
        best = max(own, key=lambda r: (r["accuracy"], -r["lr"]))
        assert record["lr"] == best["lr"]
        assert 0 <= record["accuracy"] <= 1
    assert "A REDUCED setting" in printed and "| TSM-MobileNetV2 |" in printed
    for plot in ("macs", "latency"):
        content = (work_dir / f"real_clips_{plot}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
    logs = {p: p.read_bytes() for p in work_dir.glob("*.jsonl")}
    assert len(logs) == 3
    # One training is lost; the second call repeats it alone, with the same result.
    path = work_dir / "trainings.jsonl"
    kept = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(kept[:-1]))
    real_clips.main(arguments)
    for log, before in logs.items():
        if log != path:
            assert log.read_bytes() == before
    again = [json.loads(line) for line in path.read_bytes().splitlines()]
    for new, old in zip(again, map(json.loads, kept), strict=True):
        assert new["accuracy"] == old["accuracy"] and new["loss"] == old["loss"]
    # Fewer searches, one rate: only what belongs to them is in the result.
    real_clips.main([*arguments, "--search-seeds", "1", "--learning-rates", "0.05"])
    result = json.loads((work_dir / "real_clips.json").read_text())
    assert [s["seed"] for s in result["searches"]] == [1, 1]
    assert result["tuning"] == []
    assert {r["lr"] for r in result["trainings"]} == {0.05}
    # Of both searches of a fold the one whose network the inner split prefers.
    real_clips.main([*arguments, "--keep-best", "0.05", "--learning-rates", "0.05"])
    assert "Of the searches [0, 1] of a fold" in capsys.readouterr().out
    result = json.loads((work_dir / "real_clips.json").read_text())
    assert [row["trainings"] for row in result["rows"]] == [2, 2, 2, 2]
    assert {(r["name"], r["lr"], r["split"]) for r in result["tuning"]} == {
        ("tiny <= TSM-MobileNetV2", 0.05, 1)
    }
    for record in result["trainings"][-2:]:
        judged = {
            r["blocks"]: r["accuracy"]
            for r in result["tuning"]
            if r["fold"] == record["fold"]
        }
        assert judged[record["blocks"]] == max(judged.values())
    with pytest.raises(ValueError, match="momentum: found"):
        real_clips.main([*arguments, "--momentum", "0.5"])


def test_a_network_of_two_searches_counts_twice(tmp_path, monkeypatch):
    write_lists(tmp_path)
    loader = real_study.Loader(tmp_path, Setting(learning_rates=(0.5,)))
    study = real_study.Study(loader, tmp_path / "work")
    one, two = dict(blocks=["skip"]), dict(blocks=["rb_t1_k3_e0.5"])
    # The first record is of a time before searches had a seed.
    for seed, genotype in ((None, one), (1, two), (2, one)):
        record = dict(name="light <= X3D-S", fold=1, genotype=genotype)
        study.searches.append(record | (dict(seed=seed) if seed else {}))
    monkeypatch.setattr(study, "macs", lambda model: 1)
    config = real_clips.SEARCH_CONFIG
    rows = study.search(config, "light", ["X3D-S"], [1], [2, 0, 1])
    assert rows == {"light <= X3D-S": {1: [one, one, two]}}
    for blocks in ("rb_t1_k3_e0.5", "skip"):
        done = dict(name="light <= X3D-S", blocks=blocks, fold=1, lr=0.5, seed=0)
        study.trainings.append(done | dict(split=0))
    records = study.train(rows, [0])
    assert [r["blocks"] for r in records] == ["skip", "skip", "rb_t1_k3_e0.5"]


def test_every_split_has_a_say_in_the_learning_rate(tmp_path, monkeypatch):
    """Three inner splits that disagree, trainings replaced by a table."""
    accuracies = {0.1: (0.9, 0.1, 0.2), 0.2: (0.4, 0.5, 0.5), 0.3: (0.5, 0.4, 0.5)}
    write_lists(tmp_path, **FOUR_FOLDS)

    def run(jobs, work, make_state, log, workers, title):
        for name, _, fold, lr, seed, split in jobs:
            record = dict(name=name, blocks=None, fold=fold, lr=lr, seed=seed)
            accuracy = accuracies[lr][split - 1] if split else 1.0
            log.append(record | dict(split=split, accuracy=accuracy))

    monkeypatch.setattr(real_study, "run_jobs", run)
    rows = {"X3D-S": {2: ["X3D-S"]}}
    # All splits: 0.2 and 0.3 tie, the lower one is taken. The first one: 0.1.
    for splits, chosen, judged in ((0, 0.2, 9), (3, 0.2, 9), (1, 0.1, 3)):
        setting = Setting(learning_rates=(0.3, 0.2, 0.1), tuning_splits=splits)
        loader = real_study.Loader(tmp_path, setting)
        study = real_study.Study(loader, tmp_path / "work")
        [record] = study.train(rows, [7])
        assert (record["lr"], record["fold"], record["split"]) == (chosen, 2, 0)
        tuning = study.tuning_of(rows, rows, 7)
        assert len(tuning) == judged and {r["seed"] for r in tuning} == {7}
    # What was there before records had a split goes on to count.
    for name, splits in (("tuning", {1, 2, 3}), ("trainings", {0})):
        path = tmp_path / "work" / f"{name}.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()]
        assert {r["split"] for r in records} == splits
        old = [r for r in records if r.pop("split") == (name == "tuning")]
        path.write_text("".join(json.dumps(r) + "\n" for r in old))
    monkeypatch.setattr(real_study, "run_jobs", lambda jobs, *_: asked.append(jobs))
    asked: list = []
    study = real_study.Study(loader, tmp_path / "work")
    assert study.train(rows, [7])[0]["lr"] == 0.1
    assert asked == [[], []]


def test_the_network_that_trains_best_on_inner_splits_is_kept(tmp_path, monkeypatch):
    """Three searches of a fold, two of which found one network."""
    one, two = dict(blocks=["skip"]), dict(blocks=["rb_t1_k3_e0.5"])
    accuracies = {"skip": (0.5, 0.2, 0.2), "rb_t1_k3_e0.5": (0.3, 0.4, 0.3)}
    write_lists(tmp_path, **FOUR_FOLDS)

    def run(jobs, work, make_state, log, workers, title):
        for job in jobs:
            identity = real_study.Training.of(*job)
            accuracy = accuracies[identity.blocks][identity.split - 1]
            # On fold 2 both are alike. The upper learning rate would favour the first.
            if identity.fold == 2 or identity.lr > 0.1:
                accuracy = 0.5
            log.append(identity._asdict() | dict(accuracy=accuracy))

    monkeypatch.setattr(real_study, "run_jobs", run)
    rows = {
        "light <= X3D-S": {fold: [one, two, one] for fold in (1, 2)},
        "light random 1": {1: [one], 2: [one]},
    }
    for rates, splits, first, judged, tuned in (
        ((0.1,), 0, two, 12, 12),
        ((0.1,), 1, one, 4, 4),
        # Six more for each row and fold, but half of one row's are there.
        ((0.2, 0.1), 0, two, 12, 12 + 24 - 6),
    ):
        setting = Setting(learning_rates=rates, tuning_splits=splits)
        loader = real_study.Loader(tmp_path, setting)
        study = real_study.Study(loader, tmp_path / f"work{len(rates)}{splits}")
        kept = study.keep_best(rows, 3, 0.1)
        assert kept["light <= X3D-S"] == {1: [first], 2: [one]}
        assert kept["light random 1"] == rows["light random 1"]
        assert len(study.tuning.records) == judged
        if len(rates) > 1:
            study.train(kept, [3])
        assert len(study.tuning.records) == tuned
        assert study.tuning_of(rows, kept, 3, 0.1) == study.tuning.records
        without = study.tuning_of(rows, kept, 3)
        assert len(without) == (24 if len(rates) > 1 else 0)


def test_a_job_trains_on_its_own_split(tmp_path, monkeypatch):
    names, _, folds = read_folds(write_lists(tmp_path, **FOUR_FOLDS))
    frames = torch.zeros(4, 8, 8, 8, 3, dtype=torch.uint8)
    clips = RealClips(frames, torch.arange(4), 2, 4)
    state = real_study.State(Setting(), len(names), clips, folds)
    seen = []

    def note(spec, num_classes, clips, test, setting, lr, seed):
        seen.append((clips.labels.tolist(), test.labels.tolist()))
        return dict(accuracy=0.5)

    monkeypatch.setattr(real_study, "train", note)
    for split in range(4):
        record = real_study.train_job(state, ("X3D-S", "X3D-S", 3, 0.1, 0, split))
        assert record["split"] == split
    part = folds[2]
    assert seen == [(list(s.train), list(s.val)) for s in (part.whole, *part.inner)]


def test_wrong_options_are_told(tmp_path, monkeypatch):
    write_lists(tmp_path)
    with pytest.raises(ValueError, match="--folds: found 3, expected 1 to 2"):
        real_clips.main(
            [str(tmp_path), "--folds", "3", "--work-dir", str(tmp_path / "work")]
        )
    with pytest.raises(ValueError, match="--tuning-splits: found 2, expected 0 to 1"):
        real_clips.main(
            [str(tmp_path), "--tuning-splits", "2", "--work-dir", str(tmp_path / "s")]
        )
    study = real_study.Study(
        real_study.Loader(tmp_path, Setting(frames=4, crop=64)), tmp_path / "other"
    )
    # The smallest of the space has more than the whole budget.
    with pytest.raises(ValueError, match="found 0 networks of 'light' under 1 "):
        monkeypatch.setattr(study, "macs", lambda model: 1)
        study.draw("light", ["X3D-S"], 1)
    with pytest.raises(
        ValueError, match=r"--search-seeds: found \[-1\], expected 0 or"
    ):
        real_clips.main(
            [str(tmp_path), "--search-seeds", "-1", "--work-dir", str(tmp_path / "w")]
        )
    with pytest.raises(ValueError, match=r"found 'mine\.json', expected NAME=FILE"):
        real_clips.read_genotypes(["mine.json"])
