# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Work directories of searches and trainings, finished or not, as plain data.

What is missing or broken does not stop the reading: it is named in ``missing``, for the
page to say. Only a path that is no work directory at all is an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..models.pvnas_net import resolve_genotype
from ..search.archive import Archive, ArchiveEntry
from ..space.cost import check_input_shape
from ..space.genotype import Genotype, load_genotype
from ..space.search_space import SearchSpace
from .runlog import (
    Launches,
    find_launches,
    has_logged,
    is_moved_search,
    is_search,
    lookup,
    moved_searches,
    read_json_lines,
    read_launches,
)

T = TypeVar("T")


@dataclass
class Network:
    """A genotype that a search found.

    Args:
        entry: Its line of the archive.
        genotype: The genotype.
        text: The genotype file's text.
    """

    entry: ArchiveEntry
    genotype: Genotype
    text: str


@dataclass
class SearchRun:
    """A search's work directory.

    Args:
        path: The directory.
        name: Short name, unique within a report.
        launches: What MMEngine left.
        missing: What is not there or not readable, one sentence each.
        space: The search space, or None.
        input_shape: (C, T, H, W), or None.
        num_classes: Number of classes, or None.
        budget: ``{"kind": ..., "budget": ...}``, or None.
        history: Lines of ``history.jsonl``, by step.
        networks: The archive, oldest first.
        final: The network that the search ended in, of the archive or not, or None.
        finished: Whether the final genotype has been written, and no resume at an
            earlier step goes on.
        seed: Seed of the search, or None.
        ann_file: Annotation file that it read, or None.
        earlier: Folders of the searches that started in the directory before this one.
    """

    path: Path
    name: str
    launches: Launches
    missing: list[str] = field(default_factory=list)
    space: SearchSpace | None = None
    input_shape: tuple[int, ...] | None = None
    num_classes: int | None = None
    budget: dict[str, Any] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    networks: list[Network] = field(default_factory=list)
    final: Network | None = None
    finished: bool = False
    seed: int | None = None
    ann_file: str | None = None
    earlier: list[Path] = field(default_factory=list)

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
class TrainRun:
    """A work directory of a training, usually of one genotype's network."""

    path: Path
    name: str
    launches: Launches
    missing: list[str] = field(default_factory=list)
    genotype: Genotype | None = None


Run = SearchRun | TrainRun


