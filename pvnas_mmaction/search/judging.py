# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Which of some derived networks to choose: what validation says, and what p says.

Networks that share most of their layers differ by little, and a validation accuracy has
a standard error. What the alphas learnt, over all steps of the search, is evidence of
another kind. With p as prior, and validation as the likelihood that a network is as
good as the most accurate one (Gaussian, in its standard errors), the score of a network
with accuracy a and probability p = prod_l p_l[o_l] is::

    alpha_weight * log p - ((a_max - a) / standard_error(a_max)) ** 2 / 2
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def standard_error(accuracy: float, num_clips: int) -> float:
    """Standard error of an accuracy measured on so many clips: sqrt(a (1 - a) / n).

    All clips right, or none, does not mean that the next one will be: within half a
    clip of 0 and 1 the error is that of half a clip.

    Args:
        accuracy: A share, from 0 to 1 but for rounding.
        num_clips: How many clips were validated.
    """
    half = 0.5 / num_clips
    a = min(max(accuracy, half), 1 - half)
    return math.sqrt(a * (1 - a) / num_clips)


def log_likelihoods(accuracies: Sequence[float], num_clips: int) -> list[float]:
    """For each accuracy, -z ** 2 / 2 with z its distance from the highest one in
    standard errors of that; 0 for the highest.

    Args:
        accuracies: Shares, one or more.
        num_clips: How many clips were validated.
    """
    highest = max(accuracies)
    error = standard_error(highest, num_clips)
    return [-(((highest - accuracy) / error) ** 2) / 2 for accuracy in accuracies]


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
    scores = [
        likelihood + (alpha_weight * log_prob if alpha_weight else 0.0)
        for likelihood, log_prob in zip(
            log_likelihoods(accuracies, num_clips), log_probs, strict=True
        )
    ]
    return max(range(len(scores)), key=lambda i: (scores[i], -costs[i], -i))
