# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Which networks a search finds: derived exactly, judged, chosen, archived.

Networks that share most of their layers differ by little, and a validation accuracy has
a standard error. What the alphas learnt, over all steps of the search, is evidence of
another kind. With p as prior, and validation as the likelihood that a network is as
good as the most accurate one (Gaussian, in its standard errors), the score of a network
with accuracy a and probability p = prod_l p_l[o_l] is::

    alpha_weight * log p - ((a_max - a) / standard_error(a_max)) ** 2 / 2
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmengine.logging import print_log

from ..space.checks import COUNT, check, in_range
from ..space.cost_table import CostTable, Rows
from ..space.search_space import SearchSpace
from .archive import Archive, ArchiveEntry
from .derive import Budget, Indices, derive, derive_apart

FIRST_FILE = "genotypes/cycle_00.json"
FINAL_FILE = "genotypes/final.json"
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
    """Index of the network of highest score, by validation accuracies on so many clips
    and, where ``alpha_weight`` is not 0, log-probabilities; where several tie, the
    cheapest, and of these the first."""
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
        budget: Limit that every network keeps, or an InfeasibleBudgetError. Default
            None: none.
        judge: Gives the validation accuracy, a share, of a network with inherited
            weights. Default None: nothing is judged.
        num_clips: Number of validation clips.
        num_ranked: How many of the most probable networks are judged. Default 1.
        alpha_weight: As for :func:`choose`. Default 0.

    Attributes:
        archive: What was found so far.
        table: Costs of the budget's kind; multiply-accumulates without a budget.
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
        check("train_cfg.num_ranked", num_ranked, COUNT)
        check("train_cfg.alpha_weight", alpha_weight, in_range("[0, inf)"))
        self.space, self.tables = space, tables
        self.budgets = [] if budget is None else [budget]
        self.table = tables["flops"] if budget is None else budget.table
        self.judge, self.num_clips = judge, num_clips
        self.num_ranked, self.alpha_weight = num_ranked, alpha_weight
        self.archive = Archive()
        # A budget that no network keeps fails here, before any training.
        derive([[0.0] * len(c) for c in space.candidates], self.budgets)

    def derive(self, log_probs: Rows, min_distance: float = 0.0) -> list[Indices]:
        """The ``num_ranked`` most probable networks that keep the budget, the most
        probable first; fewer where there are no more. They differ from the archive in a
        share ``min_distance`` of their layers, see :func:`derive_apart`."""
        found = [self.space.indices_of_blocks(e.blocks) for e in self.archive.entries]
        return derive_apart(
            log_probs, self.budgets, self.num_ranked, found, min_distance
        )

    def most_probable_distance(self, log_probs: Rows) -> float | None:
        """Share of layers in which the most probable network that keeps the budget
        differs from the nearest of the archive; None while that is empty."""
        return self.archive.distance(self.blocks(self.derive(log_probs)[0]))

    def start(self, losses: Rows, step: int, found_diversity: float) -> None:
        """Put the network of least loss, as losses of single blocks add up to, in the
        archive; it is judged at the end of the search."""
        (found,) = derive([[-value for value in row] for row in losses], self.budgets)
        facts = dict(diversity=found_diversity, planned_diversity=found_diversity)
        facts |= self._facts(found.indices)
        self.archive.entries.append(
            ArchiveEntry(cycle=-1, step=step, file=FIRST_FILE, **facts)
        )

    def finish_cycle(
        self, log_probs: Rows, cycle: int, min_distance: float = 0.0, **facts: float
    ) -> ArchiveEntry:
        """Derive networks of a cycle, counted from 0, as by :meth:`derive`, judge them,
        and put the best in the archive; ``facts`` are ``step``, ``diversity`` and
        ``planned_diversity`` of its entry."""
        own = dict(cycle=cycle, file=f"genotypes/cycle_{cycle + 1:02d}.json", **facts)
        networks = self.derive(log_probs, min_distance)
        entries = [ArchiveEntry(**own, **self._facts(network)) for network in networks]
        entry = entries[0]
        if self.judge is not None:
            entry = self._best(self._judged(entries, self.judge), log_probs)
        self.archive.entries.append(entry)
        return entry

    def finish_search(self, log_probs: Rows, min_distance: float = 0.0) -> None:
        """Judge the genotypes of all cycles but the last with the present weights, and
        also, where the archive keeps a distance, the most probable networks without
        one. The search ends in the best of all (:attr:`Archive.final`)."""
        if self.judge is None:
            return
        archive, networks = self.archive, []
        *earlier, last = archive.entries
        if min_distance > 0:
            archived = {entry.blocks for entry in archive.entries}
            networks = self.derive(log_probs)
            networks = [n for n in networks if self.blocks(n) not in archived]
        near = [replace(last, file=FINAL_FILE, **self._facts(n)) for n in networks]
        judged = self._judged([*earlier, *near], self.judge)
        archive.entries = [*judged[: len(earlier)], last]
        near = judged[len(earlier) :]
        archive.final = self._best([*archive.entries, *near], log_probs)

    def race(self, other: Indices, judge: Judge, log_probs: Rows) -> None:
        """Let the genotypes of the archive, the one that the search would end in and
        another network be judged in another way; the best of them is what it ends
        in."""
        final = self.archive.final
        assert final is not None
        finalists = {entry.blocks: entry for entry in [*self.archive.entries, final]}
        hand_made = replace(final, **self._facts(other))
        finalists.setdefault(hand_made.blocks, hand_made)
        judged = self._judged([*finalists.values()], judge, "Trained and judged")
        self.archive.final = replace(self._best(judged, log_probs), file=FINAL_FILE)

    def _judged(
        self, entries: Sequence[ArchiveEntry], judge: Judge, how: str = "Judged"
    ) -> list[ArchiveEntry]:
        """Entries with the accuracy that their networks have now."""
        judged = []
        for number, entry in enumerate(entries, start=1):
            accuracy = judge(self.space.indices_of_blocks(entry.blocks))
            judged.append(replace(entry, accuracy=accuracy))
            print_log(
                f"{how} network {number} of {len(entries)}: accuracy {accuracy:.4f}, "
                f"{entry.costs[self.table.kind]:.6g} {self.table.unit}: "
                f"{' '.join(entry.blocks)}",
                logger="current",
            )
        return judged

    def _best(self, entries: Sequence[ArchiveEntry], log_probs: Rows) -> ArchiveEntry:
        """What :func:`choose` chooses."""
        networks = [self.space.indices_of_blocks(entry.blocks) for entry in entries]
        chosen = [zip(log_probs, network, strict=True) for network in networks]
        sums = [sum(row[index] for row, index in pairs) for pairs in chosen]
        costs = [entry.costs[self.table.kind] for entry in entries]
        accuracies = [entry.accuracy for entry in entries]
        numbers = self.num_clips, self.alpha_weight
        return entries[choose(accuracies, sums, costs, *numbers)]

    def _facts(self, indices: Indices) -> dict[str, Any]:
        """What an entry of the archive says of the network itself."""
        blocks = self.blocks(indices)
        return dict(
            blocks=blocks,
            costs={kind: table.cost(indices) for kind, table in self.tables.items()},
            accuracy=None,
            distance=self.archive.distance(blocks),
        )

    def blocks(self, indices: Indices) -> tuple[str, ...]:
        """The block specs of a network."""
        pairs = zip(self.space.candidates, indices, strict=True)
        return tuple(row[index] for row, index in pairs)
