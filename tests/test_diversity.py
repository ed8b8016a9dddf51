"""Diversity, entropy and distances, against enumeration and hand counts."""

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnas_mmaction.search.diversity import (
    argmax_share,
    diversity,
    entropy,
    hamming,
    mean_pairwise_hamming,
    shrink,
    shrink_to_diversity,
    softmax,
)

alpha_layers = st.lists(
    st.lists(st.floats(-30, 30), min_size=1, max_size=7), min_size=1, max_size=6
)


def random_probs(seed: int, sizes: list[int]) -> list[list[float]]:
    generator = random.Random(seed)
    draws = [[generator.expovariate(1) for _ in range(size)] for size in sizes]
    return [[x / sum(layer) for x in layer] for layer in draws]


def enumerated_difference(probs: list[list[float]]) -> float:
    """Expected share of differing layers of two networks, by listing every pair."""
    networks = list(itertools.product(*(range(len(layer)) for layer in probs)))

    total = 0.0
    for a, b in itertools.product(networks, repeat=2):
        choices = list(zip(probs, a, b, strict=True))
        chance = math.prod(layer[x] * layer[y] for layer, x, y in choices)
        total += chance * sum(x != y for _, x, y in choices) / len(probs)
    return total


@pytest.mark.parametrize("seed", range(5))
def test_diversity_is_the_expected_difference_of_two_draws(seed):
    size = 2 + seed % 3
    probs = random_probs(seed, [size] * 3)
    uniform = 1 - 1 / size
    assert diversity(probs) == pytest.approx(enumerated_difference(probs) / uniform)


def test_bounds_uniform_one_hot_and_no_choice():
    uniform = [[1 / 3] * 3, [1 / 7] * 7]
    one_hot = [[0.0, 1.0, 0.0], [1.0, 0.0]]
    assert diversity(uniform) == pytest.approx(1)
    assert entropy(uniform) == pytest.approx(1)
    assert diversity(one_hot) == 0
    assert entropy(one_hot) == 0
    assert argmax_share(one_hot) == 1
    # Sums that float32 has rounded do not leave [0, 1].
    assert diversity([[1.00005, 0.0]]) == 0
    assert diversity([[1 / 21] * 21]) == 1
    assert (diversity([[1.0]]), entropy([[1.0]])) == (0, 0)


def test_softmax_is_stable():
    assert softmax([[1e4, 1e4 - math.log(3)]])[0] == pytest.approx([0.75, 0.25])
    assert softmax([[-1e6, 0.0, 1e6]])[0] == [0.0, 0.0, 1.0]
    with pytest.raises(ValueError, match=r"alphas of layer 0: expected finite .*"):
        softmax([[math.nan, 1.0]])  # which diverged


def test_hamming_by_hand():
    assert hamming(("a", "b", "c", "d"), ["a", "x", "c", "y"]) == 0.5
    assert hamming([1, 2], [1, 2]) == 0
    # distances 1/2, 1 and 1/2
    assert mean_pairwise_hamming(["ab", "ac", "dc"]) == pytest.approx(2 / 3)
    assert mean_pairwise_hamming(["ab"]) == 0
    assert mean_pairwise_hamming([]) == 0


@settings(deadline=None)
@given(alpha_layers, st.floats(0, 1))
def test_shrink_reaches_the_target_or_leaves_the_alphas(alphas, target):
    before = diversity(softmax(alphas))
    factor = shrink_to_diversity(alphas, target)
    after = diversity(softmax(shrink(alphas, factor)))
    if before >= target or all(len(layer) == 1 for layer in alphas):
        assert factor == 1
    else:
        assert 0 <= factor < 1
        assert after == pytest.approx(target, abs=1e-6)
    for old, new in zip(alphas, shrink(alphas, factor), strict=True):
        mean = sum(old) / len(old)
        assert new == pytest.approx([mean + factor * (a - mean) for a in old])
