# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Relaxations: values by hand, frequencies of what is drawn, gradients, seeds."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from pvnas_mmaction.models.relaxation import (
    RELAXATIONS,
    Choice,
    get_relaxation,
    gumbel_noise,
)

P = (0.05, 0.15, 0.2, 0.6)
TAU = 2.0
# p = softmax(alpha / tau) is P; the constant must not matter.
ALPHA = tuple(TAU * math.log(p) + 3 for p in P)
DRAWS = 2000


def make_alpha(values: tuple[float, ...] = ALPHA) -> Tensor:
    return torch.tensor(values, requires_grad=True)


def draw(name: str, alpha: Tensor, seed: int = 0) -> Choice:
    return RELAXATIONS[name](alpha, TAU, torch.Generator().manual_seed(seed))


def noise(seed: int = 0) -> Tensor:
    """Gumbel noise by its definition, -log(-log(u))."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(len(P), generator=generator, dtype=torch.float64)
    return -torch.log(-torch.log(u))


@pytest.mark.parametrize("name", RELAXATIONS)
def test_weights_are_a_distribution_over_what_runs(name: str) -> None:
    for seed in range(50):
        choice = draw(name, make_alpha(), seed)
        assert len(set(choice.indices)) == len(choice.indices)
        assert all(type(i) is int and 0 <= i < len(P) for i in choice.indices)
        if choice.weights is None:
            assert len(choice.indices) == 1
        else:
            assert choice.weights.shape == (len(choice.indices),)
            assert choice.weights.dtype == torch.float32
            assert (choice.weights > 0).all()
            assert choice.weights.sum().item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "runs"),
    [("softmax", 4), ("gumbel", 4), ("gumbel_st", 1), ("two_path", 2), ("uniform", 1)],
)
def test_how_many_run(name: str, runs: int) -> None:
    assert len(draw(name, make_alpha()).indices) == runs


def test_softmax_by_hand() -> None:
    choice = draw("softmax", make_alpha())
    assert choice.indices == (0, 1, 2, 3)
    assert choice.weights.tolist() == pytest.approx(P)


def test_gumbel_by_hand() -> None:
    noisy = torch.exp((torch.tensor(P).double().log() + noise()) / TAU)
    choice = draw("gumbel", make_alpha())
    assert choice.indices == (0, 1, 2, 3)
    assert choice.weights.tolist() == pytest.approx((noisy / noisy.sum()).tolist())


def test_two_path_by_hand() -> None:
    for seed in range(20):
        (i, j), weights = (c := draw("two_path", make_alpha(), seed)).indices, c.weights
        expected = [P[i] / (P[i] + P[j]), P[j] / (P[i] + P[j])]
        assert weights.tolist() == pytest.approx(expected)


def chi_square(counts: Counter, expected: dict) -> float:
    assert set(counts) <= set(expected)
    return sum(
        (counts[key] - DRAWS * p) ** 2 / (DRAWS * p) for key, p in expected.items()
    )


def singles(p: tuple[float, ...]) -> dict[tuple[int, ...], float]:
    return {(i,): chance for i, chance in enumerate(p)}


def pairs(p: tuple[float, ...]) -> dict[tuple[int, int], float]:
    """Chance of each ordered pair drawn from p without replacement."""
    return {
        (i, j): p[i] * p[j] / (1 - p[i])
        for i, j in itertools.permutations(range(len(p)), 2)
    }


@pytest.mark.parametrize(
    ("name", "expected", "others"),
    [
        (
            "gumbel_st",
            {(i,): p for i, p in enumerate(P)},
            {(i,): 0.25 for i in range(4)},
        ),
        ("uniform", {(i,): 0.25 for i in range(4)}, {(i,): p for i, p in enumerate(P)}),
        ("two_path", pairs(P), pairs((0.25,) * 4)),
    ],
)
def test_frequencies(name: str, expected: dict, others: dict) -> None:
    generator, alpha = torch.Generator().manual_seed(0), make_alpha()
    counts = Counter(
        RELAXATIONS[name](alpha, TAU, generator).indices for _ in range(DRAWS)
    )
    # 0.999 quantile of chi-square with 3 and 11 degrees of freedom: 16.3 and 31.3.
    limit = 16.3 if len(expected) == 4 else 31.3
    assert chi_square(counts, expected) < limit
    assert chi_square(counts, others) > 10 * limit


def test_gumbel_samples_from_p() -> None:
    generator, alpha = torch.Generator().manual_seed(0), make_alpha()
    counts = Counter(
        int(RELAXATIONS["gumbel"](alpha, TAU, generator).weights.argmax())
        for _ in range(DRAWS)
    )
    assert chi_square(counts, dict(enumerate(P))) < 16.3


def test_straight_through() -> None:
    """Exactly 1 forward; backward the gradient of the soft sample."""
    for seed in range(20):
        alpha, soft_alpha = make_alpha(), make_alpha()
        choice = draw("gumbel_st", alpha, seed)
        assert choice.weights.tolist() == [1.0]
        noisy = torch.log_softmax(soft_alpha.double() / TAU, 0) + noise(seed)
        assert choice.indices == (int(noisy.argmax()),)
        choice.weights.sum().backward()
        torch.softmax(noisy / TAU, 0)[choice.indices[0]].backward()
        torch.testing.assert_close(alpha.grad, soft_alpha.grad)
        assert alpha.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["softmax", "gumbel", "two_path"])
def test_gradient_of_weights_is_that_of_finite_differences(name: str) -> None:
    alpha = torch.tensor(ALPHA, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: draw(name, a).weights, (alpha,))


def test_alpha_gets_a_gradient_where_drawn_only() -> None:
    for seed in range(10):
        alpha = make_alpha()
        choice = draw("two_path", alpha, seed)
        choice.weights[0].backward()
        assert tuple(alpha.grad.nonzero().flatten()) == tuple(sorted(choice.indices))


@pytest.mark.parametrize("name", RELAXATIONS)
def test_the_seed_decides(name: str) -> None:
    def sequence(seed: int) -> list[tuple]:
        generator, alpha = torch.Generator().manual_seed(seed), make_alpha()
        torch.rand(seed)  # the global generator has no part in it
        choices = (RELAXATIONS[name](alpha, TAU, generator) for _ in range(20))
        return [
            (c.indices, None if c.weights is None else c.weights.tolist())
            for c in choices
        ]

    assert sequence(3) == sequence(3)
    assert (sequence(3) == sequence(4)) == (name == "softmax")


@pytest.mark.parametrize("name", RELAXATIONS)
def test_a_single_candidate(name: str) -> None:
    choice = draw(name, make_alpha((0.7,)))
    assert choice.indices == (0,)
    assert choice.weights is None or choice.weights.tolist() == [1.0]
    assert choice.detach() == Choice((0,))


def test_detached_weights_have_no_way_back() -> None:
    choice = draw("two_path", make_alpha())
    detached = choice.detach()
    assert detached.indices == choice.indices
    assert not detached.weights.requires_grad
    assert torch.equal(detached.weights, choice.weights)
    assert draw("gumbel_st", make_alpha()).detach().weights is None


@pytest.mark.parametrize("u", [0.0, 1 - 2.0**-53])
def test_noise_is_finite_at_the_ends(u: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda *_, **kw: torch.full((3,), u).double())
    noise = gumbel_noise(torch.zeros(3), None)
    assert noise.isfinite().all() and noise.dtype == torch.float32


def test_moments_of_the_noise() -> None:
    noise = gumbel_noise(torch.zeros(20000), torch.Generator().manual_seed(0))
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.03)  # Euler's constant
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, rel=0.03)


def test_unknown_name() -> None:
    expected = "relaxation: found 'darts', expected one of softmax, gumbel, gumbel_st"
    with pytest.raises(ValueError, match=expected):
        get_relaxation("darts")
