# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""What a checkpoint of a search holds, read without a runner."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.supernet import inherit_weights
from ..space.search_space import SearchSpace
from .checkpoint_files import latest_checkpoint
from .lr_diversity_hook import CHECKPOINT_KEY
from .search_state import require_keys

_ALPHA = re.compile(r"(?P<prefix>(.*\.)?)alphas\.(?P<layer>\d+)")


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
        setting: What the search was about: its ``input_shape`` and ``num_classes``.
            Checkpoints of former versions do not have them, they are then those of
            ``search/space.json`` in the work directory that was named, or else beside
            the checkpoint; empty where there is no such file.
    """

    path: Path
    space: SearchSpace
    alphas: list[list[float]]
    state: dict[str, Tensor]
    prefix: str
    seed: int
    step: int
    setting: dict[str, Any]

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
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path}: found nothing, expected a checkpoint or the work directory of a "
            "search"
        )
    file = latest_checkpoint(path, "work directory")
    if file is None:
        raise FileNotFoundError(
            f"{path}: found no file last_checkpoint, expected the work directory of a "
            "search that has saved a checkpoint"
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
    given, path = Path(path), find_checkpoint(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what is no pickle may raise anything
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0]}" if lines else "no pickle"
        if path.stat().st_size == 0:
            reason = "an empty file"
        raise ValueError(
            f"{path}: expected a checkpoint that MMEngine has written, found: {reason}"
        ) from error
    if not isinstance(checkpoint, dict) or CHECKPOINT_KEY not in checkpoint:
        raise ValueError(
            f"{path}: found no state of a search, expected a checkpoint that "
            "tools/train.py has written with a search config"
        )
    require_keys(checkpoint, ("meta", "state_dict"), str(path))
    require_keys(checkpoint["meta"], ["iter"], f"{path}, meta")
    require_keys(checkpoint[CHECKPOINT_KEY], ["loop"], f"{path}, {CHECKPOINT_KEY}")
    loop = checkpoint[CHECKPOINT_KEY]["loop"]
    require_keys(loop, ("space", "seed"), f"{path}, state of the loop")
    space = SearchSpace.from_config(loop["space"])
    state = checkpoint["state_dict"]
    prefix, alphas = _alphas(path, state)
    if [len(row) for row in alphas] != [len(c) for c in space.candidates]:
        raise ValueError(
            f"{path}: found alphas of {[len(row) for row in alphas]} entries, which do "
            f"not fit its space {space.name!r}"
        )
    # Checkpoints may lie elsewhere: CheckpointHook has an out_dir.
    file = (given if given.is_dir() else path.parent) / "search" / "space.json"
    setting = _read_setting(file, space) if file.is_file() else {}
    # The checkpoint's own: the file may be that of a later search in the same folder.
    setting |= {key: loop[key] for key in ("input_shape", "num_classes") if key in loop}
    return SearchCheckpoint(
        path=path,
        space=space,
        alphas=alphas,
        state=state,
        prefix=prefix,
        seed=int(loop["seed"]),
        step=int(checkpoint["meta"]["iter"]),
        setting=setting,
    )


def _alphas(path: Path, state: dict[str, Tensor]) -> tuple[str, list[list[float]]]:
    """Prefix of the supernet's keys, and its alphas by layer."""
    found = {key: m for key in state if (m := _ALPHA.fullmatch(key))}
    prefixes = {match["prefix"] for match in found.values()}
    if len(prefixes) != 1:
        raise ValueError(
            f"{path}: found the alphas of {len(prefixes)} supernets, expected one"
        )
    ordered = sorted(found, key=lambda key: int(found[key]["layer"]))
    return prefixes.pop(), [state[key].double().tolist() for key in ordered]


def _read_setting(path: Path, space: SearchSpace) -> dict[str, Any]:
    try:
        setting = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, found {error}") from error
    # A work directory that was used again: its file is about another search.
    return setting if setting.get("space") == space.to_config() else {}
