# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Diversity of architecture distributions and of genotypes, in plain floats.

A search holds, for every layer, a distribution ``p`` over its candidates. Two
networks drawn independently from ``p`` differ, on average, in this share of
their layers, scaled so that uniform layers give 1 and one-hot layers give 0::

    D(p) = mean_l (1 - sum_o p_l[o]^2) / (1 - 1 / K_l)

A layer with one candidate can not differ and is left out of every mean. When no
layer offers a choice, the network is fixed: diversity and entropy are 0.

Probabilities and alphas are given as one list of floats per layer; layers may
differ in length. Nothing here needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

SUM_TOLERANCE = 1e-4
"""How far the probabilities of one layer may sum from 1 (float32 softmax)."""


def softmax(alphas: Sequence[Sequence[float]], tau: float = 1.0) -> list[list[float]]:
    """Turn architecture parameters into probabilities, layer by layer.

    Args:
        alphas: One sequence of ``K_l`` finite floats per layer.
        tau: Temperature, above 0. Defaults to 1.

    Returns:
        One list of ``K_l`` probabilities per layer; each sums to 1.

    Raises:
        ValueError: If there is no layer, a layer is empty, an alpha is not
            finite, or ``tau`` is not a positive number.
    """
    if not (math.isfinite(tau) and tau > 0):
        raise ValueError(f"tau: expected a finite number above 0, found {tau}")
    _check_layers("alphas", alphas)
    for index, layer in enumerate(alphas):
        for alpha in layer:
            if not math.isfinite(alpha):
                raise ValueError(
                    f"alphas of layer {index}: expected finite numbers, found "
                    f"{alpha}; the search has diverged, lower the alphas' "
                    "learning rate"
                )
    return [_softmax_layer(layer, tau) for layer in alphas]


def diversity(probs: Sequence[Sequence[float]]) -> float:
    """Return D(p): 1 when every layer is uniform, 0 when every one is one-hot.

    Args:
        probs: One probability list per layer.

    Raises:
        ValueError: If there is no layer, a layer is empty, or the values of a
            layer are not probabilities that sum to 1.
    """
    _check_probs(probs)
    return _diversity(probs)


def entropy(probs: Sequence[Sequence[float]]) -> float:
    """Return the mean over layers of ``H(p_l) / log K_l``, in [0, 1].

    Args:
        probs: One probability list per layer.

    Raises:
        ValueError: As in :func:`diversity`.
    """
    _check_probs(probs)
    shares = [
        -math.fsum(p * math.log(p) for p in layer if p > 0) / math.log(len(layer))
        for layer in probs
        if len(layer) > 1
    ]
    return math.fsum(shares) / len(shares) if shares else 0.0


def argmax_share(probs: Sequence[Sequence[float]]) -> float:
    """Return the mean over layers of the largest probability.

    Layers with one candidate are left out; without any choice the share is 1.

    Args:
        probs: One probability list per layer.

    Raises:
        ValueError: As in :func:`diversity`.
    """
    _check_probs(probs)
    shares = [max(layer) for layer in probs if len(layer) > 1]
    return math.fsum(shares) / len(shares) if shares else 1.0


def hamming(a: Sequence[str], b: Sequence[str]) -> float:
    """Return the share of layers in which two block lists differ, in [0, 1].

    Args:
        a: Block specs (or candidate indices), one per layer.
        b: The same for the other network of the same space.

    Raises:
        ValueError: If the lists are empty or differ in length.
    """
    if len(a) != len(b):
        raise ValueError(
            f"expected two networks of one space, found {len(a)} and {len(b)} layers"
        )
    if not a:
        raise ValueError("expected at least one layer, found none")
    return sum(x != y for x, y in zip(a, b, strict=True)) / len(a)


def mean_pairwise_hamming(networks: Sequence[Sequence[str]]) -> float:
    """Return the mean of :func:`hamming` over all pairs; 0 below two networks.

    Args:
        networks: Block lists of one space.

    Raises:
        ValueError: As in :func:`hamming`.
    """
    distances = [hamming(a, b) for a, b in combinations(networks, 2)]
    return math.fsum(distances) / len(distances) if distances else 0.0


def shrink_to_diversity(
    alphas: Sequence[Sequence[float]], target: float, tau: float = 1.0
) -> float:
    """Find the factor that brings the alphas back to a wanted diversity.

    Alphas shrink toward the mean of their layer, ``a' = mean + f * (a - mean)``.
    The diversity of ``softmax(a' / tau)`` falls monotonically in ``f``, from 1
    at ``f = 0``, so bisection finds the factor. Alphas are never sharpened: where
    they are at least as diverse as the target already, the factor is 1.

    Args:
        alphas: One sequence of ``K_l`` finite floats per layer.
        target: Wanted diversity, in [0, 1].
        tau: Temperature of the softmax, above 0. Defaults to 1.

    Returns:
        The factor ``f`` in [0, 1]. With ``f < 1``, the diversity equals the
        target to 1e-9 or better.

    Raises:
        ValueError: If ``target`` is outside [0, 1], or as in :func:`softmax`.
    """
    if not 0 <= target <= 1:
        raise ValueError(f"target: expected a diversity in [0, 1], found {target}")
    has_choice = any(len(layer) > 1 for layer in alphas)
    if _diversity(softmax(alphas, tau)) >= target or not has_choice:
        return 1.0
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return low
        if _diversity(softmax(shrink(alphas, middle), tau)) >= target:
            low = middle
        else:
            high = middle


def shrink(alphas: Sequence[Sequence[float]], factor: float) -> list[list[float]]:
    """Move every alpha toward the mean of its layer.

    Args:
        alphas: One non-empty sequence of floats per layer.
        factor: Share of the deviation from the mean that is kept.

    Returns:
        ``mean + factor * (alpha - mean)``, layer by layer.
    """
    shrunk = []
    for layer in alphas:
        mean = math.fsum(layer) / len(layer)
        shrunk.append([mean + factor * (alpha - mean) for alpha in layer])
    return shrunk


def _softmax_layer(layer: Sequence[float], tau: float) -> list[float]:
    largest = max(layer)
    powers = [math.exp((alpha - largest) / tau) for alpha in layer]
    total = math.fsum(powers)
    return [power / total for power in powers]


def _diversity(probs: Sequence[Sequence[float]]) -> float:
    shares = [
        (1 - math.fsum(p * p for p in layer)) / (1 - 1 / len(layer))
        for layer in probs
        if len(layer) > 1
    ]
    if not shares:
        return 0.0
    return min(max(math.fsum(shares) / len(shares), 0.0), 1.0)


def _check_layers(name: str, layers: Sequence[Sequence[float]]) -> None:
    if len(layers) == 0:
        raise ValueError(f"{name}: expected at least one layer, found none")
    for index, layer in enumerate(layers):
        if len(layer) == 0:
            raise ValueError(
                f"{name} of layer {index}: expected at least one candidate, found none"
            )


def _check_probs(probs: Sequence[Sequence[float]]) -> None:
    _check_layers("probs", probs)
    for index, layer in enumerate(probs):
        if not all(-SUM_TOLERANCE <= p <= 1 + SUM_TOLERANCE for p in layer):
            raise ValueError(
                f"probs of layer {index}: expected values in [0, 1], found "
                f"{list(layer)}; pass softmax(alphas), not alphas"
            )
        total = math.fsum(layer)
        if abs(total - 1) > SUM_TOLERANCE:
            raise ValueError(
                f"probs of layer {index}: expected a sum of 1, found {total}; "
                "pass softmax(alphas), not alphas"
            )
