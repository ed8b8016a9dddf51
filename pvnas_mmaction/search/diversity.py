"""Diversity of architecture distributions and of genotypes, in plain floats.

A layer with one candidate is left out of every mean, which is 0 where none has more.
Probabilities and alphas are one list of floats per layer.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import combinations

from ..space.checks import wrong
from ..space.cost_table import Rows


def softmax(alphas: Rows) -> list[list[float]]:
    """Probabilities of the alphas; ValueError if one is not finite."""
    probs = []
    for index, layer in enumerate(alphas):
        if not all(map(math.isfinite, layer)):
            hint = "the search has diverged: lower the alphas' learning rate"
            raise wrong(f"alphas of layer {index}", "finite numbers", str(layer), hint)
        largest = max(layer)
        powers = [math.exp(alpha - largest) for alpha in layer]
        total = math.fsum(powers)
        probs.append([power / total for power in powers])
    return probs


def diversity(probs: Rows) -> float:
    """D(p) = mean_l (1 - sum_o p_l[o]^2) / (1 - 1 / K_l): 1 when all layers are
    uniform, 0 when all are one-hot."""
    differ = ((1 - math.fsum(x * x for x in p), len(p)) for p in probs)
    share = _mean(value / (1 - 1 / k) for value, k in differ if k > 1)
    return min(max(share, 0.0), 1.0)  # float32 sums are not exactly 1


def entropy(probs: Rows) -> float:
    """The mean over layers of ``H(p_l) / log K_l``, in [0, 1]."""
    found = ((-math.fsum(x * math.log(x) for x in p if x > 0), len(p)) for p in probs)
    return _mean(value / math.log(k) for value, k in found if k > 1)


def argmax_share(probs: Rows) -> float:
    """The mean over layers of the largest probability."""
    return _mean(max(p) for p in probs if len(p) > 1)


def _mean(values: Iterable[float]) -> float:
    values = [*values]
    return math.fsum(values) / len(values) if values else 0.0


def hamming(a: Sequence, b: Sequence) -> float:
    """The share of layers in which two networks differ, in [0, 1]."""
    return sum(bool(x != y) for x, y in zip(a, b, strict=True)) / len(a)


def mean_pairwise_hamming(networks: Sequence[Sequence]) -> float:
    """The mean of :func:`hamming` over all pairs; 0 below two networks."""
    return _mean(hamming(a, b) for a, b in combinations(networks, 2))


def shrink_to_diversity(alphas: Rows, target: float) -> float:
    """The factor for :func:`shrink` that brings the alphas back to a wanted diversity,
    by bisection: D falls monotonically in it, from 1 at 0. Alphas are never sharpened:
    where they are diverse enough, the factor is 1."""
    has_choice = any(len(layer) > 1 for layer in alphas)
    if diversity(softmax(alphas)) >= target or not has_choice:
        return 1.0
    low, high = 0.0, 1.0
    while (middle := (low + high) / 2) not in (low, high):
        if diversity(softmax(shrink(alphas, middle))) >= target:
            low = middle
        else:
            high = middle
    return low


def shrink(alphas: Rows, factor: float) -> list[list[float]]:
    """Move every alpha toward the mean of its layer, ``mean + factor * (a - mean)``."""
    shrunk = []
    for layer in alphas:
        mean = math.fsum(layer) / len(layer)
        shrunk.append([mean + factor * (alpha - mean) for alpha in layer])
    return shrunk
