"""Searches that train every network they look at: at random, by local search, and by
evolution.

Trainings are looked up in the ground truth table: each shows the accuracy of one seed,
as one training would, and counts ``table.views_per_training`` clips forward and
backward.
"""

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from benchmarks.ground_truth import GroundTruth
from benchmarks.ground_truth.table import Indices


def affordable(clips: float, table: GroundTruth) -> int:
    """How many trainings take the place of ``clips`` clips seen forward and backward:
    rounded up, in favour of the baselines; at least 1."""
    return max(1, math.ceil(clips / table.views_per_training))


@dataclass
class Oracle:
    """Trains networks, by looking them up.

    Args:
        table: Where the accuracies are.
        generator: Chooses the seed of each training.
        max_macs: Networks above it may not be trained. Default None: no budget.

    Attributes:
        trained: Networks in the order of their trainings, with the accuracy seen.
    """

    table: GroundTruth
    generator: np.random.Generator
    max_macs: float | None = None
    trained: dict[Indices, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # In a fixed order, whatever order the table's file has.
        self.allowed = sorted(n.indices for n in self.table.ranked(self.max_macs))
        self._allowed = set(self.allowed)
        if not self.allowed:
            self.table.best(self.max_macs)  # says what would be enough

    @property
    def clips(self) -> int:
        """Clips seen forward and backward so far."""
        return len(self.trained) * self.table.views_per_training

    def allows(self, indices: Indices) -> bool:
        """Whether a network is in the table, keeps the budget, and is not trained."""
        return indices in self._allowed and indices not in self.trained

    def train(self, indices: Indices) -> float:
        """Accuracy of one training, a share."""
        accuracy = float(self.generator.choice(self.table[indices].trained))
        self.trained[indices] = accuracy
        return accuracy

    def best(self) -> Indices:
        """The trained network of highest accuracy seen; the first where several tie."""
        return max(self.trained, key=self.trained.__getitem__)


def random_search(oracle: Oracle, trainings: int) -> Indices:
    """Train networks drawn without replacement until so many are trained; gives the
    best.

    Args:
        oracle: Trains them.
        trainings: How many, or as many as there are.
    """
    left = [indices for indices in oracle.allowed if oracle.allows(indices)]
    count = min(trainings - len(oracle.trained), len(left))
    for index in oracle.generator.choice(len(left), count, replace=False):
        oracle.train(left[index])
    return oracle.best()


def local_search(oracle: Oracle, trainings: int) -> Indices:
    """Local search (White et al., UAI 2021): from a random network on, all that
    differ in one layer are trained and the best becomes the next; at a local optimum
    another random network follows. Gives the best network ever trained.

    Args:
        oracle: Trains networks.
        trainings: How many, or as many as there are.
    """
    count = min(trainings, len(oracle.allowed))
    while len(oracle.trained) < count:
        random_search(oracle, len(oracle.trained) + 1)
        here, better = list(oracle.trained)[-1], True
        while better and len(oracle.trained) < count:
            nearby = mutations(here, oracle.table)
            for i in oracle.generator.permutation(len(nearby)):
                if oracle.allows(nearby[i]) and len(oracle.trained) < count:
                    oracle.train(nearby[i])
            known = [n for n in nearby if n in oracle.trained]
            best = max(known, key=oracle.trained.__getitem__, default=here)
            better = oracle.trained[best] > oracle.trained[here]
            here = best if better else here
    return oracle.best()


def regularised_evolution(
    oracle: Oracle,
    trainings: int,
    population: int | None = None,
    tournament: int | None = None,
) -> Indices:
    """Regularised evolution (Real et al., 2019); gives the best network ever trained.

    A population starts at random. Then, again and again, the best of a random
    tournament is mutated in one layer, and the child takes the place of the oldest. No
    training is wasted on a network that is known: where every mutation of the parent
    is, a random network is trained instead.

    Args:
        oracle: Trains networks.
        trainings: How many, or as many as there are.
        population: Size of the population. Default None: half of the trainings, 2 to
            20.
        tournament: Size of the tournament. Default None: a quarter of the population,
            at least 2.
    """
    count = min(trainings, len(oracle.allowed))
    population = population or min(20, max(2, count // 2))
    tournament = tournament or max(2, population // 4)
    generator = oracle.generator
    random_search(oracle, min(population, count))
    alive = deque(oracle.trained)
    while len(oracle.trained) < count:
        entrants = generator.choice(
            len(alive), min(tournament, len(alive)), replace=False
        )
        parent = max((alive[i] for i in entrants), key=oracle.trained.__getitem__)
        children = [c for c in mutations(parent, oracle.table) if oracle.allows(c)]
        if not children:
            children = [c for c in oracle.allowed if oracle.allows(c)]
        child = children[generator.integers(len(children))]
        oracle.train(child)
        alive.append(child)
        if len(alive) > population:
            alive.popleft()
    return oracle.best()


def mutations(indices: Indices, table: GroundTruth) -> list[Indices]:
    """Every network of the space that differs in exactly one layer."""
    return [
        (*indices[:layer], candidate, *indices[layer + 1 :])
        for layer, offered in enumerate(table.space.candidates)
        for candidate in range(len(offered))
        if candidate != indices[layer]
    ]


BASELINES = dict(
    random=random_search, local_search=local_search, evolution=regularised_evolution
)


def run_baseline(
    name: str,
    table: GroundTruth,
    clips: float,
    seeds: int,
    max_macs: float | None = None,
) -> list[dict]:
    """Runs of a baseline, one for each seed from 0 up.

    Args:
        name: One of :data:`BASELINES`.
        table: The ground truth.
        clips: Compute allowed, in clips seen forward and backward.
        seeds: Number of runs.
        max_macs: Budget in multiply-accumulates. Default None: no budget.

    Returns:
        For each run ``found`` (candidate indices), ``clips`` and ``trainings``.
    """
    runs = []
    for seed in range(seeds):
        oracle = Oracle(table, np.random.default_rng(seed), max_macs)
        found = BASELINES[name](oracle, affordable(clips, table))
        runs.append(
            dict(found=list(found), clips=oracle.clips, trainings=len(oracle.trained))
        )
    return runs
