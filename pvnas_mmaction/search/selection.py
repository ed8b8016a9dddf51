# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Which networks a search finds: derived exactly, judged, chosen, archived."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from ..models.supernet import PVNASSupernet
from ..space.checks import check_count, check_number
from ..space.cost import fixed_cost, layer_costs, network_cost
from . import diversity
from .archive import Archive, ArchiveEntry
from .derive import Budget, derive
from .judging import choose

Indices = tuple[int, ...]
FINAL_FILE = "genotypes/final.json"


def costliest(costs: Sequence[Sequence[float]]) -> Indices:
    """Index of the costliest candidate of each layer, the last one where several tie.

    Args:
        costs: Cost of each candidate, one list per layer.
    """
    return tuple(
        max(range(len(layer)), key=lambda index: (layer[index], index))
        for layer in costs
    )


def derive_apart(
    log_probs: Sequence[Sequence[float]],
    budgets: Sequence[Budget],
    num: int,
    found: Sequence[Sequence[int]],
    share: float,
) -> list[Indices]:
    """The most probable networks, as candidate indices, apart from those found so far.

    Args:
        log_probs: As for :func:`derive`, as are the budgets.
        budgets: Limits.
        num: Number of networks wanted.
        found: Candidate indices of those found so far.
        share: Share of layers in which a network differs from each of them, rounded up
            to whole layers. Where no such network keeps the budgets, as for 0, they
            may be any.
    """
    # 0.2 of 15 layers are 3, whatever floats make of it.
    layers = math.ceil(share * len(log_probs) - 1e-9)
    if layers > 0:
        apart = derive(log_probs, budgets, num, 1, found, layers)
        if apart:
            return [network.indices for network in apart]
    return [network.indices for network in derive(log_probs, budgets, num)]


