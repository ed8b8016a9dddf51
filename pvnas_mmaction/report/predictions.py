"""Predictions that ``tools/test.py --dump`` saved: confusion and accuracy by class."""

import io
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._utils import _rebuild_tensor_v2

from ..space.checks import reading
from .data import TrainRun, lookup

EXPECTED = "the list that tools/test.py --dump writes: one dict per clip"
# What tensors and plain containers need, by name; whatever the module that is said.
ADMITTED: dict[str, Any] = dict(
    OrderedDict=OrderedDict,
    encode=str.encode,  # how old pickle protocols hold bytes
    _rebuild_tensor_v2=_rebuild_tensor_v2,
    # torch's own function of this name admits every name
    _load_from_bytes=lambda data: torch.load(io.BytesIO(data), weights_only=True),
)


class _Unpickler(pickle.Unpickler):
    """A pickle may run anything; this reader admits :data:`ADMITTED` alone."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name}, which is no tensor")
        return ADMITTED[name]


@dataclass(frozen=True)
class Predictions:
    """Number of clips by true class (row) and predicted class (column)."""

    counts: np.ndarray
    names: list[str]

    @property
    def num_clips(self) -> int:
        return int(self.counts.sum())

    @property
    def accuracy(self) -> float:
        """Share of clips whose class was found."""
        return float(self.counts.trace() / self.counts.sum())


def load_scores(path: Path) -> list[tuple[int, torch.Tensor]]:
    """True class and scores (num_classes,) of each clip of a dump, or ValueError."""
    with reading(path, EXPECTED), path.open("rb") as stream:
        clips = _Unpickler(stream).load()
        pairs = [(int(c["gt_label"].item()), c["pred_score"].flatten()) for c in clips]
        if not pairs:
            raise ValueError("no clip")
        return pairs


def load_predictions(path: Path, names: Sequence[str] = ()) -> Predictions:
    """Read a dump; numbers stand for classes without a name."""
    pairs = load_scores(path)
    number = max(len(names), *(max(truth + 1, len(scores)) for truth, scores in pairs))
    counts = np.zeros((number, number), int)
    for truth, scores in pairs:
        counts[truth, int(scores.argmax())] += 1
    return Predictions(counts, [*names, *map(str, range(len(names), number))])


def class_names(config: dict[str, Any]) -> list[str]:
    files = (lookup(config, f"{split}_dataloader.dataset.ann_file")
             for split in ("test", "val", "train"))  # fmt: skip
    found = (names_next_to(Path(file)) for file in files if file)
    return next(filter(None, found), [])


def names_next_to(ann_file: Path) -> list[str]:
    """Lines of ``classes.txt`` next to a list; empty where there is none."""
    path = ann_file.with_name("classes.txt")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [line.strip() for line in lines if line.strip()]


def predictions_of(run: TrainRun) -> Predictions | None:
    """Those of the newest ``.pkl`` in a training's folder; notes what is missing."""
    dumps = [*run.path.glob("*.pkl"), *run.path.glob("*/*.pkl")]
    if not dumps:
        text = "There is no dump of predictions (tools/test.py --dump FILE.pkl)."
        run.missing.append(text)
        return None
    dump = max(dumps, key=lambda path: path.stat().st_mtime)
    try:
        return load_predictions(dump, class_names(run.config))
    except ValueError as error:
        run.missing.append(f"Predictions can't be read: {error}.")
        return None
