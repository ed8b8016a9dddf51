# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Work directories of searches and trainings, finished or not, as plain data.

Of a search its files in ``search/`` are read, of a training what MMEngine leaves in
``<timestamp>/vis_data``: scalars and the config. What is missing or broken does not
stop the reading: it is named in ``missing``, for the page to say. Only a path that is
no work directory at all is an error. Nothing here executes what it reads.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from ..models.pvnas_net import resolve_genotype
from ..search.archive import Archive, ArchiveEntry
from ..space.checks import wrong
from ..space.cost import check_input_shape
from ..space.genotype import Genotype, load_genotype
from ..space.search_space import SearchSpace

T = TypeVar("T")
EXPECTED = "the work directory of a search or training (--work-dir of tools/train.py)"


@dataclass
class Network:
    """A genotype that a search found, its line of the archive and its file's text."""

    entry: ArchiveEntry
    genotype: Genotype
    text: str


@dataclass
class Run:
    """A work directory, with a name that is unique within a report.

    ``missing`` says what is not there or not readable, one sentence each. ``starts`` of
    the process, oldest first, have ``started`` and ``ended`` as datetimes (``ended`` of
    a running one: when it last wrote), and what ``start_facts`` gives. ``config`` holds
    what can be read of ``config_text``, MMEngine's last dump.
    """

    path: Path
    name: str
    missing: list[str] = field(default_factory=list)
    starts: list[dict[str, Any]] = field(default_factory=list)
    config_text: str = ""
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def config_name(self) -> str | None:
        """Of the copy of the config that MMEngine puts into the directory."""
        return next((path.name for path in sorted(self.path.glob("*.py"))), None)

    @property
    def ended(self) -> datetime | None:
        """When it ended or last wrote."""
        return self.starts[-1]["ended"] if self.starts else None

    @property
    def seconds(self) -> float:
        """How long it ran, all starts added up."""
        spans = [start["ended"] - start["started"] for start in self.starts]
        return sum(span.total_seconds() for span in spans)


@dataclass
class SearchRun(Run):
    """A search: what ``search/`` holds, as far as it is there.

    ``record`` is ``run.json``, ``networks`` the archive, oldest first, ``final`` the
    network that the search ended in, of the archive or not.
    """

    record: dict[str, Any] = field(default_factory=dict)
    space: SearchSpace | None = None
    input_shape: tuple[int, ...] | None = None
    num_classes: int | None = None
    budget: dict[str, Any] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    networks: list[Network] = field(default_factory=list)
    final: Network | None = None
    finished: bool = False

    @property
    def judged(self) -> list[Network]:
        """The archive, and the network that the search ended in where it lacks that."""
        if self.final is None or self.final in self.networks:
            return self.networks
        return [*self.networks, self.final]

    def best(self) -> Network | None:
        """The network chosen, as :class:`Archive` does."""
        if self.final is not None:
            return self.final
        best = Archive([network.entry for network in self.networks]).best()
        return next((n for n in self.networks if n.entry is best), None)

    def candidates(self) -> list[list[str]]:
        """Names of each layer's candidates; numbered where the space is not known."""
        if self.space is not None:
            return [list(row) for row in self.space.candidates]
        rows = self.history[-1]["p"] if self.history else []
        return [[f"candidate {i + 1}" for i in range(len(row))] for row in rows]


@dataclass
class TrainRun(Run):
    """A training, usually of one genotype's network: lines of ``scalars.json``.

    Each line of ``val`` has ``after_step``: steps of training before it.
    """

    train: list[dict[str, Any]] = field(default_factory=list)
    val: list[dict[str, Any]] = field(default_factory=list)
    genotype: Genotype | None = None


def read_work_dirs(paths: Sequence[Path]) -> list[Run]:
    """Read several, with names that tell them apart; a search and a training in the
    same directory are two runs. ValueError where one holds neither."""
    full = [f"{path.parent.name}/{path.name}" for path in (p.resolve() for p in paths)]
    short = [name.partition("/")[2] for name in full]
    runs: list[Run] = []
    for i, (path, both, name) in enumerate(zip(paths, full, short, strict=True)):
        if short.count(name) > 1:
            name = both if full.count(both) == 1 else f"{both} ({i + 1})"
        runs += _read(path, name)
    return runs


