# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Which networks a search finds: derived exactly, judged, chosen, archived.

Networks that share most of their layers differ by little, and a validation accuracy has
a standard error. What the alphas learnt, over all steps of the search, is evidence of
another kind. With p as prior, and validation as the likelihood that a network is as
good as the most accurate one (Gaussian, in its standard errors), the score of a network
with accuracy a and probability p = prod_l p_l[o_l] is::

    alpha_weight * log p - ((a_max - a) / standard_error(a_max)) ** 2 / 2
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmengine.logging import print_log

from ..space.checks import check_count, check_number
from ..space.cost_table import CostTable
from ..space.search_space import SearchSpace
from .archive import Archive, ArchiveEntry
from .derive import Budget, Indices, derive, derive_apart

FIRST_FILE = "genotypes/cycle_00.json"
FINAL_FILE = "genotypes/final.json"
Rows = Sequence[Sequence[float]]
Judge = Callable[[Indices], float]


def standard_error(accuracy: float, num_clips: int) -> float:
    """Standard error of an accuracy measured on so many clips: sqrt(a (1 - a) / n).

    All clips right, or none, does not mean that the next one will be: within half a
    clip of 0 and 1 the error is that of half a clip.
    """
    half = 0.5 / num_clips
    a = min(max(accuracy, half), 1 - half)
    return math.sqrt(a * (1 - a) / num_clips)


def choose(
    accuracies: Sequence[float],
    log_probs: Sequence[float],
    costs: Sequence[float],
    num_clips: int,
    alpha_weight: float = 0.0,
) -> int:
    """Index of the network of highest score; where several tie, the cheapest, and of
    these the first.

    Args:
        accuracies: Validation accuracies, shares, one or more.
        log_probs: Log-probability of each network.
        costs: Cost of each, in any one unit.
        num_clips: How many clips were validated.
        alpha_weight: What p counts. Default 0: accuracy alone decides.
    """
    highest = max(accuracies)
    error = standard_error(highest, num_clips)
    scores = [-(((highest - accuracy) / error) ** 2) / 2 for accuracy in accuracies]
    if alpha_weight:  # a log-probability may be -inf
        pairs = zip(scores, log_probs, strict=True)
        scores = [score + alpha_weight * log_prob for score, log_prob in pairs]
    return max(range(len(scores)), key=lambda i: (scores[i], -costs[i], -i))


