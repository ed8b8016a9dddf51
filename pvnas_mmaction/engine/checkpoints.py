"""Checkpoint files: from which one a run continues, and what that of a search holds."""

import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..search.archive import Archive
from ..space.checks import reading, wrong
from ..space.search_space import SearchSpace
from .optim import unwrap

CHECKPOINT_KEY = "pvnas_search"
FORMAT_VERSION = 2


def check_checkpoint(path: str | os.PathLike[str], option: str) -> None:
    """Check that a checkpoint is whole and holds weights, unless it is a URL or the
    like; nothing in it is executed."""
    if re.match(r"\w{2,}:", str(path)):
        return
    path = Path(path)
    if not path.is_file():
        got = f"the folder {path}" if path.is_dir() else f"no file {path}"
        raise FileNotFoundError(f"{option}: expected a checkpoint, got {got}")
    if not _is_whole(path):
        hint = "take an earlier one, or copy it again"
        raise wrong(option, "a whole checkpoint of torch.save", str(path), hint)
    with reading(f"{option} {path}", "weights by name"):
        mmap = zipfile.is_zipfile(path)
        content = torch.load(path, "cpu", weights_only=True, mmap=mmap)
        if not isinstance(content, Mapping) or not weights_of(content):
            got = f"a {type(content).__name__} without any"
            raise wrong(f"{option} {path}", "weights by name", got)


def weights_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a checkpoint, or of the state dict that it is."""
    state = checkpoint.get("state_dict", checkpoint).items()
    return {k.removeprefix("module."): v for k, v in state if isinstance(v, Tensor)}


def check_finite(model: nn.Module, field: str, hint: str = "") -> None:
    """Check that no weight has become infinite, or is no number."""
    for name, value in unwrap(model).named_parameters():
        if not value.isfinite().all():
            raise wrong(f"{field}, {name}", "finite weights", "others", hint)


def _is_whole(path: Path) -> bool:
    """Whether an undamaged zip archive, or an old plain pickle."""
    with path.open("rb") as file:
        if file.read(1) == pickle.PROTO:
            return True
    try:
        return zipfile.ZipFile(path).testzip() is None
    except Exception:  # the byte may stand anywhere
        return False


def saved_checkpoints(work_dir: str | os.PathLike[str]) -> list[Path]:
    """What MMEngine has saved every so often in a work dir, newest first."""
    files = Path(work_dir).glob("*_*.pth")
    periodic = (f for f in files if re.fullmatch(r"(epoch|iter)_\d+\.pth", f.name))
    return sorted(periodic, key=lambda file: file.stat().st_mtime_ns, reverse=True)


def latest_checkpoint(
    work_dir: str | os.PathLike[str], option: str = "--resume"
) -> str | None:
    """The latest whole checkpoint that MMEngine has saved in a work dir: the one that
    the file ``last_checkpoint`` names, in this folder if it was moved, else the newest.
    None where none was ever saved; an error about ``option`` where none is whole."""
    pointer, found = Path(work_dir, "last_checkpoint"), saved_checkpoints(work_dir)
    named = []
    if pointer.is_file() and (name := pointer.read_text(encoding="utf-8").strip()):
        named = [Path(work_dir, Path(name).name), *([] if found else [Path(name)])]
    found = list(filter(Path.is_file, [*named, *found]))
    for path in found:
        if _is_whole(path):
            return str(path)
        print_log(f"{path} is not whole; looking for an earlier one")
    for path in [*found, *named][:1]:
        check_checkpoint(path, option)  # for its error
    return None


def search_state(checkpoint: Mapping[str, Any], path: object) -> dict[str, Any]:
    """The state of a search in a checkpoint; a ValueError if that is none."""
    state = checkpoint.get(CHECKPOINT_KEY) or {}
    if (version := state.get("format_version")) != FORMAT_VERSION:
        expected = f"the state of a search in format version {FORMAT_VERSION}"
        hint = "name a checkpoint of a search by this version of pvnas_mmaction"
        raise wrong(str(path), expected, str(version).lower(), hint)
    return state


@dataclass(frozen=True)
class SearchCheckpoint:
    """A search as a checkpoint has it; ``content`` is the whole checkpoint."""

    path: Path
    space: SearchSpace
    alphas: list[list[float]]
    state: dict[str, Tensor]
    seed: int
    step: int
    input_shape: tuple[int, ...]
    num_classes: int
    archive: Archive
    content: dict[str, Any]


def load_search_checkpoint(path: str | os.PathLike[str]) -> SearchCheckpoint:
    """Read the checkpoint of a search, or the last one of its work directory; nothing
    in it is executed. FileNotFoundError or ValueError where there is none."""
    path = Path(path)
    if path.is_dir():
        path = Path(latest_checkpoint(path, "work directory") or path)
    check_checkpoint(path, "checkpoint")
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    found = search_state(checkpoint, path)
    with reading(path, "the checkpoint of a search"):
        space = SearchSpace.from_config(found["space"])
        state = checkpoint["state_dict"]
        if "ema_state_dict" in checkpoint:  # EMAHook has swapped them
            averaged = checkpoint["ema_state_dict"].items()
            own = {k.removeprefix("module."): v for k, v in averaged if "module." in k}
            state = {**state, **own}
        (alphas,) = (v for k, v in state.items() if k.split(".")[-1] == "alphas")
        rows = zip(alphas.double().tolist(), space.candidates, strict=True)
        return SearchCheckpoint(
            path=path,
            space=space,
            alphas=[row[: len(names)] for row, names in rows],
            state=state,
            seed=int(found["seed"]),
            step=int(found["num_steps"]),
            input_shape=tuple(found["setting"]["train_cfg.input_shape"]),
            num_classes=int(found["setting"]["model.cls_head.num_classes"]),
            archive=Archive.from_dict(found["archive"]),
            content=checkpoint,
        )
