# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""What a checkpoint of a search holds, read without a runner."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.supernet import inherit_weights
from ..search.archive import Archive
from ..space.checks import wrong
from ..space.search_space import SearchSpace
from .checkpoint_files import latest_checkpoint

CHECKPOINT_KEY = "pvnas_search"
FORMAT_VERSION = 2


def search_state(checkpoint: Mapping[str, Any], path: object) -> dict[str, Any]:
    """The state of a search in a checkpoint.

    Args:
        checkpoint: The checkpoint.
        path: Where it comes from, for the error message.

    Raises:
        ValueError: It holds none, or one of another version.
    """
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
    """A search as a checkpoint has it.

    Args:
        path: The file.
        space: The search space.
        alphas: Alphas of every layer.
        state: State dict of the recognizer.
        prefix: What the supernet's keys in it start with.
        seed: Seed of the search.
        step: Weights steps taken.
        input_shape: (C, T, H, W) that its costs are for.
        num_classes: Outputs of its head.
        archive: What it has found.
    """

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
    """A checkpoint file from its path or from a work directory, whose last one counts.

    Raises:
        FileNotFoundError: There is none.
        ValueError: There are some in the work directory, none of them whole.
    """
    path = Path(path)
    if path.is_file():
        return path
    file = latest_checkpoint(path, "work directory") if path.is_dir() else None
    if file is None:
        raise FileNotFoundError(
            f"{path}: expected a checkpoint, or the work directory of a search that "
            "has saved one, got none"
        )
    return Path(file)


def load_search_checkpoint(path: str | os.PathLike[str]) -> SearchCheckpoint:
    """Read the checkpoint of a search. Nothing in it is executed.

    Args:
        path: A checkpoint, or the work directory of a search.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: It is no checkpoint, or not that of a search.
    """
    path = find_checkpoint(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what is no pickle may raise anything
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0]}" if lines else "no pickle"
        if path.stat().st_size == 0:
            reason = "an empty file"
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
    sizes = map(len, space.candidates)
    return SearchCheckpoint(
        path=path,
        space=space,
        alphas=[
            row[:n] for row, n in zip(state[key].double().tolist(), sizes, strict=True)
        ],
        state=state,
        prefix=key.removesuffix("alphas"),
        seed=int(found["seed"]),
        step=int(found["num_steps"]),
        input_shape=tuple(found["setting"]["train_cfg.input_shape"]),
        num_classes=int(found["setting"]["model.cls_head.num_classes"]),
        archive=Archive.from_dict(found["archive"]),
    )
