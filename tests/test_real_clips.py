# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The study on real clips: folds, a whole run on rendered clips, the table."""

from __future__ import annotations

import json

import pytest
from mmengine.config import Config

from benchmarks import real_clips
from benchmarks.real_clips import SEARCH, TRAIN, Study
from benchmarks.real_table import markdown, with_error


@pytest.fixture
def folder(motion_clips, tmp_path):
    """Rendered clips in two folds, each of which tests on what the other trains on."""
    lines = (motion_clips / "train.txt").read_text().splitlines()
    (tmp_path / "classes.txt").write_text("\n".join("abcdefgh"))
    halves = lines[:16], lines[16:]
    for fold in (1, 2):
        train, val = halves if fold == 1 else halves[::-1]
        (tmp_path / f"fold{fold}_train.txt").write_text("\n".join(train))
        (tmp_path / f"fold{fold}_val.txt").write_text("\n".join(val))
    (tmp_path / "train").symlink_to(motion_clips / "train")
    return tmp_path


def test_clips_to_test_on_are_no_part_of_an_inner_split(folder):
    (folder / "fold1_train.txt").write_text("a 0\nb 1\nc 2\nd 3")
    (folder / "fold1_val.txt").write_text("e 0")
    (folder / "fold2_train.txt").write_text("e 0\nb 1\nd 3")
    (folder / "fold2_val.txt").write_text("a 0\nc 2")
    study = Study(folder)
    assert list(study.folds) == [1, 2]
    assert study.inner(1) == dict(train=["b 1", "d 3"], val=["a 0", "c 2"])
    assert study.inner(2) == dict(train=["b 1", "d 3"], val=["e 0"])


def shorten(path, out):
    """A config with 4 epochs of batches of 4."""
    cfg = Config.fromfile(path)
    cfg.train_cfg.max_epochs = 4
    cfg.train_dataloader.batch_size = 4
    cfg.train_cfg.pop("min_steps", None)
    cfg.dump(out)
    return out


@pytest.mark.slow
def test_a_whole_run_and_going_on(folder, tmp_path, monkeypatch, capsys):
    study = Study(
        folder,
        search_config=shorten(SEARCH, tmp_path / "search.py"),
        train_config=shorten(TRAIN, tmp_path / "train.py"),
    )
    monkeypatch.setattr(Study, "inner", lambda self, fold: self.lists(fold))
    out = tmp_path / "out.json"
    words = ["run", str(folder), "--models", "TSM-MobileNetV2", "--random", "1"]
    words += ["--budgets", "TSM-MobileNetV2", "--folds", "1", "--seeds", "0"]
    words += ["--learning-rates", "0.01", "0.1"]
    words += ["--work-dir", str(tmp_path / "work"), "--out", str(out)]
    monkeypatch.setattr(real_clips, "Study", lambda *args: study)
    real_clips.main(words)
    result = json.loads(out.read_text())
    names = ["TSM-MobileNetV2", "random 1", "searched <= TSM-MobileNetV2, 0"]
    assert [row["name"] for row in result["rows"]] == names
    budget = result["rows"][0]["macs"]
    assert all(row["macs"] <= budget for row in result["rows"])
    (search,) = result["searches"]
    assert result["rows"][2]["macs"] == search["macs"]
    assert len(result["tuning"]) == 6 and len(result["trainings"]) == 3
    for training in result["trainings"]:
        rates = {
            record["lr"]: record["accuracy"]
            for record in result["tuning"]
            if record["name"] == training["name"]
        }
        assert rates[training["lr"]] == max(rates.values())
        assert 0 <= training["accuracy"] <= 1
    assert "| random 1 |" in capsys.readouterr().out

    monkeypatch.setattr(Study, "run", None)  # nothing is run again
    real_clips.main(words)
    assert json.loads(out.read_text())["trainings"] == result["trainings"]


def test_table_by_hand():
    accuracies = {
        ("a", 1, 0): 0.2, ("a", 1, 1): 0.4, ("a", 2, 0): 0.5,
        ("b", 1, 0): 0.4, ("b", 2, 0): 0.8,
    }  # fmt: skip
    trainings = [
        dict(name=name, fold=fold, seed=seed, accuracy=accuracy)
        for (name, fold, seed), accuracy in accuracies.items()
    ]
    rows = [dict(name=name, macs=2e6, params=30_000) for name in "ab"]
    lines = markdown(dict(trainings=trainings, rows=rows), ["a"]).splitlines()
    # Folds: a 30 and 50, b 40 and 80; differences 10 and 30.
    assert lines[2] == "| a | 40.0 ± 10.0 |  | 2 | 0.03 | 3 |"
    assert lines[3] == "| b | 60.0 ± 20.0 | +20.0 ± 10.0 | 2 | 0.03 | 2 |"
    seeds = markdown(dict(trainings=trainings, rows=rows[:1]), seeds=[1]).splitlines()
    assert seeds[2] == "| a | 40.0 |  | 2 | 0.03 | 1 |"
    assert with_error([1.0]) == "1.0"
