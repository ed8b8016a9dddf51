# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""What MMEngine leaves in a work directory: log, scalars, config.

Each start of a run makes a folder ``<timestamp>`` with ``<timestamp>.log``,
``vis_data/config.py`` and ``vis_data/scalars.json``. A resumed run has several.
Nothing here executes what it reads: a config is taken apart as literals.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

_TIME = re.compile(r"^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - ")
_ENVIRONMENT = re.compile(
    r"^ {4}(sys\.platform|Python|PyTorch|TorchVision|OpenCV|MMEngine|CUDA available"
    r"|GPU [\d,]+|seed|GPU number|Distributed launcher): (.*)$"
)
_VERSION = re.compile(r" - INFO - Version: pvnas_mmaction (\S+)$")
_COMMAND = re.compile(r" - INFO - Command: (.*)$")
_RESUMED = re.compile(r" - INFO - resumed epoch: \d+, iter: (\d+)$")
_EPOCH = re.compile(r" - INFO - Epoch\(train\)\s+\[\s*(\d+)\]\[\s*(\d+)/(\d+)\]")
_MOVED = re.compile(r"search_before_(\d{8}_\d{6})")
# The environment stands at the top of a log, before the config.
_HEAD_LINES = 120


@dataclass
class _Logged:
    """What one start has logged, or several have; see :class:`Launches`."""

    environment: dict[str, str] = field(default_factory=dict)
    command: str | None = None
    code_version: str | None = None
    config_text: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    scalars: list[dict[str, Any]] = field(default_factory=list)
    broken_lines: int = 0


@dataclass
class Launches(_Logged):
    """What the starts of one run left behind.

    Args:
        folders: The timestamped folders, oldest first.
        seconds: Time from first to last line of each log, added up; None without a
            log that has times in it.
        started: Time of the first line of the first log.
        ended: Time of the last line of the last log.
        environment: Versions and devices, as the last log gives them.
        command: The command of the last start, or None where no log names it.
        code_version: Version of this package at the last start, or None likewise.
        config_text: Text of the last config, or None.
        config: That config's settings; empty where it can't be read.
        scalars: Lines of ``scalars.json``, those a resumed run took again only once.
            A line of training has ``step``; one of validation has ``after_step``, the
            number of steps of training before it.
        broken_lines: Lines of ``scalars.json`` that are no JSON.
    """

    folders: list[Path] = field(default_factory=list)
    seconds: float | None = None
    started: datetime | None = None
    ended: datetime | None = None


@dataclass
class _Start(_Logged):
    """What one start left: a part of :class:`Launches`.

    Args:
        folder: Its folder.
        resumed_at: Steps that it did not take again; None where the log names none.
        steps_left: By epoch, steps that followed the last one that was logged.
    """

    folder: Path = Path()
    first: datetime | None = None
    last: datetime | None = None
    resumed_at: int | None = None
    steps_left: dict[int, int] = field(default_factory=dict)

    @property
    def begins_anew(self) -> bool:
        """Whether nothing of before is part of its run; not where that is unknown."""
        resume = self.config.get("resume")
        found_nothing = resume is True and self.resumed_at is None
        return resume is False or (found_nothing and bool(self.scalars))


def moved_searches(work_dir: Path) -> list[Path]:
    """What the start of another search has moved aside, ``search_before_<timestamp>``
    each, oldest first."""
    return sorted(path for path in work_dir.iterdir() if is_moved_search(path))


def is_moved_search(path: Path) -> bool:
    """Whether this is a folder that the start of another search has moved aside."""
    return _MOVED.fullmatch(path.name) is not None and path.is_dir()


def find_launches(
    work_dir: Path, searches: bool | None = None, before: str = ""
) -> list[Path]:
    """The timestamped folders of a work directory, oldest first.

    Those of a test are passed over: only a test leaves ``<timestamp>.json`` in it. So
    are those of a start that was killed before it logged a line, if another logged one.

    Args:
        work_dir: The directory.
        searches: Those of searches alone, or of trainings alone; one whose config
            isn't there counts as either. Default: all of them.
        before: Timestamp by which a search was moved aside: starts of that search, not
            of later ones. Default: those of the search that was not moved.
    """
    folders = [
        path
        for path in sorted(work_dir.iterdir())
        if path.is_dir()
        and re.fullmatch(r"\d{8}_\d{6}", path.name)
        and not (path / f"{path.name}.json").is_file()
    ]
    if searches is not None:
        folders = [path for path in folders if is_search(path) in (searches, None)]
    if searches:
        times = [path.name.removeprefix("search_before_")
                 for path in moved_searches(work_dir)]  # fmt: skip
        first = max((time for time in times if not before or time < before), default="")
        folders = [
            path
            for path in folders
            if path.name >= first and (not before or path.name < before)
        ]
    logged = [path for path in folders if has_logged(path)]
    return logged or folders


def has_logged(folder: Path) -> bool:
    """Whether a start has logged a line."""
    return (folder / "vis_data" / "scalars.json").is_file()


def is_search(folder: Path) -> bool | None:
    """Whether a start was one of a search; None where its config isn't there."""
    config = parse_config(_read_config(folder) or "")
    if "train_cfg" not in config:
        return None
    return lookup(config, "train_cfg.type") == "SearchLoop"


