"""Dumps of predictions: what they hold, and what must not be let in."""

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from pvnas_mmaction.report.predictions import load_predictions

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
    assert predictions.names == ["left", "right", "2", "3"]
    assert predictions.accuracy == 3 / 5 and predictions.num_clips == 5
    assert len(load_predictions(path, list("abcdef")).counts) == 6


@pytest.mark.parametrize("inside", [False, True])
def test_a_pickle_can_run_nothing(tmp_path, inside):
    """Neither itself nor in the bytes of a tensor."""
    target = tmp_path / "made"
    stream = io.BytesIO()
    torch.save(Malice(target), stream)

    class Storage:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (stream.getvalue(),)

    bad = dict(gt_label=Storage()) if inside else Malice(target)
    path = dump(tmp_path / "p.pkl", [*clips(), bad])
    message = r"p.pkl: expected the list that tools.*Unpick"
    with pytest.raises(ValueError, match=message):
        load_predictions(path)
    assert not target.exists()


@pytest.mark.parametrize(
    "data",
    [[], {"a": 1}, [3], [{"pred_score": torch.zeros(4)}],
     [dict(gt_label=torch.tensor([1, 2]), pred_score=torch.zeros(4))],
     [dict(gt_label=torch.tensor([1]), pred_score={"a": torch.zeros(4)})], None],
)  # fmt: skip
def test_what_is_no_dump_is_named(tmp_path, data):
    path = dump(tmp_path / "p.pkl", clips() if data is None else data)
    if data is None:  # cut off
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"p.pkl: expected the list that tools/test"):
        load_predictions(path)
