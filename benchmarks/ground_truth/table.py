# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The ground truth table: networks, accuracies, costs, ranks and regrets."""

from __future__ import annotations

import functools
import itertools
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from pvnas_mmaction.space.cost import network_cost
from pvnas_mmaction.space.search_space import SearchSpace

FORMAT_VERSION = 2
_KEYS = {"format_version", "settings", "made", "seeds", "networks"}
_SETTINGS = {"space", "clips", "recipe", "val_clips", "views_per_training"}

Indices = tuple[int, ...]


ORDER_SEED = 0


def all_indices(space: SearchSpace) -> list[Indices]:
    """Every network of a space, in lexicographic order of candidate indices."""
    return list(itertools.product(*(range(len(c)) for c in space.candidates)))


def shuffled_indices(space: SearchSpace) -> list[Indices]:
    """Every network of a space, in the one random order in which they are trained."""
    networks = all_indices(space)
    random.Random(ORDER_SEED).shuffle(networks)
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

    @property
    def class_accuracies(self) -> tuple[float, ...]:
        """Mean top-1 of each class over the seeds that were trained; () if unknown."""
        known = [recalls for recalls in self.recalls if recalls is not None]
        return tuple(map(statistics.fmean, zip(*known, strict=True)))


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
            ValueError: Says the place, what was found and what was expected.
        """
        _check_keys(where, "top level", data, _KEYS)
        if data["format_version"] != FORMAT_VERSION:
            _fail(where, "format_version", data["format_version"], str(FORMAT_VERSION))
        settings, seeds = data["settings"], data["seeds"]
        _check_keys(where, "settings", settings, _SETTINGS)
        if not _is_count(settings["views_per_training"]):
            found = settings["views_per_training"]
            _fail(where, "settings.views_per_training", found, "an integer above 0")
        if not isinstance(seeds, list) or not all(type(s) is int for s in seeds):
            _fail(where, "seeds", seeds, "a list of integers")
        if not isinstance(data["networks"], dict) or not data["networks"]:
            _fail(where, "networks", data["networks"], "an object with one or more")
        clips = settings["clips"]
        if not isinstance(clips, dict) or not isinstance(clips.get("classes"), list):
            _fail(where, "settings.clips", clips, "an object with a list `classes`")
        num_classes = len(clips["classes"])
        try:
            space = SearchSpace.from_config(settings["space"])
        except ValueError as error:
            raise ValueError(f"{where}: settings.space: {error}") from error
        networks = [
            _read_network(where, space, len(seeds), num_classes, key, row)
            for key, row in data["networks"].items()
        ]
        return cls(settings, seeds, networks, data["made"])

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
            raise ValueError(
                f"{where}/manifest.json: found other clips than the table is about; "
                "render them with what the table's settings.clips says: "
                f"{self.settings['clips']}"
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

    @functools.cached_property
    def unrefined(self) -> GroundTruth:
        """The table by its main seeds alone: every network is known equally well."""
        positions = self.main_seeds
        networks = [
            replace(
                network,
                accuracies=tuple(network.accuracies[i] for i in positions.values()),
                recalls=tuple(network.recalls[i] for i in positions.values())
                if network.recalls
                else (),
            )
            for network in self.values()
        ]
        # A network that no main seed trained is not in it.
        trained = [network for network in networks if network.trained]
        return GroundTruth(self.settings, list(positions), trained, self.made)

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
            raise ValueError(
                f"max_macs: found {max_macs}, expected {cheapest} or more, the cost of "
                "the cheapest network of the table"
            )
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


def _read_network(
    where: str,
    space: SearchSpace,
    num_seeds: int,
    num_classes: int,
    key: str,
    row: Any,
) -> Network:
    place = f"networks[{key!r}]"
    blocks = tuple(key.split())
    if len(blocks) != len(space.candidates):
        expected = f"{len(space.candidates)} block specs"
        _fail(where, place, f"{len(blocks)} block specs", expected)
    for layer, (block, offered) in enumerate(
        zip(blocks, space.candidates, strict=True)
    ):
        if block not in offered:
            _fail(where, f"{place}, layer {layer}", block, f"one of {list(offered)}")
    _check_keys(where, place, row, {"accuracies", "recalls", "macs", "params"})
    accuracies = row["accuracies"]
    if not isinstance(accuracies, list) or len(accuracies) != num_seeds:
        _fail(where, f"{place}.accuracies", accuracies, f"{num_seeds}, one per seed")
    for value in accuracies:
        if value is not None and not (_is_number(value) and 0 <= value <= 1):
            _fail(where, f"{place}.accuracies", value, "a number in [0, 1] or null")
    if all(value is None for value in accuracies):
        _fail(where, f"{place}.accuracies", accuracies, "at least one number")
    recalls = row["recalls"]
    if not isinstance(recalls, list) or len(recalls) not in (0, num_seeds):
        expected = f"{num_seeds}, one per seed, or none"
        _fail(where, f"{place}.recalls", recalls, expected)
    for value in recalls:
        if value is not None and not (
            isinstance(value, list)
            and len(value) == num_classes
            and all(_is_number(share) and 0 <= share <= 1 for share in value)
        ):
            expected = f"{num_classes} numbers in [0, 1], one per class, or null"
            _fail(where, f"{place}.recalls", value, expected)
    for name in ("macs", "params"):
        if not _is_count(row[name]):
            _fail(where, f"{place}.{name}", row[name], "an integer above 0")
    indices = tuple(
        offered.index(block)
        for block, offered in zip(blocks, space.candidates, strict=True)
    )
    return Network(
        indices,
        blocks,
        tuple(accuracies),
        row["macs"],
        row["params"],
        tuple(None if value is None else tuple(value) for value in recalls),
    )


def _check_keys(where: str, place: str, data: Any, expected: set[str]) -> None:
    found = sorted(data) if isinstance(data, dict) else data
    if not isinstance(data, dict) or set(data) != expected:
        _fail(where, place, found, f"an object with the keys {sorted(expected)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _fail(where: str, place: str, found: Any, expected: str) -> NoReturn:
    text = repr(found)
    if len(text) > 80:
        text = f"{text[:77]}..."
    raise ValueError(f"{where}: {place}: found {text}, expected {expected}")
