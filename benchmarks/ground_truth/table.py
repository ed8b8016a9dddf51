"""The ground truth table: networks, accuracies, costs, ranks and regrets."""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pvnas_mmaction.space.checks import wrong
from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.search_space import SearchSpace

FORMAT_VERSION = 2
Indices = tuple[int, ...]


def all_indices(space: SearchSpace) -> list[Indices]:
    """Every network of a space, in lexicographic order of candidate indices."""
    return list(itertools.product(*(range(len(c)) for c in space.candidates)))


def shuffled_indices(space: SearchSpace) -> list[Indices]:
    """Every network of a space, in the one random order in which they are trained."""
    networks = all_indices(space)
    random.Random(0).shuffle(networks)
    return networks


@dataclass(frozen=True)
class Network:
    """One row.

    Args:
        indices: Candidate index of each layer.
        blocks: Block spec of each layer.
        accuracies: Top-1 of each seed, in [0, 1]; None where it was not trained.
        macs: Multiply-accumulates of one view.
        params: Learnable parameters.
        recalls: Top-1 of each seed on the clips of each class; None where it was not
            trained. Default (): not known.
    """

    indices: Indices
    blocks: tuple[str, ...]
    accuracies: tuple[float | None, ...]
    macs: int
    params: int
    recalls: tuple[tuple[float, ...] | None, ...] = ()

    @property
    def trained(self) -> tuple[float, ...]:
        """Accuracies of the seeds that were trained."""
        return tuple(a for a in self.accuracies if a is not None)

    @property
    def accuracy(self) -> float:
        """Mean accuracy over the seeds that were trained."""
        return statistics.fmean(self.trained)


class GroundTruth(Mapping[Indices, Network]):
    """The table, from candidate indices to :class:`Network`.

    Args:
        settings: As in the file; see :func:`benchmarks.ground_truth.load`.
        seeds: Seeds of the trainings.
        networks: The rows.
        made: Where the table came from. Default None: nothing is known.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        seeds: Sequence[int],
        networks: Sequence[Network],
        made: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings = dict(settings)
        self.space = SearchSpace.from_config(settings["space"])
        self.seeds = tuple(seeds)
        self.made = dict(made or {})
        self._networks = {network.indices: network for network in networks}

    @classmethod
    def from_data(cls, data: Any, where: str) -> GroundTruth:
        """Read plain data.

        Args:
            data: As :meth:`to_data` gives it.
            where: Name of the file, for errors.

        Raises:
            ValueError: It is of another format, or of another space than it says.
        """
        if data.get("format_version") != FORMAT_VERSION:
            found = repr(data.get("format_version"))
            raise wrong(f"{where}: format_version", str(FORMAT_VERSION), found)
        space = SearchSpace.from_config(data["settings"]["space"])
        networks = []
        for key, row in data["networks"].items():
            blocks = tuple(key.split())
            recalls = tuple(value and tuple(value) for value in row["recalls"])
            networks.append(
                Network(
                    space.indices_of_blocks(blocks),
                    blocks,
                    tuple(row["accuracies"]),
                    row["macs"],
                    row["params"],
                    recalls,
                )
            )
        return cls(data["settings"], data["seeds"], networks, data["made"])

    def to_data(self) -> dict[str, Any]:
        """Plain data, fit for JSON, that :meth:`from_data` reads."""
        return dict(
            format_version=FORMAT_VERSION,
            settings=self.settings,
            made=self.made,
            seeds=list(self.seeds),
            networks={
                " ".join(network.blocks): dict(
                    accuracies=list(network.accuracies),
                    recalls=[row and list(row) for row in network.recalls],
                    macs=network.macs,
                    params=network.params,
                )
                for _, network in sorted(self._networks.items())
            },
        )

    def check_clips(self, manifest: Mapping[str, Any], where: str) -> None:
        """Check that clips are those that the table is about.

        Args:
            manifest: What they were rendered with, as :func:`read_manifest` gives it.
            where: Name of their folder.

        Raises:
            ValueError: They are others; says how these were rendered.
        """
        if manifest != self.settings["clips"]:
            raise wrong(
                f"{where}/manifest.json",
                "the clips that the table is about",
                "others",
                f"render them with its settings.clips: {self.settings['clips']}",
            )

    def __getitem__(self, indices: Sequence[int]) -> Network:
        return self._networks[tuple(indices)]

    def __iter__(self) -> Iterator[Indices]:
        return iter(self._networks)

    def __len__(self) -> int:
        return len(self._networks)

    @property
    def main_seeds(self) -> dict[int, int]:
        """Seeds that at least half of the networks were trained with, and their
        positions in :attr:`Network.accuracies`; with further seeds only the best
        networks were trained, to know them better."""
        return {
            seed: position
            for position, seed in enumerate(self.seeds)
            if 2 * sum(n.accuracies[position] is not None for n in self.values())
            >= len(self)
        }

    @property
    def is_complete(self) -> bool:
        """Whether every network of the space is there, with every main seed."""
        positions = self.main_seeds.values()
        return len(self) == self.space.size and all(
            network.accuracies[position] is not None
            for network in self.values()
            for position in positions
        )

    @property
    def views_per_training(self) -> int:
        """Clips that one training sees forward and backward."""
        return self.settings["views_per_training"]

    def ranked(self, max_macs: float | None = None) -> list[Network]:
        """Networks by falling mean accuracy, those within a budget if there is one."""
        kept = [n for n in self.values() if max_macs is None or n.macs <= max_macs]
        return sorted(kept, key=lambda n: (-n.accuracy, n.macs))

    def best(self, max_macs: float | None = None) -> Network:
        """The network of highest mean accuracy.

        Args:
            max_macs: Budget in multiply-accumulates. Default None: no budget.

        Raises:
            ValueError: No network of the table keeps the budget.
        """
        ranked = self.ranked(max_macs)
        if not ranked:
            cheapest = min(network.macs for network in self.values())
            expected = f"{cheapest} or more, the cost of the cheapest network"
            raise wrong("max_macs", expected, str(max_macs))
        return ranked[0]

    def regret(
        self, indices: Sequence[int], max_macs: float | None = None
    ) -> float | None:
        """Best mean accuracy of the table (within the budget) minus that of a network,
        as a share. None where the table does not hold the network."""
        if tuple(indices) not in self:
            return None
        return self.best(max_macs).accuracy - self[indices].accuracy

    def rank(self, indices: Sequence[int], max_macs: float | None = None) -> int | None:
        """1 + the number of networks (within the budget) of higher mean accuracy. None
        where the table does not hold the network."""
        if tuple(indices) not in self:
            return None
        own = self[indices].accuracy
        return 1 + sum(network.accuracy > own for network in self.ranked(max_macs))

    def median_macs(self) -> int:
        """The median cost of all networks of the space, trained or not: half of them
        keep it as a budget. It is the lower one of two, so that it is a cost that
        exists."""
        recipe, skeleton = self.settings["recipe"], self.space.skeleton
        shape = (3, recipe["clip_len"], recipe["size"], recipe["size"])
        num_classes = len(self.settings["clips"]["classes"])
        return statistics.median_low(
            network_cost(
                skeleton, self.space.genotype(indices).blocks, shape, num_classes
            ).macs
            for indices in all_indices(self.space)
        )
