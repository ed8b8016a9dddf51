# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""What a search leaves in its work directory, written whole and by rank 0 alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.runner import Runner
from torch import Tensor

from .. import __version__
from ..search.archive import ArchiveEntry
from ..search.distributed import together
from ..search.search import Search
from ..space.genotype import Genotype, save_genotype, write_atomically
from .search_data import SearchData


def _by_rank_0(method: Callable[..., None]) -> Callable[..., None]:
    """Writes by rank 0 alone; where it fails, all ranks do."""

    @wraps(method)
    def write(*args: Any) -> None:
        with together():
            if is_main_process():
                method(*args)

    return write


def save_weights(state: dict[str, Tensor], blocks: Sequence[str], path: Path) -> None:
    """Write a network's weights for ``load_from``: whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    torch.save(dict(meta=dict(blocks=list(blocks)), state_dict=state), temporary)
    temporary.replace(path)


class SearchRecord:
    """Writer of ``work_dir/search``.

    Files: ``space.json`` (space, budget, costs), ``split.json`` (the two halves),
    ``archive.json``, ``genotypes/cycle_NN.json``, and ``genotype.json``, the best of
    the archive or, where that is better or as good at a lower cost,
    ``genotypes/final.json``.

    Args:
        runner: The runner.
        search: The search.
        data: Its clips.
    """

    def __init__(self, runner: Runner, search: Search, data: SearchData) -> None:
        self.runner, self.search, self.data = runner, search, data
        self.directory = Path(runner.work_dir) / "search"

    @_by_rank_0
    def write_setting(self) -> None:
        """Write down the space with its costs, and the split of the training list.

        Where a search starts, or one from elsewhere is resumed, in a folder that holds
        another one (told by seed and split), what that found is moved to a folder
        next to it first, ``search_before_TIMESTAMP``, and MMEngine's
        ``last_checkpoint`` gets the same ending: ``--resume`` would go on with the
        other search as long as this one has saved nothing.
        """
        search, data = self.search, self.data
        split = dict(
            seed=data.seed,
            alpha_share=data.alpha_share,
            ann_file=data.ann_file,
            weights=data.weights_half,
            alphas=data.alpha_half,
        )
        if search.num_steps == 0 or self._holds_another_than(split):
            self._move_earlier_search()
        budget = search.penalty and search.penalty.budget
        setting = dict(
            space=search.space.to_config(),
            input_shape=list(search.input_shape),
            num_classes=search.num_classes,
            budget=budget and dict(kind=budget.table.kind, budget=budget.limit),
            costs={kind: asdict(table) for kind, table in search.tables.items()},
        )
        write_atomically(self.directory / "space.json", json.dumps(setting) + "\n")
        write_atomically(self.directory / "split.json", json.dumps(split) + "\n")
        self.runner.logger.info(
            f"Search space {search.space.name!r}: {search.space.size:.4g} networks, "
            f"{len(search.space.layers)} layers; {len(data.weights_half)} clips train "
            f"the weights, {len(data.alpha_half)} the alphas"
        )
        resumed = bool(search.archive.entries)
        if resumed and not (self.directory / "archive.json").exists():
            self._write_archive()  # in another folder

    def _holds_another_than(self, split: dict) -> bool:
        path = self.directory / "split.json"
        if not path.is_file():
            return False
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return True  # whatever it was
        return any(found.get(k) != split[k] for k in ("seed", "weights", "alphas"))

    def _move_earlier_search(self) -> None:
        ending = f"_before_{self.runner.timestamp}"
        last = self.directory.with_name("last_checkpoint")
        if last.exists():
            last.rename(last.with_name(last.name + ending))
        if (self.directory / "archive.json").exists():
            earlier = self.directory.with_name(self.directory.name + ending)
            self.directory.rename(earlier)
            self.runner.logger.warning(
                f"{self.directory}: found another search, moved to {earlier}; its "
                "checkpoints stay where they are, and those of the same names will be "
                "overwritten. To go on with a search, use --resume"
            )

    @_by_rank_0
    def write_sensitivities(self) -> None:
        """Write what single blocks of the donor are worth, if that was judged."""
        if found := self.search.sensitivities:
            path = self.directory / "sensitivities.json"
            write_atomically(path, json.dumps(found) + "\n")

    @_by_rank_0
    def write_entry(self, entry: ArchiveEntry) -> None:
        """Write the genotype of a cycle, and the archive with it."""
        self._save(entry, entry.file)
        self.search.archive.save(self.directory / "archive.json")

    @_by_rank_0
    def write_archive(self) -> None:
        """Write the archive and every genotype of it."""
        self._write_archive()

    def _write_archive(self) -> None:
        archive = self.search.archive
        for entry in [*archive.entries, *([archive.final] if archive.final else [])]:
            self._save(entry, entry.file)
        archive.save(self.directory / "archive.json")

    def write_result(self) -> None:
        """Write the genotype that the search chose; where it has a donor, also the
        weights to fine-tune it from."""
        best = self.search.archive.best()
        if best is None:
            return
        weights = None
        if self.search.donor:
            indices = self.search.space.indices_of_blocks(best.blocks)
            weights = self.search.inherited(indices)
        self._write_result(best, weights)

    @_by_rank_0
    def _write_result(self, best: ArchiveEntry, weights: dict | None) -> None:
        archive = self.search.archive
        path = self._save(best, "genotype.json")
        if weights is not None:
            save_weights(weights, best.blocks, path.with_suffix(".pth"))
        self.runner.logger.info(
            f"Search done: {len(archive)} genotype(s), the "
            f"{'last' if best.accuracy is None else 'best'} is {path}: "
            f"{' '.join(best.blocks)}"
        )

    def _save(self, entry: ArchiveEntry, file: str) -> Path:
        path = self.directory / file
        save_genotype(self.genotype(entry), path)
        return path

    def genotype(self, entry: ArchiveEntry) -> Genotype:
        """The genotype of an entry, with its provenance."""
        search = self.search
        provenance = dict(
            data=self.data.ann_file,
            config=str(self.runner.cfg.filename or ""),
            seed=search.seed,
            code_version=__version__,
            input_shape=list(search.input_shape),
            num_classes=search.num_classes,
            macs=entry.macs,
            params=entry.params,
            accuracy=entry.accuracy,
            cycle=entry.cycle,
            step=entry.step,
        )
        space = search.space
        return Genotype(space.name, space.skeleton, entry.blocks, provenance)
