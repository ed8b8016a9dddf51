# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The choice among derived networks: accuracy, probability, cost."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
from scipy.stats import norm

from pvnas_mmaction.search.judging import choose, log_likelihoods, standard_error


def test_standard_error_is_the_deviation_of_a_mean():
    # 60 right of 80: the population's standard deviation over the root of 80.
    answers = [1] * 60 + [0] * 20
    expected = statistics.pstdev(answers) / math.sqrt(80)
    assert standard_error(0.75, 80) == pytest.approx(expected)
    half_a_clip = pytest.approx(standard_error(0.5 / 80, 80))
    for accuracy in (0.0, -1e-6, 1 + 1e-6, 1.0):
        assert standard_error(accuracy, 80) == half_a_clip
    assert 0 < standard_error(1.0, 80) < standard_error(79 / 80, 80)


def test_log_likelihoods_are_those_of_a_gaussian():
    accuracies = [0.8, 0.75, 0.8, 0.5]
    density = norm(0.8, math.sqrt(0.8 * 0.2 / 1000))
    expected = density.logpdf(accuracies) - density.logpdf(0.8)
    assert log_likelihoods(accuracies, 1000) == pytest.approx(expected)


def test_all_clips_right_leaves_the_doubt_of_half_a_clip():
    """One clip of 200 more decides no more at the top than just below it."""
    top, below = (log_likelihoods([a, a - 1 / 200], 200)[1] for a in (1.0, 0.995))
    assert top < below < 0 and top > 3 * below
    for best in (1.0, 0.995):
        accuracies = [best, best - 1 / 200]
        assert choose(accuracies, [-30.0, -3.0], [1, 1], 200, alpha_weight=1.0) == 1
        assert choose(accuracies, [-3.2, -3.0], [1, 1], 200, alpha_weight=1.0) == 0
    assert log_likelihoods([0.0, 0.0], 10) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("accuracies", "costs", "best"),
    [
        ([0.25], [1], 0),
        ([0.25, 0.75, 0.5], [1, 9, 1], 1),
        ([0.25, 0.5, 0.75], [1, 1, 1], 2),
        ([0.5, 0.75, 0.75], [1, 1, 1], 1),
        ([0.5, 0.75, 0.75], [1, 2, 1], 2),
        ([0.0, 0.0, 0.0], [3, 2, 2], 1),
        ([0.0, 0.0, 0.1], [1, 1, 9], 2),
    ],
)
def test_without_weight_accuracy_decides_then_cost_then_order(accuracies, costs, best):
    log_probs = [-9.0 * accuracy for accuracy in accuracies]
    assert choose(accuracies, log_probs, costs, 100) == best
    # Nor does a candidate of probability 0 disturb it.
    assert choose(accuracies, [-math.inf] * len(costs), costs, 100) == best


def test_choice_is_the_most_probable_by_bayes():
    """Priors p and the Gaussian's densities, multiplied and compared as they are."""
    generator = np.random.default_rng(0)
    seen = set()
    for _ in range(50):
        p = generator.dirichlet(np.ones(5))
        accuracies = generator.binomial(400, 0.8 + 0.02 * generator.random(5)) / 400
        error = math.sqrt(accuracies.max() * (1 - accuracies.max()) / 400)
        posterior = p * norm.pdf(accuracies, accuracies.max(), error)
        found = choose(list(accuracies), list(np.log(p)), [1] * 5, 400, 1.0)
        assert found == posterior.argmax()
        seen.add((found == accuracies.argmax(), found == p.argmax()))
    assert seen == set(itertools.product([True, False], repeat=2))


def test_weight_trades_probability_for_accuracy():
    # One standard error apart, exactly: half a unit of log p.
    accuracies = [0.8, 0.8 - standard_error(0.8, 100)]
    for gain, weight, best in (
        (0.49, 1.0, 0), (0.51, 1.0, 1), (0.26, 2.0, 1), (0.24, 2.0, 0), (9.0, 0.0, 0)
    ):  # fmt: skip
        assert choose(accuracies, [-gain, 0.0], [1, 1], 100, weight) == best
