# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Which checkpoint files of a work dir are there, and whole."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from pathlib import Path

from mmengine.logging import print_log

from ..space.checks import wrong

_PERIODIC = re.compile(r"(epoch|iter)_\d+\.pth")


def check_checkpoint(path: str, option: str) -> None:
    """Check that a checkpoint is whole, unless it is a URL or a name with a prefix.

    Raises:
        FileNotFoundError: If it is a path to no file.
        ValueError: If the file is empty, its end is missing, or it is something else.
    """
    if re.match(r"\w{2,}:", path) is not None:
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
        raise wrong(option, "a checkpoint as torch.save writes it", path)


def saved_checkpoints(work_dir: str | os.PathLike[str]) -> list[Path]:
    """What MMEngine has saved every so often in a work dir, newest first."""
    files = [
        file for file in Path(work_dir).glob("*.pth") if _PERIODIC.fullmatch(file.name)
    ]
    return sorted(files, key=lambda file: file.stat().st_mtime_ns, reverse=True)


def latest_checkpoint(
    work_dir: str | os.PathLike[str], option: str = "--resume"
) -> str | None:
    """The latest whole checkpoint that MMEngine has saved in a work dir.

    It is the one that the file ``last_checkpoint`` names, that in this folder where it
    was copied or moved. Where that file is missing, or a kill while a checkpoint was
    saved left it empty, it is the newest ``epoch_N.pth`` or ``iter_N.pth`` that is
    whole.

    Args:
        work_dir: The folder.
        option: What asks for it, for the error messages. Default ``"--resume"``.

    Returns:
        Its path; None where none was ever saved.

    Raises:
        FileNotFoundError: There is none, though one was saved.
        ValueError: None is whole.
    """
    pointer = Path(work_dir, "last_checkpoint")
    saved = saved_checkpoints(work_dir)
    if not pointer.is_file() and not saved:
        return None
    named = pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else ""
    # Its folder may have been copied since it was written.
    here = [str(file) for file in saved if file.name == Path(named).name]
    errors: list[OSError | ValueError] = []
    for path in dict.fromkeys([*here, *([named] if named else []), *map(str, saved)]):
        try:
            check_checkpoint(path, option)
        except (OSError, ValueError) as error:
            errors.append(error)
            continue
        if errors or not named:
            print_log(
                f"{pointer}: found {named!r}, which is no whole checkpoint. Going on "
                f"from {path}, the latest that is"
            )
        return path
    if errors:
        raise errors[0]
    raise FileNotFoundError(
        f"{option}: expected a checkpoint, got none but an empty file {pointer}; start "
        "again in another folder"
    )
