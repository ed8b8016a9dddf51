# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Predictions that ``tools/test.py --dump`` saved: confusion and accuracy by class.

The dump is a pickle, and a pickle may run anything. This reader admits the few names
that tensors and plain containers need, and nothing else.
"""

from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._utils import _rebuild_tensor_v2

from .runlog import lookup
from .workdir import Run, TrainRun

EXPECTED = "the list that tools/test.py --dump writes: one dict per clip"


def _storage_from_bytes(data: bytes) -> Any:
    """torch's own function of this purpose admits every name."""
    try:
        return torch.load(io.BytesIO(data), weights_only=True)
    except pickle.UnpicklingError as error:
        raise pickle.UnpicklingError("found more than numbers in a tensor") from error


def _bytes_of_text(text: str, encoding: str) -> bytes:
    """How old pickle protocols hold bytes."""
    return str.encode(text, encoding)


_ADMITTED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _bytes_of_text,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
    ("torch.storage", "_load_from_bytes"): _storage_from_bytes,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"found {module}.{name} in it, expected tensors and plain values alone"
            ) from None


@dataclass(frozen=True)
class Predictions:
    """How often each class was taken for which.

    Args:
        counts: Clips by true class (row) and predicted class (column).
        names: One name per class.
        file: The dump's path.
    """

    counts: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]
    file: str

    @property
    def num_clips(self) -> int:
        return sum(map(sum, self.counts))

    @property
    def accuracy(self) -> float:
        """Share of clips whose class was found."""
        right = sum(row[i] for i, row in enumerate(self.counts))
        return right / self.num_clips

    def class_accuracy(self) -> list[float | None]:
        """Share of each class's clips that were found; None without a clip of it."""
        return [
            row[i] / sum(row) if sum(row) else None for i, row in enumerate(self.counts)
        ]


def load_predictions(
    path: str | os.PathLike[str], names: Sequence[str] = ()
) -> Predictions:
    """Read a dump.

    Args:
        path: The pickle.
        names: Class names; numbers stand where there are fewer.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no dump of predictions, or holds more than data.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of predictions")
    try:
        with path.open("rb") as stream:
            data = _Unpickler(stream).load()
    except Exception as error:
        # What a pickle that was cut off or was never one raises is of any kind.
        raise ValueError(f"{path}: {error}; expected {EXPECTED}") from error
    if not isinstance(data, list) or not data:
        raise ValueError(f"{path}: found no clips in it, expected {EXPECTED}")
    pairs = [_pair(path, i, item) for i, item in enumerate(data)]
    num_classes = max(
        len(names), *(max(truth + 1, size) for truth, _, size in pairs)
    )  # fmt: skip
    counts = [[0] * num_classes for _ in range(num_classes)]
    for truth, predicted, _ in pairs:
        counts[truth][predicted] += 1
    shown = [names[i] if i < len(names) else str(i) for i in range(num_classes)]
    return Predictions(tuple(map(tuple, counts)), tuple(shown), str(path))


def _pair(path: Path, index: int, item: Any) -> tuple[int, int, int]:
    """True class, predicted class and number of classes of one clip."""
    where = f"{path}: clip {index}"
    if not isinstance(item, dict):
        raise ValueError(f"{where}: found {type(item).__name__}, expected a dict")
    values = []
    for key in ("gt_label", "pred_score"):
        value = item.get(key)
        if value is None:
            raise ValueError(f"{where}: found the keys {list(item)}, expected {key}")
        try:
            values.append(torch.as_tensor(value).flatten())
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{where}: {key}: found {type(value).__name__}, expected numbers"
            ) from error
    truth, scores = values
    if truth.numel() != 1 or scores.numel() < 2 or truth[0] < 0:
        raise ValueError(
            f"{where}: found {truth.numel()} label(s) and {scores.numel()} score(s), "
            "expected one label of 0 or more and a score for each class"
        )
    return int(truth[0]), int(scores.argmax()), scores.numel()


def find_dump(work_dir: Path) -> Path | None:
    """The newest ``.pkl`` in a work directory or a folder right below, or None."""
    dumps = [*work_dir.glob("*.pkl"), *work_dir.glob("*/*.pkl")]
    return max(dumps, key=lambda path: path.stat().st_mtime, default=None)


def class_names(config: dict[str, Any]) -> tuple[str, ...]:
    """Lines of ``classes.txt`` beside the annotation file of a config's test set; empty
    where there is none."""
    for loader in ("test_dataloader", "val_dataloader", "train_dataloader"):
        ann_file = lookup(config, f"{loader}.dataset.ann_file")
        if isinstance(ann_file, str):
            path = Path(ann_file).parent / "classes.txt"
            if path.is_file():
                lines = path.read_text(encoding="utf-8").splitlines()
                return tuple(line.strip() for line in lines if line.strip())
    return ()


def for_trainings(
    runs: Sequence[Run], given: Path | None = None
) -> dict[Path, Predictions]:
    """Predictions of each training, by its work directory.

    Args:
        runs: Searches are passed over.
        given: Dump of the only training. Default: the newest ``.pkl`` of each; one that
            can't be read or is older than the training's end is noted in the run's
            ``missing``, as is that there is none.

    Raises:
        ValueError: ``given`` is no dump, or the number of trainings is not one.
    """
    trainings = [run for run in runs if isinstance(run, TrainRun)]
    if given is not None:
        if len(trainings) != 1:
            raise ValueError(
                f"--predictions: found {len(trainings)} training directories, expected "
                "one; with several, put each dump into its work directory"
            )
        run = trainings[0]
        return {run.path: load_predictions(given, class_names(run.launches.config))}
    result = {}
    for run in trainings:
        dump = find_dump(run.path)
        if dump is None:
            run.missing.append(
                "There is no dump of predictions (tools/test.py --dump FILE.pkl): no "
                "confusion matrix, no accuracy by class."
            )
            continue
        try:
            names = class_names(run.launches.config)
            result[run.path] = load_predictions(dump, names)
        except ValueError as error:
            run.missing.append(f"Predictions can't be read: {error}.")
            continue
        ended = run.launches.ended
        if ended is not None and dump.stat().st_mtime < ended.timestamp():
            run.missing.append(
                "There is no dump of predictions from after the last log line: "
                f"{dump.name}, shown here, may be of an earlier training."
            )
    return result
