"""Which networks a search finds: derived exactly, evaluated, chosen, archived.

Networks that share most of their layers differ by little, and a validation accuracy has
a standard error. What the alphas learnt, over all steps of the search, is evidence of
another kind. With p as prior, and validation as the likelihood that a network is as
good as the most accurate one (Gaussian, in its standard errors), the score of a network
with accuracy a and probability p = prod_l p_l[o_l] is::

    alpha_weight * log p - ((a_max - a) / standard_error(a_max)) ** 2 / 2
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmengine.logging import print_log

from ..space.checks import COUNT, check, in_range
from ..space.cost_table import CostTable, Rows
from ..space.layout import BlockSpec
from ..space.search_space import SearchSpace
from .archive import Archive, ArchiveEntry
from .derive import Budget, Indices, derive

FIRST_FILE = "genotypes/cycle_00.json"
FINAL_FILE = "genotypes/final.json"
LEFT_OUT = -20.0
"""What the hand-designed network's score loses where it leaves out a layer."""
Judge = Callable[[Indices], float]


def standard_error(accuracy: float, num_clips: int) -> float:
    """Standard error of an accuracy on so many clips: sqrt(a (1 - a) / n), a being half
    a clip from 0 and 1 at least."""
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
    """Index of the network of highest score; of several the cheapest."""
    highest = max(accuracies)
    error = standard_error(highest, num_clips)
    scores = [-(((highest - accuracy) / error) ** 2) / 2 for accuracy in accuracies]
    if alpha_weight:  # a log-probability may be -inf
        pairs = zip(scores, log_probs, strict=True)
        scores = [score + alpha_weight * log_prob for score, log_prob in pairs]
    return max(range(len(scores)), key=lambda i: (scores[i], -costs[i], -i))


def hand_designed(space: SearchSpace, budgets: Sequence[Budget]) -> Indices:
    """The donor with a temporal shift in every residual block (TSM, Lin et al., ICCV
    2019; a temporal kernel of 3 where a space has none), as wide as the budgets allow:
    the greatest sum of log expand ratios, without a layer only where no width fits."""
    scores = []
    for layer, row in zip(space.layers, space.candidates, strict=True):
        kernel = next(s for s in row if s != "skip").split("_")[2]  # the donor's
        for start in ("ts_|rs_", "mb_t3|rb_t3", "."):
            wanted = re.compile(start if layer.keeps_shape else "(mb|rb)_t1")
            fits = [bool(wanted.match(s)) and kernel in s.split("_") for s in row]
            if any(fits):
                break
        ratios = (None if s == "skip" else BlockSpec.parse(s).expand_ratio for s in row)
        widths = [math.log(ratio) if ratio else LEFT_OUT for ratio in ratios]
        pairs = zip(fits, widths, strict=True)
        scores.append([w if fit or w == LEFT_OUT else -math.inf for fit, w in pairs])
    return derive(scores, budgets)[0]


class Selection:
    """Derives the networks of a search, judges them and fills its ``archive``.

    ``tables`` are the costs by kind; every network keeps the ``budget``, or a
    ValueError. ``judge`` gives the validation accuracy, a share, of a network with
    inherited weights, on ``num_clips`` clips; with None nothing is judged. ``table`` is
    that of the budget's kind, multiply-accumulates without a budget.
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
        """The ``num_ranked`` most probable networks that meet the budget and differ
        from the archive in a share of their layers, rounded up; any that meet it where
        none is so far away."""
        found = [self.space.indices_of_blocks(e.blocks) for e in self.archive.entries]
        wanted = log_probs, self.budgets, self.num_ranked
        # 0.2 of 15 layers are 3, whatever floats make of it.
        layers = math.ceil(min_distance * len(log_probs) - 1e-9)
        apart = derive(*wanted, found, layers) if layers else []
        return apart or derive(*wanted)

    def start(self, losses: Rows, step: int, found_diversity: float) -> None:
        """Put the network of the least sum of single blocks' losses in the archive."""
        (found,) = derive([[-value for value in row] for row in losses], self.budgets)
        own = dict(diversity=found_diversity, planned_diversity=found_diversity)
        own |= dict(cycle=-1, step=step, file=FIRST_FILE)
        self.archive.entries.append(ArchiveEntry(**own, **self._facts(found)))

    def finish_cycle(
        self, log_probs: Rows, cycle: int, min_distance: float = 0.0, **facts: float
    ) -> ArchiveEntry:
        """Derive networks of a cycle, judge them, and put the best in the archive;
        ``facts`` are ``step``, ``diversity`` and ``planned_diversity`` of its entry."""
        own = dict(cycle=cycle, file=f"genotypes/cycle_{cycle + 1:02d}.json", **facts)
        networks = self.derive(log_probs, min_distance)
        entries = [ArchiveEntry(**own, **self._facts(network)) for network in networks]
        entry = entries[0]
        if self.judge is not None:
            entry = self._best(self._judged(entries, self.judge), log_probs)
        self.archive.entries.append(entry)
        return entry

    def finish_search(self, log_probs: Rows, min_distance: float = 0.0) -> None:
        """Judge the genotypes of all cycles but the last with the present weights and,
        where the archive keeps a distance, the most probable networks without one. The
        search ends in the best of all."""
        if self.judge is None:
            return
        *earlier, last = self.archive.entries
        networks = self.derive(log_probs) if min_distance > 0 else []
        near = [replace(last, file=FINAL_FILE, **self._facts(n)) for n in networks]
        near = [entry for entry in near if entry.distance != 0]  # others are archived
        judged = self._judged([*earlier, *near], self.judge)
        self.archive.entries = [*judged[: len(earlier)], last]
        near = judged[len(earlier) :]
        self.archive.final = self._best([*self.archive.entries, *near], log_probs)

    def race(self, other: Indices, judge: Judge, log_probs: Rows) -> None:
        """Judge all and another network by a short training of each alone, which tells
        them apart better than inherited weights (one round of successive halving,
        Jamieson and Talwalkar, AISTATS 2016); the search ends in the best."""
        final = self.archive.final
        finalists = {entry.blocks: entry for entry in [*self.archive.entries, final]}
        hand_designed = replace(final, **self._facts(other))
        finalists.setdefault(hand_designed.blocks, hand_designed)
        judged = self._judged([*finalists.values()], judge, "Trained and evaluated")
        self.archive.final = replace(self._best(judged, log_probs), file=FINAL_FILE)

    def _judged(
        self, entries: Sequence[ArchiveEntry], judge: Judge, how: str = "Evaluated"
    ) -> list[ArchiveEntry]:
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
        networks = [self.space.indices_of_blocks(entry.blocks) for entry in entries]
        chosen = [zip(log_probs, network, strict=True) for network in networks]
        sums = [sum(row[index] for row, index in pairs) for pairs in chosen]
        costs = [entry.costs[self.table.kind] for entry in entries]
        accuracies = [entry.accuracy for entry in entries]
        settings = self.num_clips, self.alpha_weight
        return entries[choose(accuracies, sums, costs, *settings)]

    def _facts(self, indices: Indices) -> dict[str, Any]:
        """What an entry of the archive says of the network itself."""
        blocks = self.space.blocks(indices)
        return dict(
            blocks=blocks,
            costs={kind: table.cost(indices) for kind, table in self.tables.items()},
            accuracy=None,
            distance=self.archive.distance(blocks),
        )