class Selection:
    """Derives the networks of a search, judges them and fills its archive.

    Args:
        supernet: Whose alphas are derived from.
        input_shape: (C, T, H, W) of a training view, for which costs are computed.
        num_classes: Outputs of the head.
        budget: Limit that every network keeps. Default None: none.
        evaluate: Gives the validation accuracy, a share, of a network with inherited
            weights, from its candidate indices; None where there is no validation.
        num_clips: Gives the number of validation clips.
        num_ranked: How many of the most probable networks are judged. Default 1.
        alpha_weight: See :mod:`pvnas_mmaction.search.judging`. Default 0.

    Attributes:
        archive: What was found so far.
        fixed: Cost of what all networks share, in the budget's unit; multiply-
            accumulates where there is no budget.
        per_layer: Cost of each candidate of each layer, likewise.

    Raises:
        ValueError: A setting that can't be used; says which and what was expected.
        InfeasibleBudgetError: No network of the space keeps the budget.
    """

    def __init__(
        self,
        supernet: PVNASSupernet,
        input_shape: tuple[int, int, int, int],
        num_classes: int,
        budget: Budget | None,
        evaluate: Callable[[Indices], float | None],
        num_clips: Callable[[], int],
        num_ranked: int = 1,
        alpha_weight: float = 0.0,
    ) -> None:
        check_count("num_ranked", num_ranked, 1)
        check_number("alpha_weight", alpha_weight)
        self.supernet, self.space = supernet, supernet.space
        self.input_shape, self.num_classes = input_shape, num_classes
        self.budgets = [] if budget is None else [budget]
        self.evaluate, self.num_clips = evaluate, num_clips
        self.num_ranked, self.alpha_weight = num_ranked, alpha_weight
        self.archive = Archive()
        if budget is None:
            self.fixed = fixed_cost(self.space, input_shape, num_classes).macs
            layers = layer_costs(self.space, input_shape)
            self.per_layer = [[cost.macs for cost in layer] for layer in layers]
        else:
            self.fixed = budget.fixed
            self.per_layer = [list(layer) for layer in budget.per_layer]
            # A budget that no network keeps fails here, before any training.
            derive([[0.0] * len(c) for c in self.space.candidates], self.budgets)

    # -- what the alphas say --------------------------------------------------------

    def probabilities(self) -> list[list[float]]:
        """p of every layer, as plain numbers."""
        alphas = [alpha.detach().double().tolist() for alpha in self.supernet.alphas]
        return diversity.softmax(alphas, self.supernet.tau)

    def log_probs(self) -> list[list[float]]:
        """log p of every layer, as plain numbers."""
        return [
            torch.log_softmax(alpha.detach().double() / self.supernet.tau, 0).tolist()
            for alpha in self.supernet.alphas
        ]

    def derive(self, min_distance: float = 0.0) -> list[Indices]:
        """The ``num_ranked`` most probable networks that keep the budget, as candidate
        indices, the most probable first; fewer where there are no more.

        Args:
            min_distance: Share of layers in which they differ from the archive; see
                :func:`derive_apart`. Default 0.
        """
        found = [
            self.space.indices_of_blocks(entry.blocks) for entry in self.archive.entries
        ]
        return derive_apart(
            self.log_probs(), self.budgets, self.num_ranked, found, min_distance
        )

    def most_probable_distance(self) -> float | None:
        """Share of layers in which the most probable network that keeps the budget
        differs from the nearest of the archive; None while that is empty."""
        return self.archive.distance(self._blocks(self.derive()[0]))

    # -- choosing -------------------------------------------------------------------

    def cost(self, indices: Indices) -> float:
        """Cost of one network, in the unit of ``per_layer``."""
        return self.fixed + _sum_of(self.per_layer, indices)

    def choose(self, networks: Sequence[Indices], accuracies: Sequence[float]) -> int:
        """:func:`pvnas_mmaction.search.judging.choose` by present probabilities and
        costs; an index."""
        log_probs = self.log_probs()
        return choose(
            accuracies,
            [_sum_of(log_probs, network) for network in networks],
            [self.cost(network) for network in networks],
            self.num_clips(),
            self.alpha_weight,
        )

    def finish_cycle(
        self, cycle: int, step: int, min_distance: float = 0.0
    ) -> ArchiveEntry:
        """Derive the cycle's networks, judge them, and put the best in the archive.

        Args:
            cycle: Number of the cycle that ends, from 0.
            step: Steps made so far.
            min_distance: Share of layers in which it differs from the archive, where
                such networks keep the budget. Default 0.
        """
        networks = self.derive(min_distance)
        found, accuracy = networks[0], self.evaluate(networks[0])
        if accuracy is not None:
            accuracies = [accuracy, *map(self.evaluate, networks[1:])]
            index = self.choose(networks, accuracies)
            found, accuracy = networks[index], accuracies[index]
        file = f"genotypes/cycle_{cycle + 1:02d}.json"
        entry = self._entry(found, accuracy, cycle, step, file)
        self.archive.add(entry)
        return entry

    def finish_search(self, min_distance: float = 0.0) -> ArchiveEntry | None:
        """Judge the genotypes of all cycles but the last with the present weights, and
        beside them, where the archive keeps a distance, the most probable networks
        without one. The search ends in the best of all (:attr:`Archive.final`).

        Args:
            min_distance: That of :meth:`finish_cycle`. Default 0.

        Returns:
            The best, or None without validation.
        """
        indices_of = self.space.indices_of_blocks
        last = self.archive.entries[-1]
        if last.accuracy is None:
            return None
        for entry in self.archive.entries[:-1]:
            self.archive.judge(entry.cycle, self.evaluate(indices_of(entry.blocks)))
        entries = list(self.archive.entries)
        if min_distance > 0:
            archived = {entry.blocks for entry in entries}
            entries += [
                self._entry(
                    indices, self.evaluate(indices), last.cycle, last.step, FINAL_FILE
                )
                for indices in self.derive()
                if self._blocks(indices) not in archived
            ]
        networks = [indices_of(entry.blocks) for entry in entries]
        final = entries[self.choose(networks, [entry.accuracy for entry in entries])]
        self.archive.final = final
        return final

    def _blocks(self, indices: Indices) -> tuple[str, ...]:
        return self.space.genotype(indices).blocks

    def _entry(
        self,
        indices: Indices,
        accuracy: float | None,
        cycle: int,
        step: int,
        file: str,
    ) -> ArchiveEntry:
        blocks = self._blocks(indices)
        cost = network_cost(
            self.space.skeleton, blocks, self.input_shape, self.num_classes
        )
        return ArchiveEntry(
            cycle=cycle,
            step=step,
            blocks=blocks,
            macs=cost.macs,
            params=cost.params,
            accuracy=accuracy,
            distance=self.archive.distance(blocks),
            diversity=diversity.diversity(self.probabilities()),
            file=file,
        )


def _sum_of(rows: Sequence[Sequence[float]], indices: Indices) -> float:
    return sum(row[index] for row, index in zip(rows, indices, strict=True))