def _read(path: Path, name: str) -> list[Run]:
    if not path.is_dir():
        raise wrong(str(path), EXPECTED, "a file" if path.exists() else "nothing")
    trained, searched = [], []  # starts, oldest first
    for config in sorted(path.glob("[0-9]*_[0-9]*/vis_data/config.py")):
        kind = lookup(parse_config(_text(config)), "train_cfg.type")
        (searched if kind == "SearchLoop" else trained).append(config.parent.parent)
    if (path / "search").is_dir() or searched or not any(path.iterdir()):
        runs: list[Run] = [_read_search(SearchRun(path, name))]
        if any((start / "vis_data/scalars.json").is_file() for start in trained):
            runs.append(_read_training(TrainRun(path, f"{name}, training"), trained))
        return runs
    if trained:
        return [_read_training(TrainRun(path, name), trained)]
    raise wrong(str(path), EXPECTED, "neither search/ nor a folder <date>_<time>")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _attempt(run: Run, path: Path, read: Callable[[Path], T]) -> T | None:
    """What ``read`` makes of a file; None, and a sentence, where it can't."""
    shown = path.relative_to(run.path)
    if not path.is_file():
        run.missing.append(f"{shown} is not there.")
        return None
    try:
        return read(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        run.missing.append(f"{shown} can't be read ({error}).")
        return None


# -- searches ----------------------------------------------------------------------


def _read_search(run: SearchRun) -> SearchRun:
    folder = run.path / "search"
    if not folder.is_dir():
        run.missing.append("search/ is not there: the search is before its first step.")
        return run
    history = folder / "history.jsonl"
    run.record = _attempt(run, folder / "run.json", _read_record) or {}
    run.starts = run.record.get("starts", [])
    if run.starts:
        if run.ended is None:
            wrote = history if history.is_file() else folder / "run.json"
            run.starts[-1]["ended"] = datetime.fromtimestamp(wrote.stat().st_mtime)
        config = run.path / run.starts[-1]["folder"] / "vis_data/config.py"
        run.config_text = _text(config) if config.is_file() else ""
    setting = _attempt(run, folder / "space.json", _read_setting) or {}
    for name, value in setting.items():
        setattr(run, name, value)
    _read_history(run, history)
    archive = _attempt(run, folder / "archive.json", Archive.load)
    if archive is not None:
        run.networks = [n for e in archive.entries if (n := _network(run, e))]
        if archive.final is not None:
            same = [n for n in run.networks if n.entry == archive.final]
            run.final = same[0] if same else _network(run, archive.final)
    _note_state(run)
    return run


def _read_record(path: Path) -> dict[str, Any]:
    record = json.loads(_text(path))
    for start in record["starts"]:
        for key in ("started", "ended"):
            start[key] = start[key] and datetime.fromisoformat(start[key])
    return record


def _read_setting(path: Path) -> dict[str, Any]:
    data = json.loads(_text(path))
    space, budget = SearchSpace.from_config(data["space"]), data["budget"]
    return dict(
        space=space,
        input_shape=check_input_shape(space.skeleton, data["input_shape"]),
        num_classes=int(data["num_classes"]),
        budget=budget and dict(kind=budget["kind"], budget=float(budget["budget"])),
    )


def _read_history(run: SearchRun, path: Path) -> None:
    records, broken = _attempt(run, path, read_json_lines) or ([], 0)
    counts = [len(row) for row in run.space.candidates] if run.space else None
    for record in records:
        found = _row_lengths(record.get("p"))
        counts = counts or found
        if found and found == counts and isinstance(record.get("step"), int):
            run.history.append(record)
        else:
            broken += 1
    if broken:
        run.missing.append(f"search/{path.name}: {broken} line(s) can't be read.")
    if not run.history and path.is_file():
        run.missing.append(f"search/{path.name} holds no line yet.")


def _row_lengths(p: Any) -> list[int]:
    """Number of candidates of every layer; none where p is not rows of numbers."""
    try:
        return [len(row) for row in p] if math.isfinite(sum(map(sum, p))) else []
    except TypeError:
        return []


def read_json_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The objects of a file with one JSON object per line, and how many lines are
    none, e.g. the last one of a run that was killed while it wrote."""
    records, lines = [], [line for line in _text(path).splitlines() if line.strip()]
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records, len(lines) - len(records)


def _network(run: SearchRun, entry: ArchiveEntry) -> Network | None:
    file = run.path / "search" / entry.file
    genotype = _attempt(run, file, load_genotype)
    return None if genotype is None else Network(entry, genotype, _text(file))


def _note_state(run: SearchRun) -> None:
    whole = (run.path / "search/genotype.json").is_file()
    state = run.record.get("state", "finished" if whole else "running")
    run.finished = state == "finished"
    if run.finished:
        return
    steps = [record["step"] for record in run.history]
    last = max((network.entry.step for network in run.judged), default=0)
    if len(steps) > 1 and last > steps[-1] + steps[1] - steps[0]:
        run.missing.append(
            "The search has been resumed at a step before the networks found, and "
            "shows those of before for a while."
        )
    elif state == "failed":
        run.missing.append(f"The search has failed: {run.record['error']}.")
    elif state == "interrupted":
        run.missing.append("The search was interrupted before its end.")
    else:
        run.missing.append("The search is still running, or was killed.")


# -- trainings ---------------------------------------------------------------------


def _read_training(run: TrainRun, folders: Sequence[Path]) -> TrainRun:
    for folder in folders:
        scalars = folder / "vis_data/scalars.json"
        config_text = _text(folder / "vis_data/config.py")
        config = parse_config(config_text)
        train, val = _split(read_json_lines(scalars)[0] if scalars.is_file() else [])
        if not train and (val or run.train):
            continue  # a test, or killed before its first line
        first = train[0]["step"] if train else 0
        resumed = run.train and config.get("resume") and first > run.train[0]["step"]
        if not resumed:  # a run of its own
            run.train, run.val, run.starts = [], [], []
        run.train = [r for r in run.train if r["step"] < first] + train
        run.val = [r for r in run.val if r["after_step"] < first] + val
        run.config_text, run.config = config_text, config
        started = datetime.strptime(folder.name, "%Y%m%d_%H%M%S")
        wrote = datetime.fromtimestamp(scalars.stat().st_mtime) if train else started
        facts = config.get("started_with", {})
        run.starts.append({**facts, "started": started, "ended": wrote})
    # The last step of an epoch is not logged, but epochs are of one length.
    lengths = [-(-r["step"] // r["epoch"]) for r in run.train if "epoch" in r]
    for record in run.val:
        steps = record["step"] * max(lengths, default=1)
        record["after_step"] = max(record["after_step"], steps)
    if not run.train:
        run.missing.append("No line of scalars.json is there: nothing is logged yet.")
    source = lookup(run.config, "model.backbone.genotype")
    if source is None:
        run.missing.append("The config names no genotype: the network is not drawn.")
        return run
    try:
        run.genotype = resolve_genotype(source)
    except (OSError, ValueError) as error:
        run.missing.append(f"The genotype can't be read ({error}).")
    return run


def _split(lines: Sequence[dict[str, Any]]) -> tuple[list, list]:
    """Lines of training, and of validation with the last step logged before each."""
    train: list[dict[str, Any]] = []
    val: list[dict[str, Any]] = []
    for record in lines:
        if "iter" in record:
            train.append(record)
        else:
            val.append({**record, "after_step": train[-1]["step"] if train else 0})
    return train, val


def parse_config(text: str) -> dict[str, Any]:
    """Settings of a config as MMEngine dumps it, without running it: literals, lists,
    tuples, dicts and calls of ``dict``; others are left out."""
    try:
        tree = _Dicts().visit(ast.parse(text))
    except (SyntaxError, ValueError):
        return {}
    settings = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                settings[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return settings


class _Dicts(ast.NodeTransformer):
    """Turns ``dict(a=1)`` into ``{"a": 1}``."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.func, ast.Name) or node.func.id != "dict" or node.args:
            return node
        keys: list[ast.expr | None] = [ast.Constant(k.arg) for k in node.keywords]
        return ast.Dict(keys, [k.value for k in node.keywords])


def lookup(config: Any, dotted: str) -> Any:
    """``config["a"]["b"]`` for ``"a.b"``; None where a part is missing."""
    for key in dotted.split("."):
        if not isinstance(config, dict) or key not in config:
            return None
        config = config[key]
    return config
