# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""What a search leaves in its work directory, written whole and by rank 0 alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mmengine.dist import master_only
from mmengine.runner import Runner

from .. import __version__
from ..search.archive import Archive, ArchiveEntry
from ..search.penalty import CostPenalty
from ..space.cost import fixed_cost, layer_costs
from ..space.genotype import Genotype, save_genotype, write_atomically
from ..space.search_space import SearchSpace
from .search_data import SearchData


class SearchRecord:
    """Writer of ``work_dir/search``.

    Files: ``space.json`` (space, budget, costs), ``split.json`` (the two halves),
    ``archive.json``, ``genotypes/cycle_NN.json``, and ``genotype.json``, the best of
    the archive or, where that is better or as good at a lower cost,
    ``genotypes/final.json``.

    Args:
        runner: The runner.
        space: The search space.
        input_shape: (C, T, H, W) that costs are for.
        num_classes: Outputs of the head.
    """

    def __init__(
        self,
        runner: Runner,
        space: SearchSpace,
        input_shape: Sequence[int],
        num_classes: int,
    ) -> None:
        self.runner = runner
        self.space = space
        self.input_shape = tuple(input_shape)
        self.num_classes = num_classes
        self.directory = Path(runner.work_dir) / "search"

    @master_only
    def write_setting(self, data: SearchData, penalty: CostPenalty | None) -> None:
        """Write down the space with its costs, and the split of the training list.

        Where a search starts, or one from elsewhere is resumed, in a folder that holds
        another one (told by seed and split), what that found is moved to a folder
        beside it first, ``search_before_TIMESTAMP``, and MMEngine's ``last_checkpoint``
        gets the same ending: ``--resume`` would go on with the other search as long as
        this one has saved nothing.
        """
        split = dict(
            seed=data.seed,
            alpha_share=data.alpha_share,
            ann_file=data.ann_file,
            weights=data.weights_half,
            alphas=data.alpha_half,
        )
        if self.runner.iter == 0 or self._holds_another_than(split):
            self._move_earlier_search()
        budget = penalty.budget if penalty else None
        setting = dict(
            space=self.space.to_config(),
            input_shape=list(self.input_shape),
            num_classes=self.num_classes,
            budget=budget and dict(kind=budget.kind, budget=budget.limit),
            fixed=asdict(fixed_cost(self.space, self.input_shape, self.num_classes)),
            layer_costs=[
                [asdict(cost) for cost in layer]
                for layer in layer_costs(self.space, self.input_shape)
            ],
        )
        write_atomically(self.directory / "space.json", json.dumps(setting) + "\n")
        write_atomically(self.directory / "split.json", json.dumps(split) + "\n")
        self._data = data
        self.runner.logger.info(
            f"Search space {self.space.name!r}: {self.space.size:.4g} networks, "
            f"{len(self.space.layers)} layers; {len(data.weights_half)} clips train "
            f"the weights, {len(data.alpha_half)} the alphas"
        )

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

    @master_only
    def write_entry(self, entry: ArchiveEntry, archive: Archive) -> None:
        """Write the genotype of a cycle or the final one, and the archive with it."""
        save_genotype(self.genotype(entry), self.directory / entry.file)
        archive.save(self.directory / "archive.json")

    @master_only
    def write_archive(self, archive: Archive) -> None:
        """Write every genotype of an archive, and the archive with them."""
        for entry in archive.entries:
            self.write_entry(entry, archive)
        if archive.final is not None:
            self.write_entry(archive.final, archive)

    @master_only
    def write_result(self, archive: Archive) -> None:
        """Write the genotype that the search chose."""
        best = archive.best()
        if best is None:
            return
        path = self.directory / "genotype.json"
        save_genotype(self.genotype(best), path)
        self.runner.logger.info(
            f"Search done: {len(archive)} genotype(s), the "
            f"{'last' if best.accuracy is None else 'best'} is {path}: "
            f"{' '.join(best.blocks)}"
        )

    def genotype(self, entry: ArchiveEntry) -> Genotype:
        """The genotype of an entry, with its provenance."""
        provenance = dict(
            data=self._data.ann_file,
            config=str(self.runner.cfg.filename or ""),
            seed=self._data.seed,
            code_version=__version__,
            input_shape=list(self.input_shape),
            num_classes=self.num_classes,
            macs=entry.macs,
            params=entry.params,
            accuracy=entry.accuracy,
            cycle=entry.cycle,
            step=entry.step,
        )
        return Genotype(self.space.name, self.space.skeleton, entry.blocks, provenance)