class Selection:
    """Derives the networks of a search, judges them and fills its archive.

    Args:
        space: The search space.
        tables: Costs by kind.
        budget: Limit that every network keeps. Default None: none.
        judge: Gives the validation accuracy, a share, of a network with inherited
            weights, from its candidate indices. Default None: nothing is judged.
        num_clips: Number of validation clips.
        num_ranked: How many of the most probable networks are judged. Default 1.
        alpha_weight: What a network's log-probability counts next to its accuracy.
            Default 0.

    Attributes:
        archive: What was found so far.
        table: Costs of the budget's kind; multiply-accumulates without a budget.

    Raises:
        ValueError: A setting that can't be used; says which and what was expected.
        InfeasibleBudgetError: No network of the space keeps the budget.
    """

    def __init__(
        self,
        space: SearchSpace,
        tables: Mapping[str, CostTable],
        budget: Budget | None = None,
        judge: Judge | None = None,
        num_clips: int = 0,
        num_ranked: int = 1,
        alpha_weight: float = 0.0,
    ) -> None:
        check_count("train_cfg.num_ranked", num_ranked, 1)
        check_number("train_cfg.alpha_weight", alpha_weight)
        self.space, self.tables = space, tables
        self.budgets = [] if budget is None else [budget]
        self.table = tables["flops"] if budget is None else budget.table
        self.judge, self.num_clips = judge, num_clips
        self.num_ranked, self.alpha_weight = num_ranked, alpha_weight
        self.archive = Archive()
        # A budget that no network keeps fails here, before any training.
        derive([[0.0] * len(c) for c in space.candidates], self.budgets)

    def derive(self, log_probs: Rows, min_distance: float = 0.0) -> list[Indices]:
        """The ``num_ranked`` most probable networks that keep the budget, as candidate
        indices, the most probable first; fewer where there are no more.

        Args:
            log_probs: log p of each layer.
            min_distance: Share of layers in which they differ from the archive; see
                :func:`derive_apart`. Default 0.
        """
        found = [self.space.indices_of_blocks(e.blocks) for e in self.archive.entries]
        return derive_apart(
            log_probs, self.budgets, self.num_ranked, found, min_distance
        )

    def most_probable_distance(self, log_probs: Rows) -> float | None:
        """Share of layers in which the most probable network that keeps the budget
        differs from the nearest of the archive; None while that is empty."""
        return self.archive.distance(self.blocks(self.derive(log_probs)[0]))

    def choose(
        self, networks: Sequence[Indices], accuracies: Sequence[float], log_probs: Rows
    ) -> int:
        """:func:`choose` among networks by p and costs; an index."""
        chosen = [zip(log_probs, network, strict=True) for network in networks]
        sums = [sum(row[index] for row, index in pairs) for pairs in chosen]
        costs = [self.table.cost(network) for network in networks]
        return choose(accuracies, sums, costs, self.num_clips, self.alpha_weight)

    def start(self, losses: Rows, step: int, found_diversity: float) -> None:
        """Put the network of least loss, as losses of single blocks add up to, in the
        archive; it is judged at the end of the search."""
        (found,) = derive([[-value for value in row] for row in losses], self.budgets)
        facts = dict(diversity=found_diversity, planned_diversity=found_diversity)
        facts |= self._entry(found.indices, None)
        self.archive.add(ArchiveEntry(cycle=-1, step=step, file=FIRST_FILE, **facts))

    def finish_cycle(
        self, log_probs: Rows, cycle: int, min_distance: float = 0.0, **facts: float
    ) -> ArchiveEntry:
        """Derive the cycle's networks, judge them, and put the best in the archive.

        Args:
            log_probs: log p of each layer.
            cycle: Number of the cycle that ends, from 0.
            min_distance: Share of layers in which it differs from the archive, where
                such networks keep the budget. Default 0.
            **facts: ``step``, ``diversity`` and ``planned_diversity`` of the entry.
        """
        networks = self.derive(log_probs, min_distance)
        found, accuracy = networks[0], None
        if self.judge is not None:
            accuracies = self._judge_all(networks, self.judge)
            index = self.choose(networks, accuracies, log_probs)
            found, accuracy = networks[index], accuracies[index]
        facts |= self._entry(found, accuracy)
        file = f"genotypes/cycle_{cycle + 1:02d}.json"
        entry = ArchiveEntry(cycle=cycle, file=file, **facts)
        self.archive.add(entry)
        return entry

    def finish_search(self, log_probs: Rows, min_distance: float = 0.0) -> None:
        """Judge the genotypes of all cycles but the last with the present weights, and
        also, where the archive keeps a distance, the most probable networks without
        one. The search ends in the best of all (:attr:`Archive.final`).

        Args:
            log_probs: log p of each layer.
            min_distance: That of :meth:`finish_cycle`. Default 0.
        """
        if self.judge is None:
            return
        *earlier, last = self.archive.entries
        near: list[Indices] = []
        if min_distance > 0:
            archived = {entry.blocks for entry in self.archive.entries}
            derived = self.derive(log_probs)
            near = [n for n in derived if self.blocks(n) not in archived]
        networks = [self.space.indices_of_blocks(e.blocks) for e in earlier]
        accuracies = self._judge_all([*networks, *near], self.judge)
        for entry, accuracy in zip(earlier, accuracies, strict=False):
            self.archive.judge(entry.cycle, accuracy)
        entries = list(self.archive.entries)
        for indices, accuracy in zip(near, accuracies[len(earlier) :], strict=True):
            found = self._entry(indices, accuracy)
            entries.append(replace(last, file=FINAL_FILE, **found))
        networks = [self.space.indices_of_blocks(e.blocks) for e in entries]
        chosen = self.choose(networks, [e.accuracy for e in entries], log_probs)
        self.archive.final = entries[chosen]

    def race(self, other: Indices, judge: Judge, log_probs: Rows) -> None:
        """Let the genotypes of the archive, the one that the search would end in and
        another network be judged in another way; the best of them is what it ends in.

        Args:
            other: The other network.
            judge: Gives the accuracy that decides.
            log_probs: log p of each layer.
        """
        final = self.archive.final
        assert final is not None
        entries = {entry.blocks: entry for entry in [*self.archive.entries, final]}
        blocks = self.blocks(other)
        if blocks not in entries:
            entries[blocks] = replace(final, **self._entry(other, None))
        networks = [self.space.indices_of_blocks(blocks) for blocks in entries]
        accuracies = self._judge_all(networks, judge, "Trained and judged")
        index = self.choose(networks, accuracies, log_probs)
        winner, facts = [*entries.values()][index], dict(accuracy=accuracies[index])
        self.archive.final = replace(winner, file=FINAL_FILE, **facts)

    def _judge_all(
        self, networks: Sequence[Indices], judge: Judge, how: str = "Judged"
    ) -> list[float]:
        accuracies = []
        for number, network in enumerate(networks, start=1):
            accuracies.append(judge(network))
            print_log(
                f"{how} network {number} of {len(networks)}: accuracy "
                f"{accuracies[-1]:.4f}, {self.table.cost(network):.6g} "
                f"{self.table.unit}: {' '.join(self.blocks(network))}",
                logger="current",
            )
        return accuracies

    def blocks(self, indices: Indices) -> tuple[str, ...]:
        """The block specs of a network."""
        pairs = zip(self.space.candidates, indices, strict=True)
        return tuple(row[index] for row, index in pairs)

    def _entry(self, indices: Indices, accuracy: float | None) -> dict[str, Any]:
        """What an entry of the archive says of the network itself."""
        blocks = self.blocks(indices)
        return dict(
            blocks=blocks,
            costs={kind: table.cost(indices) for kind, table in self.tables.items()},
            accuracy=accuracy,
            distance=self.archive.distance(blocks),
        )
