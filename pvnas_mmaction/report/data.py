# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Work directories of searches and trainings, finished or not, as plain data.

Of a search its files in ``search/`` are read, of a training what MMEngine leaves in
``<timestamp>/vis_data``: scalars and the config. What is missing or broken is named in
``missing``, for the page to say. Only a path that is no work directory is an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from mmengine.config import Config

from ..engine.search_files import read_starts
from ..engine.search_history_hook import read_json_lines
from ..models.pvnas_net import resolve_genotype
from ..search.archive import Archive, ArchiveEntry
from ..space.checks import wrong
from ..space.genotype import Genotype, load_genotype
from ..space.search_space import SearchSpace

T = TypeVar("T")
EXPECTED = "the work directory of a search or training (--work-dir of tools/train.py)"


@dataclass
class Network:
    """A genotype that a search found, and its line of the archive."""

    entry: ArchiveEntry
    genotype: Genotype


@dataclass
class Run:
    """A work directory, with a name that is unique within a report.

    ``missing`` says what is not there or not readable, one sentence each. ``starts`` of
    the process, oldest first, have ``started`` and ``ended`` as datetimes (``ended`` of
    a running one: when it last wrote), and what ``start_facts`` gives. ``config_text``
    is MMEngine's last dump of the config.
    """

    path: Path
    name: str
    missing: list[str] = field(default_factory=list)
    starts: list[dict[str, Any]] = field(default_factory=list)
    config_text: str = ""

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
    diagnostics: dict[str, float | None] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return self.record.get("state") == "finished"

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


@dataclass
class TrainRun(Run):
    """A training, usually of one genotype's network: lines of ``scalars.json``.

    Each line of ``val`` has ``after_step``: steps of training before it.
    """

    config: dict[str, Any] = field(default_factory=dict)
    train: list[dict[str, Any]] = field(default_factory=list)
    val: list[dict[str, Any]] = field(default_factory=list)
    genotype: Genotype | None = None


def read_work_dirs(paths: Sequence[Path]) -> list[Run]:
    """Read several, with names that tell them apart; ValueError where one holds neither
    a search nor a training."""
    names = [path.resolve().name for path in paths]
    return [
        _read(path, name if names.count(name) == 1 else str(path.resolve()))
        for path, name in zip(paths, names, strict=True)
    ]


def _read(path: Path, name: str) -> Run:
    if not path.is_dir():
        raise wrong(str(path), EXPECTED, "a file" if path.exists() else "nothing")
    configs = sorted(path.glob("[0-9]*_[0-9]*/vis_data/config.py"))
    kind = lookup(read_config(configs[0]), "train_cfg.type") if configs else None
    if (path / "search").is_dir() or kind == "SearchLoop" or not any(path.iterdir()):
        return _read_search(SearchRun(path, name))
    if not configs:
        raise wrong(str(path), EXPECTED, "neither search/ nor a folder <date>_<time>")
    return _read_training(TrainRun(path, name), [c.parent.parent for c in configs])


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def read_config(path: Path) -> dict[str, Any]:
    """A config as MMEngine dumped it; nothing where it can't be read."""
    try:
        return Config.fromfile(path, import_custom_modules=False).to_dict()
    except Exception:  # a config is a program
        return {}


def lookup(config: Any, dotted: str) -> Any:
    """``config["a"]["b"]`` for ``"a.b"``; None where a part is missing."""
    for key in dotted.split("."):
        if not isinstance(config, dict) or key not in config:
            return None
        config = config[key]
    return config


# -- searches ----------------------------------------------------------------------


def _read_search(run: SearchRun) -> SearchRun:
    folder = run.path / "search"
    if not folder.is_dir():
        run.missing.append("search/ is not there: the search is before its first step.")
        return run

    def attempt(name: str, read: Callable[[Path], T], default: T) -> T:
        """What ``read`` makes of a file; a sentence where it can't."""
        try:
            return read(folder / name)
        except FileNotFoundError:
            run.missing.append(f"search/{name} is not there.")
        except (ValueError, KeyError, TypeError) as error:
            run.missing.append(f"search/{name} can't be read ({error}).")
        return default

    def network(entry: ArchiveEntry) -> Network | None:
        genotype = attempt(entry.file, load_genotype, None)
        return genotype and Network(entry, genotype)

    for key, value in attempt("space.json", _read_setting, {}).items():
        setattr(run, key, value)
    history, broken = attempt("history.jsonl", read_json_lines, ([], 0))
    run.history = [r for r in history if math.isfinite(sum(map(sum, r["p"])))]
    if broken:
        run.missing.append(f"search/history.jsonl: {broken} line(s) can't be read.")
    run.record = attempt("run.json", _read_record, {})
    run.starts = run.record.get("starts", [])
    if run.starts:
        config = run.path / run.starts[-1]["folder"] / "vis_data/config.py"
        run.config_text = _text(config) if config.is_file() else ""
    archive = attempt("archive.json", Archive.load, Archive())
    run.networks = [found for e in archive.entries if (found := network(e))]
    if archive.final is not None:
        same = [n for n in run.networks if n.entry == archive.final]
        run.final = same[0] if same else network(archive.final)
    if (folder / "diagnostics.json").is_file():
        run.diagnostics = attempt("diagnostics.json", _read_json, {})
    states = dict(
        failed=f"The search has failed: {run.record.get('error')}.",
        interrupted="The search was interrupted before its end.",
        running="The search is still running, or was killed.",
    )
    if not run.finished:
        run.missing.append(states[run.record.get("state", "running")])
    return run


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(_text(path))


def _read_record(path: Path) -> dict[str, Any]:
    starts = read_starts(path)
    for start in starts:
        start["started"] = datetime.fromisoformat(start["started"])
        start["ended"] = datetime.fromisoformat(start["ended"])
    return {**_read_json(path), "starts": starts}


def _read_setting(path: Path) -> dict[str, Any]:
    data = _read_json(path)
    names = ("input_shape", "num_classes", "budget")
    setting = {name: data[name] for name in names}
    return dict(setting, space=SearchSpace.from_config(data["space"]))


# -- trainings ---------------------------------------------------------------------


def _read_training(run: TrainRun, folders: Sequence[Path]) -> TrainRun:
    for folder in folders:
        scalars = folder / "vis_data/scalars.json"
        config = read_config(folder / "vis_data/config.py")
        train, val = _split(read_json_lines(scalars)[0] if scalars.is_file() else [])
        if not train and (val or run.train):
            continue  # a test, or killed before its first line
        first = train[0]["step"] if train else 0
        resumed = run.train and config.get("resume") and first > run.train[0]["step"]
        if not resumed:  # a run of its own
            run.train, run.val, run.starts = [], [], []
        run.train = [r for r in run.train if r["step"] < first] + train
        run.val = [r for r in run.val if r["after_step"] < first] + val
        run.config_text, run.config = _text(folder / "vis_data/config.py"), config
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
