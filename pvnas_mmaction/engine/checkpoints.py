# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Checkpoint files: which one a run goes on from, and what that of a search holds."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from ..models.supernet import inherit_weights
from ..search.archive import Archive
from ..space.checks import wrong
from ..space.search_space import SearchSpace

CHECKPOINT_KEY = "pvnas_search"
FORMAT_VERSION = 2


def check_checkpoint(path: str | os.PathLike[str], option: str) -> None:
    """Check that a checkpoint is whole, unless it is a URL or a name with a prefix."""
    if re.match(r"\w{2,}:", str(path)):
        return
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{option}: expected a checkpoint, got {path}, which is no file"
        )
    with open(path, "rb") as file:
        start = file.read(2)
    # torch writes zip archives, whose directory comes last; before 1.6 plain pickles
    if not start or (start == b"PK" and not zipfile.is_zipfile(path)):
        hint = "take an earlier one, or copy it again"
        raise wrong(option, "a whole checkpoint", f"{path}, whose end is missing", hint)
    if start != b"PK" and not start.startswith(pickle.PROTO):
        raise wrong(option, "a checkpoint as torch.save writes it", str(path))


def saved_checkpoints(work_dir: str | os.PathLike[str]) -> list[Path]:
    """What MMEngine has saved every so often in a work dir, newest first."""
    files = Path(work_dir).glob("*_*.pth")
    periodic = (f for f in files if re.fullmatch(r"(epoch|iter)_\d+\.pth", f.name))
    return sorted(periodic, key=lambda file: file.stat().st_mtime_ns, reverse=True)


def latest_checkpoint(
    work_dir: str | os.PathLike[str], option: str = "--resume"
) -> str | None:
    """The latest whole checkpoint that MMEngine has saved in a work dir; None where
    none was ever saved.

    It is the one that the file ``last_checkpoint`` names, in this folder if it was
    copied or moved. Where a kill has left that file or the checkpoint incomplete, it is
    the newest ``epoch_N.pth`` or ``iter_N.pth`` that is whole.

    Raises:
        FileNotFoundError: There is none, though one was saved.
        ValueError: None is whole; names ``option``, which asks for it.
    """
    pointer, saved = Path(work_dir, "last_checkpoint"), saved_checkpoints(work_dir)
    if not pointer.is_file() and not saved:
        return None
    name = pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else ""
    named = [Path(work_dir, Path(name).name), Path(name)] if name else []
    damaged = None
    for path in filter(Path.is_file, [*named, *saved]):
        try:
            check_checkpoint(path, option)
        except ValueError as error:
            damaged = damaged or error
            continue
        if path not in named:
            print_log(f"{pointer}: found {name!r}, which is not whole; taking {path}")
        return str(path)
    if damaged:
        raise damaged
    for path in named[-1:]:
        check_checkpoint(path, option)
    raise FileNotFoundError(
        f"{option}: expected a checkpoint, got none but an empty file {pointer}; start "
        "again in another folder"
    )


def search_state(checkpoint: Mapping[str, Any], path: object) -> dict[str, Any]:
    """The state of a search in a checkpoint; ValueError where it has none, or one of
    another version."""
    state = checkpoint.get(CHECKPOINT_KEY)
    if not isinstance(state, Mapping):
        expected = "the state of a search, as tools/train.py writes it"
        hint = "load_from starts a search from the weights of another checkpoint"
        raise wrong(str(path), expected, "none", hint)
    version = state.get("format_version")
    if version != FORMAT_VERSION:
        hint = "use the version of pvnas_mmaction that wrote it"
        expected = f"format version {FORMAT_VERSION}"
        raise wrong(f"{path}, {CHECKPOINT_KEY}", expected, repr(version), hint)
    return dict(state)


@dataclass(frozen=True)
class SearchCheckpoint:
    """A search as a checkpoint has it: its space, the alphas of every layer, the state
    dict of the recognizer, in which the supernet's keys start with ``prefix``, and the
    setting and results of the search."""

    path: Path
    space: SearchSpace
    alphas: list[list[float]]
    state: dict[str, Tensor]
    prefix: str
    seed: int
    step: int
    input_shape: tuple[int, ...]
    num_classes: int
    archive: Archive

    def log_probs(self) -> list[list[float]]:
        """log softmax(alpha) of every layer: at temperature 1. Another temperature
        multiplies all differences alike and leaves the order of networks as it is."""
        return [
            torch.log_softmax(torch.tensor(row, dtype=torch.float64), 0).tolist()
            for row in self.alphas
        ]

    def inherited(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """State dict of a recognizer around one derived network."""
        return inherit_weights(self.state, indices, self.prefix)


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """A whole checkpoint file from its path or from a work directory, whose last one
    counts; FileNotFoundError or ValueError where there is none."""
    path = Path(path)
    if path.is_file():
        check_checkpoint(path, "checkpoint")
        return path
    file = latest_checkpoint(path, "work directory") if path.is_dir() else None
    if file is None:
        raise FileNotFoundError(
            f"{path}: expected a checkpoint, or the work directory of a search that "
            "has saved one, got none"
        )
    return Path(file)


def load_search_checkpoint(path: str | os.PathLike[str]) -> SearchCheckpoint:
    """Read the checkpoint of a search, from its path or its work directory. Nothing in
    it is executed.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: It is no checkpoint, or not that of a search.
    """
    path = find_checkpoint(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        reason = str(error).strip().partition("\n")[0]
        expected = "a checkpoint that MMEngine has written"
        raise wrong(str(path), expected, reason) from error
    found = search_state(checkpoint if isinstance(checkpoint, dict) else {}, path)
    space = SearchSpace.from_config(found["space"])
    state = checkpoint["state_dict"]
    if "ema_state_dict" in checkpoint:  # EMAHook has swapped them; a search ignores it
        averaged = checkpoint["ema_state_dict"].items()
        own = {k.removeprefix("module."): v for k, v in averaged if "module." in k}
        state = {**state, **own}
    (key,) = (k for k in state if k.split(".")[-1] == "alphas")
    rows = zip(state[key].double().tolist(), space.candidates, strict=True)
    return SearchCheckpoint(
        path=path,
        space=space,
        alphas=[row[: len(names)] for row, names in rows],
        state=state,
        prefix=key.removesuffix("alphas"),
        seed=int(found["seed"]),
        step=int(found["num_steps"]),
        input_shape=tuple(found["setting"]["train_cfg.input_shape"]),
        num_classes=int(found["setting"]["model.cls_head.num_classes"]),
        archive=Archive.from_dict(found["archive"]),
    )
