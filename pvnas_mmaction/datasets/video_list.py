"""Annotation lists, ``path class_id`` per line: read them and check them."""

import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np

from ..space.checks import wrong
from .video_frames import VideoFrames

# Of a longer list, an even sample of so many videos is opened at the start.
MAX_OPENED = 4000


def read_video_list(
    path: str, field: str, delimiter: str = " ", num_classes: int | None = None
) -> list[tuple[str, int]]:
    """Path as it is written, and class id in [0, num_classes), of each line of a list
    in UTF-8; the last ``delimiter`` separates them. FileNotFoundError or ValueError
    about ``field``, the config field of the data set."""
    line_form = f"path{delimiter}class_id"
    wanted = f"a list of lines {line_form!r}"
    if os.path.isdir(path):
        raise wrong(f"{field}.ann_file", wanted, f"the folder {path}")
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{field}.ann_file: expected {wanted}, got {path!r}, which does not exist "
            f"(looked for {os.path.abspath(path)})"
        )
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise wrong(f"{field}.ann_file", wanted, f"{path}: {error}") from None
    clips = []
    # str.splitlines would also break a name at, say, a Unicode line separator.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        name, *label = line.strip().rsplit(delimiter.strip() or None, 1)
        place = f"{field}.ann_file: {path}:{number}"
        if not label or not re.fullmatch(r"\s*[+-]?\d+", label[0]):
            raise wrong(place, repr(line_form), repr(line.strip()))
        class_id, hint = int(label[0]), "correct the line"
        if class_id < 0 or (num_classes is not None and class_id >= num_classes):
            expected = f"class ids from 0 to num_classes - 1 ({num_classes} classes)"
            if class_id >= 0:
                hint += ", or set num_classes, of data set and cls_head, to "
                hint += f"{class_id + 1} or more (or the variable NUM_CLASSES)"
            raise wrong(place, expected, str(class_id), hint)
        clips.append((name.strip(), class_id))
    if not clips:
        raise wrong(f"{field}.ann_file", wanted, f"{path}, which is empty")
    return clips


def video_file(path: str) -> str:
    """The path, with ``.mp4`` where it has no ending, as MMAction2 has it."""
    return path if os.path.splitext(path)[1] or os.path.isfile(path) else path + ".mp4"


def resolve(paths: Iterable[str]) -> list[str]:
    """Absolute paths without links and dots: the same for the same file."""
    return [os.path.realpath(video_file(path)) for path in paths]


def find_faults(paths: Sequence[str], whole: bool = True) -> dict[str, str]:
    """What is wrong with each video that is missing or holds no frame; unless the
    ``whole`` list is asked for, an even sample of a long one is opened."""
    files = list(dict.fromkeys(map(video_file, paths)))
    with ThreadPoolExecutor(8) as pool:  # disks are slow
        there = dict(zip(files, pool.map(os.path.isfile, files), strict=True))
        present = [file for file in files if there[file]]
        most = len(present) if whole else min(len(present), MAX_OPENED)
        places = np.linspace(0, len(present) - 1, most)
        sample = [present[i] for i in places.astype(int)]
        read = [*pool.map(_why_unreadable, sample)]
    missing = {file: "no such file" for file in files if not there[file]}
    return missing | {f: why for f, why in zip(sample, read, strict=True) if why}


def _why_unreadable(path: str) -> str:
    state = os.stat(path)
    return _why(path, state.st_size, state.st_mtime_ns)


@cache
def _why(path: str, size: int, modified: int) -> str:
    try:
        VideoFrames(path, length=1).read([0])
    except (OSError, ValueError) as error:
        return str(error)
    return ""
