# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Annotation lists, ``path class_id`` per line: read them and check them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from mmengine.fileio import exists, get_text

MAX_FILES_CHECKED = 1000


@dataclass(frozen=True)
class ListFormat:
    """How to read a list, and what to name in a message.

    Args:
        field: Config field of the data set, e.g. ``train_dataloader.dataset``.
        delimiter: What separates path and class id.
        multi_class: Whether a line may hold several class ids.
        num_classes: Class ids are in [0, num_classes). None: any is right.
    """

    field: str
    delimiter: str = " "
    multi_class: bool = False
    num_classes: int | None = None


def read_video_list(path: str, form: ListFormat) -> list[tuple[str, list[int]]]:
    """Read a list.

    Args:
        path: The list, UTF-8 text. Blank lines don't count.
        form: How to read it.

    Returns:
        Path as it is written and class ids, per line. A path may hold the delimiter:
        the class id is what follows the last one (with ``multi_class``: all that
        follows the first).

    Raises:
        FileNotFoundError: There is no such list.
        ValueError: It is empty or no text, or a line is malformed; names file, line,
            what was found and expected.
    """
    if not exists(path):
        raise FileNotFoundError(
            f"ann_file: no such file: {path} (looked for {os.path.abspath(path)}). "
            f"Set {form.field}.ann_file to a list of 'path class_id' lines."
        )
    try:
        text = get_text(path, encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"ann_file: {path}: expected UTF-8 text with lines 'path class_id', "
            f"found something else ({error})"
        ) from None
    # str.splitlines would also break a name at, say, a Unicode line separator.
    lines = re.split(r"\r\n|\n|\r", text)
    clips = [
        _parse(line.strip(), form, f"{path}:{number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not clips:
        raise ValueError(
            f"ann_file: {path} is empty, expected lines 'path class_id'. "
            f"Set {form.field}.ann_file to another list, or fill this one."
        )
    return clips


def _parse(line: str, form: ListFormat, place: str) -> tuple[str, list[int]]:
    if form.multi_class:
        path, *labels = line.split(form.delimiter)
    else:
        path, *labels = line.rsplit(form.delimiter, 1)
    path = path.strip()
    try:
        class_ids = [int(label) for label in labels]
    except ValueError:
        class_ids = []
    if not path or not class_ids:
        raise ValueError(
            f"{place}: expected 'path{form.delimiter}class_id', found {line!r}"
        )
    for class_id in class_ids:
        if class_id < 0:
            raise ValueError(f"{place}: found class id {class_id}, expected >= 0")
        if form.num_classes is not None and class_id >= form.num_classes:
            raise ValueError(
                f"{place}: found class id {class_id}, expected one in "
                f"[0, {form.num_classes}): ids count from 0. Mend the line, or set "
                f"num_classes, of the data set and of cls_head, to at least "
                f"{class_id + 1} (NUM_CLASSES, where the config reads it from the "
                "environment)."
            )
    return path, class_ids


def find_missing(paths: list[str]) -> tuple[list[str], int]:
    """Look for video files: for all, or for an even sample of a long list.

    Args:
        paths: Video files. One without an ending stands for ``.mp4``, as it does for
            MMAction2's readers.

    Returns:
        Those that do not exist, and how many were looked for.
    """
    step = -(-len(paths) // MAX_FILES_CHECKED)
    sample = [p if os.path.splitext(p)[1] else p + ".mp4" for p in paths[::step]]
    return [path for path in sample if not exists(path)], len(sample)
