# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Predictions that ``tools/test.py --dump`` saved: confusion and accuracy by class.

The dump is a pickle, and a pickle may run anything. This reader admits the few names
that tensors and plain containers need, and nothing else.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._utils import _rebuild_tensor_v2

from ..space.checks import wrong
from .data import Run, TrainRun, lookup

EXPECTED = "the list that tools/test.py --dump writes: one dict per clip"


def _storage_from_bytes(data: bytes) -> Any:
    """torch's own function of this purpose admits every name."""
    return torch.load(io.BytesIO(data), weights_only=True)


_ADMITTED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): str.encode,  # how old pickle protocols hold bytes
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
    ("torch.storage", "_load_from_bytes"): _storage_from_bytes,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name}, which is no tensor")
        return _ADMITTED[module, name]


@dataclass(frozen=True)
class Predictions:
    """Clips by true class (row) and predicted class (column), names of classes."""

    counts: list[list[int]]
    names: list[str]

    @property
    def num_clips(self) -> int:
        return sum(map(sum, self.counts))

    @property
    def accuracy(self) -> float:
        """Share of clips whose class was found."""
        return sum(row[i] for i, row in enumerate(self.counts)) / self.num_clips


def load_scores(path: Path) -> list[tuple[int, torch.Tensor]]:
    """True class and scores (num_classes,) of each clip of a dump, in its order;
    ValueError where it is no dump, or holds more than data."""
    try:
        with path.open("rb") as stream:
            clips = _Unpickler(stream).load()
        truths = [int(clip["gt_label"].item()) for clip in clips]
        scores = [torch.as_tensor(clip["pred_score"]).flatten() for clip in clips]
        if min(truths) < 0:
            raise ValueError("a label below 0")
        return list(zip(truths, scores, strict=True))
    except Exception as error:
        # What a file that was cut off or was never a dump raises is of any kind.
        got = f"{type(error).__name__}: {error}"
        raise wrong(str(path), EXPECTED, got) from error


def load_predictions(path: Path, names: Sequence[str] = ()) -> Predictions:
    """Read a dump as :func:`load_scores` does; numbers stand for classes without a
    name."""
    pairs = load_scores(path)
    num_classes = max(len(names), *(max(t + 1, len(s)) for t, s in pairs))
    counts = [[0] * num_classes for _ in range(num_classes)]
    for truth, scores in pairs:
        counts[truth][int(scores.argmax())] += 1
    shown = [names[i] if i < len(names) else str(i) for i in range(num_classes)]
    return Predictions(counts, shown)


def class_names(config: dict[str, Any]) -> list[str]:
    """Lines of ``classes.txt`` next to the annotation file of a config's test set;
    empty where there is none."""
    for loader in ("test_dataloader", "val_dataloader", "train_dataloader"):
        ann_file = lookup(config, f"{loader}.dataset.ann_file")
        if ann_file and (names := names_next_to(Path(str(ann_file)))):
            return names
    return []


def names_next_to(ann_file: Path) -> list[str]:
    """Lines of ``classes.txt`` next to a list; empty where there is none."""
    path = ann_file.with_name("classes.txt")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [line.strip() for line in lines if line.strip()]


def for_trainings(
    runs: Sequence[Run], given: Path | None = None
) -> dict[Path, Predictions]:
    """Predictions of each training, by its work directory: from the newest ``.pkl`` in
    it, or for a single training from the one that is ``given``.

    What is missing, can't be read or is older than the training's end is noted in the
    run's ``missing``; ValueError where ``given`` is no dump of one training.
    """
    trainings = [run for run in runs if isinstance(run, TrainRun)]
    if given is not None and len(trainings) != 1:
        raise wrong("--predictions", "one training among the directories",
                    str(len(trainings)),
                    "with several, put each dump into its work directory")  # fmt: skip
    result = {}
    for run in trainings:
        dumps = [*run.path.glob("*.pkl"), *run.path.glob("*/*.pkl")]
        dump = given or max(dumps, key=lambda p: p.stat().st_mtime, default=None)
        if dump is None:
            text = "There is no dump of predictions (tools/test.py --dump FILE.pkl)."
            run.missing.append(text)
            continue
        try:
            result[run.path] = load_predictions(dump, class_names(run.config))
        except ValueError as error:
            if given is not None:
                raise
            run.missing.append(f"Predictions can't be read: {error}.")
            continue
        if run.ended and dump.stat().st_mtime < run.ended.timestamp():
            run.missing.append(
                f"{dump.name} is older than the training's last line: it may be of an "
                "earlier training."
            )
    return result
