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
_MOVED = re.compile(r"search_before_(\d{8}_\d{6})")
# The environment stands at the top of a log, before the config.
_HEAD_LINES = 120


@dataclass
class Launches:
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
            step of training before it.
        broken_lines: Lines of ``scalars.json`` that are no JSON.
    """

    folders: list[Path] = field(default_factory=list)
    seconds: float | None = None
    started: datetime | None = None
    ended: datetime | None = None
    environment: dict[str, str] = field(default_factory=dict)
    command: str | None = None
    code_version: str | None = None
    config_text: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    scalars: list[dict[str, Any]] = field(default_factory=list)
    broken_lines: int = 0


def find_launches(work_dir: Path) -> list[Path]:
    """The timestamped folders of a work directory, oldest first.

    Those of a test are passed over: only a test leaves ``<timestamp>.json`` in it. So
    are those of an earlier search, which the start of another one has moved to
    ``search_before_<timestamp>``.
    """
    starts = (_MOVED.fullmatch(path.name) for path in work_dir.iterdir())
    first = max((start[1] for start in starts if start), default="")
    return sorted(
        path
        for path in work_dir.iterdir()
        if path.is_dir()
        and re.fullmatch(r"\d{8}_\d{6}", path.name)
        and path.name >= first
        and not (path / f"{path.name}.json").is_file()
    )


def read_launches(work_dir: Path) -> Launches:
    """Read what MMEngine left in a work directory; what is not there stays empty."""
    result = Launches(folders=find_launches(work_dir))
    for folder in result.folders:
        for log in sorted(folder.glob("*.log")):
            _read_log(log, result)
        scalars = folder / "vis_data" / "scalars.json"
        if scalars.is_file():
            lines, broken = read_json_lines(scalars)
            _merge_scalars(result.scalars, lines)
            result.broken_lines += broken
    configs = [folder / "vis_data" / "config.py" for folder in result.folders]
    written = [path for path in configs if path.is_file()]
    # A start that trained counts before one that only got as far as its config.
    trained = [path for path in written if path.with_name("scalars.json").is_file()]
    if written:
        path = (trained or written)[-1]
        result.config_text = path.read_text(encoding="utf-8", errors="replace")
    if result.config_text is not None:
        result.config = parse_config(result.config_text)
    return result


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


def _merge_scalars(merged: list[dict[str, Any]], new: list[dict[str, Any]]) -> None:
    """Append a later start's lines, dropping the steps that it took again."""
    marked = list(_mark_validation(new))
    steps = [r["step"] for r in marked if is_training(r)]
    if steps:
        first = min(steps)
        merged[:] = [r for r in merged if r.get("after_step", r.get("step", 0)) < first]
    merged.extend(marked)


def _mark_validation(records: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    step = 0
    for record in records:
        if is_training(record):
            step = record["step"]
            yield record
        else:
            yield {**record, "after_step": step}


def is_training(record: dict[str, Any]) -> bool:
    """Whether a line of scalars is about training: it counts iterations."""
    return "iter" in record and isinstance(record.get("step"), int)


def _read_log(path: Path, result: Launches) -> None:
    first = last = None
    environment = {}
    with path.open(encoding="utf-8", errors="replace") as stream:
        for number, line in enumerate(stream):
            if match := _TIME.match(line):
                last = datetime.strptime(match[1], "%Y/%m/%d %H:%M:%S")
                first = first or last
                if command := _COMMAND.search(line):
                    result.command = command[1]
                elif version := _VERSION.search(line):
                    result.code_version = version[1]
            elif number < _HEAD_LINES and (match := _ENVIRONMENT.match(line)):
                environment[match[1]] = match[2].strip()
    result.environment = environment or result.environment
    if first is not None and last is not None:
        result.started = min(result.started or first, first)
        result.ended = max(result.ended or last, last)
        result.seconds = (result.seconds or 0.0) + (last - first).total_seconds()


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