def _read_config(folder: Path) -> str | None:
    path = folder / "vis_data" / "config.py"
    if not path.is_file():
        return None
    return path.read_text(encoding="utf-8", errors="replace")


def read_launches(
    work_dir: Path, searches: bool | None = None, before: str = ""
) -> Launches:
    """Read what MMEngine left in a work directory; what is not there stays empty.

    A start that did not resume begins a run of its own: those before it are left out.

    Args:
        work_dir: The directory.
        searches: As :func:`find_launches` has it.
        before: Likewise.
    """
    result = Launches()
    for folder in find_launches(work_dir, searches, before):
        start = _read_start(folder)
        if start.begins_anew:
            result = Launches()
        _add_start(result, start)
    return result


def _read_start(folder: Path) -> _Start:
    start = _Start(folder=folder, config_text=_read_config(folder))
    start.config = parse_config(start.config_text or "")
    for log in sorted(folder.glob("*.log")):
        _read_log(log, start)
    scalars = folder / "vis_data" / "scalars.json"
    if scalars.is_file():
        start.scalars, start.broken_lines = read_json_lines(scalars)
    return start


def _add_start(result: Launches, start: _Start) -> None:
    result.folders.append(start.folder)
    result.environment = start.environment or result.environment
    result.command = start.command or result.command
    result.code_version = start.code_version or result.code_version
    if start.config_text is not None:
        result.config_text, result.config = start.config_text, start.config
    if start.first is not None and start.last is not None:
        result.started = min(result.started or start.first, start.first)
        result.ended = max(result.ended or start.last, start.last)
        seconds = (start.last - start.first).total_seconds()
        result.seconds = (result.seconds or 0.0) + seconds
    result.broken_lines += start.broken_lines
    _merge_scalars(result.scalars, start)


def read_json_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The objects of a file with one JSON object per line, and how many lines are
    none, e.g. the last one of a run that was killed while it wrote."""
    records, broken = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            broken += 1
            continue
        if isinstance(record, dict):
            records.append(record)
        else:
            broken += 1
    return records, broken


def _merge_scalars(merged: list[dict[str, Any]], start: _Start) -> None:
    """Append a later start's lines, dropping the steps that it took again."""
    marked = list(_mark_validation(start))
    steps = [r["step"] for r in marked if is_training(r)]
    if steps:
        kept = min(steps) - 1 if start.resumed_at is None else start.resumed_at
        merged[:] = [r for r in merged if r.get("after_step", r.get("step", 0)) <= kept]
    merged.extend(marked)


def _mark_validation(start: _Start) -> Iterator[dict[str, Any]]:
    step = start.resumed_at or 0
    for record in start.scalars:
        if is_training(record):
            step = record["step"]
            step += start.steps_left.get(record.get("epoch", -1), 0)
            yield record
        else:
            # It counts epochs, or steps where the loop does.
            counted = record.get("step")
            after = max(step, counted) if isinstance(counted, int) else step
            yield {**record, "after_step": after}


def is_training(record: dict[str, Any]) -> bool:
    """Whether a line of scalars is about training: it counts iterations."""
    return "iter" in record and isinstance(record.get("step"), int)


def _read_log(path: Path, start: _Start) -> None:
    with path.open(encoding="utf-8", errors="replace") as stream:
        for number, line in enumerate(stream):
            if match := _TIME.match(line):
                start.last = datetime.strptime(match[1], "%Y/%m/%d %H:%M:%S")
                start.first = start.first or start.last
                if command := _COMMAND.search(line):
                    start.command = command[1]
                elif version := _VERSION.search(line):
                    start.code_version = version[1]
                elif resumed := _RESUMED.search(line):
                    start.resumed_at = int(resumed[1])
                elif epoch := _EPOCH.search(line):
                    start.steps_left[int(epoch[1])] = int(epoch[3]) - int(epoch[2])
            elif number < _HEAD_LINES and (match := _ENVIRONMENT.match(line)):
                start.environment[match[1]] = match[2].strip()


def parse_config(text: str) -> dict[str, Any]:
    """Settings of a config as MMEngine dumps it, without running it.

    Only literals, lists, tuples, dicts and calls of ``dict`` are understood; a setting
    that is anything else is left out.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return {}
    settings = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
            try:
                value = _literal(node.value)
            except ValueError:
                continue
            if isinstance(target, ast.Name):
                settings[target.id] = value
    return settings


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name) or node.func.id != "dict" or node.args:
            raise ValueError("not a literal")
        return {str(k.arg): _literal(k.value) for k in node.keywords}
    if isinstance(node, ast.List):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_literal(item) for item in node.elts)
    if isinstance(node, ast.Dict):
        if any(key is None for key in node.keys):
            raise ValueError("not a literal")
        return {
            _literal(key): _literal(value)
            for key, value in zip(node.keys, node.values, strict=True)
            if key is not None
        }
    return ast.literal_eval(node)


def lookup(config: Any, dotted: str) -> Any:
    """``config["a"]["b"]`` for ``"a.b"``; None where a part is missing."""
    for key in dotted.split("."):
        if not isinstance(config, dict) or key not in config:
            return None
        config = config[key]
    return config
