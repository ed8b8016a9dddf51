"""Work directories of searches and trainings, finished or not, as plain data: a
search's files in ``search/``, and what MMEngine leaves in ``<timestamp>/vis_data``."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..engine.search_files import read_starts
from ..engine.search_history_hook import read_json_lines
from ..search.archive import Archive, ArchiveEntry
from ..space.checks import wrong
from ..space.genotype import Genotype, load_genotype
from ..space.search_space import SearchSpace

EXPECTED = "the work directory of a search or training (--work-dir of tools/train.py)"


@dataclass
class Network:
    """A genotype that a search found, and its line of the archive."""

    entry: ArchiveEntry
    genotype: Genotype


@dataclass
class Run:
    """A work directory, with a name that is unique within a report.

    ``missing`` says what is not there or not readable, one sentence each. ``starts``,
    oldest first, have ``started`` and ``ended`` as datetimes (``ended`` of a running
    one: when it last wrote), and what ``start_facts`` gives.
    """

    path: Path
    name: str
    missing: list[str] = field(default_factory=list)
    starts: list[dict[str, Any]] = field(default_factory=list)
    config_text: str = ""

    @property
    def ended(self) -> datetime | None:
        return self.starts[-1]["ended"] if self.starts else None

    @property
    def seconds(self) -> float:
        spans = [start["ended"] - start["started"] for start in self.starts]
        return sum(span.total_seconds() for span in spans)


@dataclass
class SearchRun(Run):
    """A search, as far as its files are there: ``record`` is ``run.json``, ``networks``
    the archive, oldest first, ``final`` what the search ended in."""

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
        if self.final is None or self.final in self.networks:
            return self.networks
        return [*self.networks, self.final]

    def best(self) -> Network | None:
        if self.final is not None:
            return self.final
        best = Archive([network.entry for network in self.networks]).best()
        return next((n for n in self.networks if n.entry is best), None)


@dataclass
class TrainRun(Run):
    """A training; ``after_step`` of a validation counts the steps before it."""

    config: dict[str, Any] = field(default_factory=dict)
    train: list[dict[str, Any]] = field(default_factory=list)
    val: list[dict[str, Any]] = field(default_factory=list)
    genotype: Genotype | None = None


def read_work_dirs(paths: Sequence[Path]) -> list[Run]:
    """Read several; ValueError where one holds neither a search nor a training."""
    names = [path.resolve().name for path in paths]
    return [
        _read(path, name if names.count(name) == 1 else str(path.resolve()))
        for path, name in zip(paths, names, strict=True)
    ]


def _read(path: Path, name: str) -> Run:
    if not path.is_dir():
        raise wrong(str(path), EXPECTED, "a file" if path.exists() else "nothing")
    configs = sorted(path.glob("[0-9]*_[0-9]*/vis_data/config.py"))
    kind = lookup(_read_config(configs[0]), "train_cfg.type") if configs else None
    if (path / "search").is_dir() or kind == "SearchLoop" or not any(path.iterdir()):
        return _read_search(SearchRun(path, name))
    if not configs:
        raise wrong(str(path), EXPECTED, "neither search/ nor a folder <date>_<time>")
    return _read_training(TrainRun(path, name), [c.parent for c in configs])


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return Config.fromfile(path, import_custom_modules=False).to_dict()
    except Exception:  # a config is a program
        return {}


def lookup(config: Any, dotted: str) -> Any:
    """``config["a"]["b"]`` for ``"a.b"``; None where a part is missing."""
    for key in dotted.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config


def _read_search(run: SearchRun) -> SearchRun:
    folder = run.path / "search"
    if not folder.is_dir():
        run.missing.append("search/ is not there: the search is before its first step.")
        return run

    def attempt(name: str, read: Callable[[Path], Any], default: Any) -> Any:
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
        for key in ("started", "ended"):
            start[key] = datetime.fromisoformat(start[key])
    return {**_read_json(path), "starts": starts}


def _read_setting(path: Path) -> dict[str, Any]:
    data = _read_json(path)
    setting = {key: data[key] for key in ("input_shape", "num_classes", "budget")}
    return dict(setting, space=SearchSpace.from_config(data["space"]))


def _read_training(run: TrainRun, folders: Sequence[Path]) -> TrainRun:
    train: dict[int, dict[str, Any]] = {}
    val: dict[int, dict[str, Any]] = {}
    for folder in folders:
        path, config = folder / "scalars.json", _read_config(folder / "config.py")
        lines = read_json_lines(path)[0] if path.is_file() else []
        steps = {line["step"]: line for line in lines if "iter" in line}
        scores = {line["step"]: line for line in lines if "iter" not in line}
        if not steps and (scores or train):
            continue  # a test, or killed before its first line
        if not (train and config.get("resume") and min(steps) > min(train)):
            train, val, run.starts = {}, {}, []  # a run of its own
        train, val = train | steps, val | scores
        run.config_text, run.config = _text(folder / "config.py"), config
        started = datetime.strptime(folder.parent.name, "%Y%m%d_%H%M%S")
        wrote = datetime.fromtimestamp(path.stat().st_mtime) if steps else started
        facts = config.get("started_with", {})
        run.starts.append({**facts, "started": started, "ended": wrote})
    run.train = [*train.values()]
    # Validations count epochs of one length, whose last step may not be logged.
    lengths = [-(-r["step"] // r["epoch"]) for r in run.train if "epoch" in r]
    length = max(lengths, default=1)
    run.val = [{**line, "after_step": step * length} for step, line in val.items()]
    if not run.train:
        run.missing.append("No line of scalars.json is there: nothing is logged yet.")
    source = lookup(run.config, "model.backbone.genotype")
    if source is None:
        run.missing.append("The config names no genotype: the network is not drawn.")
        return run
    try:
        run.genotype = load_genotype(source)
    except (OSError, ValueError) as error:
        run.missing.append(f"The genotype can't be read ({error}).")
    return run