def read_work_dir(path: Path, name: str | None = None) -> Run:
    """Read a work directory, whatever kind it is; of one that a search and a training
    share, the search.

    Args:
        path: The directory, or the folder ``search_before_<timestamp>`` in it to which
            the start of another search has moved an earlier one.
        name: Name to show. Default: the directory's own.

    Raises:
        ValueError: It is no directory, or holds files and none of a search or training.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such directory")
    if not path.is_dir():
        raise ValueError(
            f"{path}: found a file, expected the work directory of a search or training"
        )
    name = name or path.resolve().name
    if (path / "search").is_dir() or is_moved_search(path.resolve()):
        return _read_search(path, name)
    launches = find_launches(path)
    if launches and not find_launches(path, searches=False):
        return _read_search(path, name)
    if launches:
        return _read_training(path, name)
    if any(path.iterdir()):
        raise ValueError(
            f"{path}: found neither search/ nor a folder <date>_<time> of MMEngine's, "
            "expected the work directory of a search or training (--work-dir of "
            "tools/train.py)"
        )
    return _read_search(path, name)


def read_work_dirs(paths: Sequence[Path]) -> list[Run]:
    """Read several, with names that tell them apart; errors as for one. A search and a
    training in the same directory are two runs."""
    names = [_full_name(path, short=True) for path in paths]
    full = [
        name if names.count(name) == 1 else _full_name(path)
        for name, path in zip(names, paths, strict=True)
    ]
    unique = [
        name if full.count(name) == 1 else f"{name} ({i + 1})"
        for i, name in enumerate(full)
    ]
    runs: list[Run] = []
    for path, name in zip(paths, unique, strict=True):
        run = read_work_dir(path, name)
        runs.append(run)
        shared = any(
            is_search(p) is False and has_logged(p) for p in find_launches(path)
        )
        if isinstance(run, SearchRun) and shared:
            runs.append(_read_training(run.path, f"{name}, training"))
    return runs


def _full_name(path: Path, short: bool = False) -> str:
    """A directory's name, with its parent's unless it is to be short; a search that was
    moved aside is always named with the directory that it was made in."""
    path = Path(path).resolve()
    both = f"{path.parent.name}/{path.name}"
    return path.name if short and not is_moved_search(path) else both


def _read_search(path: Path, name: str) -> SearchRun:
    if is_moved_search(path.resolve()):
        before = path.resolve().name.removeprefix("search_before_")
        inside, work_dir = "", path.resolve().parent
    else:
        before, inside, work_dir = "", "search/", path
    folder = path / inside
    run = SearchRun(path, name, read_launches(work_dir, searches=True, before=before))
    run.earlier = [] if before else moved_searches(work_dir)
    if not folder.is_dir():
        run.missing.append(
            "search/ is not there: the search has not come to its first step."
            if run.launches.folders
            else "The directory is empty: the search has not started, or wrote "
            "elsewhere."
        )
        return run
    _read_setting(run, folder / "space.json")
    _read_history(run, folder / "history.jsonl")
    _read_archive(run, folder)
    split = _attempt(run, folder / "split.json", _read_object, "the seed is not known")
    if split is not None and isinstance(split.get("seed"), int):
        run.seed = split["seed"]
    if split is not None and isinstance(split.get("ann_file"), str):
        run.ann_file = split["ann_file"]
    behind = _is_behind(run)
    run.finished = (folder / "genotype.json").is_file() and not behind
    if behind:
        run.missing.append(
            f"{inside}history.jsonl ends before the networks found: the search has "
            "been resumed at an earlier step, and shows those of before for a while."
        )
    elif not run.finished:
        state = (
            "the search was stopped before its end"
            if before
            else "the search is still running, or was stopped before its end"
        )
        run.missing.append(f"{inside}genotype.json is not there: {state}.")
    _note_launches(run)
    return run


def _is_behind(run: SearchRun) -> bool:
    """Whether the archive is from before a resume at an earlier step, which has cut the
    history. An archive runs ahead of it by one interval at most."""
    if len(run.history) < 2 or not run.judged:
        return False
    first, second, last = (run.history[i]["step"] for i in (0, 1, -1))
    return max(n.entry.step for n in run.judged) > last + second - first


def _attempt(
    run: Run, path: Path, read: Callable[[Path], T], consequence: str
) -> T | None:
    """What ``read`` makes of a file; None, and a sentence, where it can't."""
    shown = path.relative_to(run.path) if path.is_relative_to(run.path) else path
    if not path.is_file():
        run.missing.append(f"{shown} is not there: {consequence}.")
        return None
    try:
        return read(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        run.missing.append(f"{shown} can't be read ({error}): {consequence}.")
        return None


def _read_object(path: Path) -> dict[str, Any]:
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        raise ValueError("found no object in it")
    return data


def _read_setting(run: SearchRun, path: Path) -> None:
    def read(path: Path) -> tuple[SearchSpace, tuple[int, ...], int, dict | None]:
        data = _read_object(path)
        space = SearchSpace.from_config(data["space"])
        shape = check_input_shape(space.skeleton, data["input_shape"])
        budget = data.get("budget")
        if budget is not None:
            budget = dict(kind=str(budget["kind"]), budget=float(budget["budget"]))
        return space, shape, int(data["num_classes"]), budget

    setting = _attempt(run, path, read, "candidates are numbered, and no budget shown")
    if setting is not None:
        run.space, run.input_shape, run.num_classes, run.budget = setting


def _read_history(run: SearchRun, path: Path) -> None:
    read = _attempt(run, path, read_json_lines, "there is nothing to draw over time")
    if read is None:
        return
    records, broken = read
    counts = [len(row) for row in run.space.candidates] if run.space else None
    for record in records:
        if not _is_history(record):
            broken += 1
            continue
        found = [len(row) for row in record["p"]]
        counts = counts or found
        if found == counts:
            run.history.append(record)
        else:
            broken += 1
    run.history.sort(key=lambda record: record["step"])
    if broken:
        run.missing.append(
            f"{path.relative_to(run.path)}: {broken} line(s) can't be read and are "
            "left out; the last line of a running or killed search may be half-written."
        )
    if not run.history:
        run.missing.append(f"{path.relative_to(run.path)} holds no line yet.")


def _is_history(record: dict[str, Any]) -> bool:
    p = record.get("p")
    return (
        isinstance(record.get("step"), int)
        and isinstance(record.get("cycle"), int)
        and isinstance(p, list)
        and bool(p)
        and all(
            isinstance(row, list)
            and bool(row)
            and all(isinstance(x, int | float) and math.isfinite(x) for x in row)
            for row in p
        )
    )


def _read_archive(run: SearchRun, folder: Path) -> None:
    path = folder / "archive.json"
    if not path.is_file():
        run.missing.append(
            f"{path.relative_to(run.path)} is not there: no cycle has ended yet, so no "
            "network has been found."
        )
        return
    archive = _attempt(run, path, Archive.load, "networks found can't be shown")
    if archive is None:
        return
    found = [_read_network(run, folder, entry) for entry in archive.entries]
    run.networks = [network for network in found if network is not None]
    final = archive.final
    if final is not None:
        same = [n for n in run.networks if n.entry == final]
        run.final = same[0] if same else _read_network(run, folder, final)


def _read_network(run: SearchRun, folder: Path, entry: ArchiveEntry) -> Network | None:
    path = folder / entry.file
    genotype = _attempt(run, path, load_genotype, "this network is not drawn")
    if genotype is None:
        return None
    return Network(entry, genotype, path.read_text(encoding="utf-8"))


def _note_launches(run: Run) -> None:
    launches = run.launches
    if not launches.folders:
        run.missing.append(
            "There is no log folder <date>_<time>: versions, duration and command are "
            "not known."
        )
    elif launches.seconds is None:
        run.missing.append("The log is empty or missing: the duration is not known.")
    if launches.broken_lines:
        run.missing.append(
            f"scalars.json: {launches.broken_lines} line(s) can't be read and are left "
            "out."
        )


def _read_training(path: Path, name: str) -> TrainRun:
    run = TrainRun(path, name, read_launches(path, searches=False))
    _note_launches(run)
    if not run.launches.scalars:
        run.missing.append(
            "There is no scalars.json with a line in it: nothing has been logged yet."
        )
    source = lookup(run.launches.config, "model.backbone.genotype")
    if source is None:
        run.missing.append("The config names no genotype: the network is not drawn.")
        return run
    started = run.launches.started
    try:
        run.genotype = resolve_genotype(source)
        # A search that starts in a folder replaces the genotype of an earlier one.
        if (
            started is not None
            and isinstance(source, str)
            and "::" not in source
            # The log gives whole seconds.
            and Path(source).stat().st_mtime > started.timestamp() + 1
        ):
            run.missing.append(
                f"The genotype as it was is not there: {source} has been written since "
                "the training started, and the network drawn may be another one."
            )
    except (OSError, ValueError) as error:
        run.missing.append(f"The genotype can't be read ({error}): it is not drawn.")
    return run
