# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Dumps of predictions: what they hold, and what must not be let in."""

from __future__ import annotations

import io
import os
import pickle
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from report_runs import write_search, write_training

from pvnas_mmaction.report.predictions import (
    class_names,
    for_trainings,
    load_predictions,
)
from pvnas_mmaction.report.workdir import read_work_dir

PAIRS = [(0, 0), (0, 1), (1, 1), (1, 1), (2, 0)]


def clips(pairs=PAIRS, classes: int = 4) -> list[dict]:
    """What MMAction2 dumps: a dict of tensors per clip."""
    result = []
    for truth, predicted in pairs:
        scores = torch.full((classes,), 0.1)
        scores[predicted] = 0.7
        result.append(
            dict(gt_label=torch.tensor([truth]), pred_score=scores,
                 pred_label=torch.tensor([predicted]), img_shape=(8, 8), num_clips=1)
        )  # fmt: skip
    return result


def dump(path: Path, data, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(data, protocol=protocol))
    return path


class Malice:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_confusion_and_accuracy(tmp_path, protocol):
    path = dump(tmp_path / "p.pkl", clips(), protocol)
    predictions = load_predictions(path, ["left", "right"])
    expected = np.zeros((4, 4), int)
    for truth, predicted in PAIRS:
        expected[truth, predicted] += 1
    assert np.array_equal(predictions.counts, expected)
    assert predictions.names == ("left", "right", "2", "3")
    assert predictions.accuracy == 3 / 5 and predictions.num_clips == 5
    assert predictions.class_accuracy() == [1 / 2, 1, 0, None]


def test_more_names_than_scores(tmp_path):
    path = dump(tmp_path / "p.pkl", clips())
    assert len(load_predictions(path, list("abcdef")).counts) == 6


def test_a_pickle_can_run_nothing(tmp_path):
    target = tmp_path / "made"
    path = dump(tmp_path / "p.pkl", [*clips(), Malice(target)])
    with pytest.raises(
        ValueError, match=r"p.pkl: found posix.mkdir in it, expected te"
    ):
        load_predictions(path)
    assert not target.exists()


def test_nor_can_a_tensor_inside(tmp_path):
    target = tmp_path / "made"
    stream = io.BytesIO()
    torch.save(Malice(target), stream)

    class Storage:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (stream.getvalue(),)

    path = dump(tmp_path / "p.pkl", [dict(gt_label=Storage())])
    with pytest.raises(ValueError, match=r"p.pkl: found more than numbers in a ten"):
        load_predictions(path)
    assert not target.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "found no clips in it"),
        ({"a": 1}, "found no clips in it"),
        ([3], "clip 0: found int, expected a dict"),
        (
            [{"pred_score": torch.zeros(4)}],
            r"found the keys \['pred_score'\], expected",
        ),
        (
            [{"gt_label": torch.tensor([1, 2]), "pred_score": torch.zeros(4)}],
            r"found 2 label\(s\) and 4 score\(s\)",
        ),
        (
            [{"gt_label": torch.tensor([1]), "pred_score": {"a": torch.zeros(4)}}],
            "clip 0: pred_score: found dict, expected numbers",
        ),
    ],
)
def test_what_is_no_dump_is_named(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        load_predictions(dump(tmp_path / "p.pkl", data))


def test_a_file_cut_off(tmp_path):
    path = dump(tmp_path / "p.pkl", clips())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"p.pkl: .*; expected the list that tools"):
        load_predictions(path)
    with pytest.raises(FileNotFoundError, match=r"none.pkl: no such file"):
        load_predictions(tmp_path / "none.pkl")


def test_names_stand_beside_the_annotations(tmp_path):
    (tmp_path / "classes.txt").write_text("left\nright\n\n")
    config = dict(test_dataloader=dict(dataset=dict(ann_file=str(tmp_path / "v.txt"))))
    assert class_names(config) == ("left", "right")
    assert class_names({}) == ()


def test_each_training_takes_the_newest_dump_in_it(tmp_path):
    run = read_work_dir(write_training(tmp_path / "a"))
    assert for_trainings([run]) == {}
    assert any("no dump of predictions" in line for line in run.missing)
    old = dump(tmp_path / "a/old.pkl", clips([(0, 1)]))
    os.utime(old, (1, 1))
    dump(tmp_path / "a/20260102_100000/new.pkl", clips())
    assert for_trainings([run])[tmp_path / "a"].num_clips == 5
    dump(tmp_path / "a/bad.pkl", [3])
    run = read_work_dir(tmp_path / "a")
    assert for_trainings([run]) == {}
    assert any("bad.pkl: clip 0" in line for line in run.missing)


def test_predictions_from_before_the_last_log_line(tmp_path):
    """As of a network that has been trained on since."""
    run_dir = write_training(tmp_path / "a")
    path = dump(run_dir / "p.pkl", clips())
    end = datetime(2026, 1, 2, 12, 3, 4).timestamp()
    for written, number in ((end + 60, 1), (end - 60, 2)):
        os.utime(path, (written, written))
        run = read_work_dir(run_dir)
        assert for_trainings([run])[run_dir].num_clips == 5
        assert len(run.missing) == number
    assert "p.pkl, shown here, may be of an earlier training" in run.missing[-1]


def test_a_dump_is_given_to_one_training_alone(tmp_path):
    given = dump(tmp_path / "p.pkl", clips())
    search = read_work_dir(write_search(tmp_path / "s"))
    training = read_work_dir(write_training(tmp_path / "t"))
    assert for_trainings([search, training], given)[tmp_path / "t"].num_clips == 5
    with pytest.raises(ValueError, match="--predictions: found 0 training directories"):
        for_trainings([search], given)
