"""Relaxations: values by hand, frequencies of what is drawn, gradients, seeds."""

import itertools
import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from pvnas_mmaction.models.relaxation import RELAXATIONS, Choice, Draw, sample

P = (0.05, 0.15, 0.2, 0.6)
# p = softmax(alpha) is P; the constant must not matter.
ALPHA = tuple(math.log(p) + 3 for p in P)
DRAWS = 2000


def make_alpha(values: tuple[float, ...] = ALPHA) -> Tensor:
    return torch.tensor(values, requires_grad=True)


def make_draw(rows: list[Tensor], generator: torch.Generator | None) -> Draw:
    """The layers as (L, K) logits, in float32 as a supernet has them."""
    width = max(map(len, rows))
    counts = [len(row) for row in rows]
    ends = [row.new_full((width - len(row),), -math.inf) for row in rows]
    pairs = zip(rows, ends, strict=True)
    logits = torch.stack([torch.cat([row, end]) for row, end in pairs])
    return Draw(logits, logits.detach().double(), counts, generator)


def draw(name: str, alpha: Tensor, seed: int | torch.Generator = 0) -> Choice:
    """The choice of a single layer."""
    if isinstance(seed, int):
        seed = torch.Generator().manual_seed(seed)
    (choice,) = sample(name, make_draw([alpha], seed))
    return choice


def noise(seed: int = 0) -> Tensor:
    """Gumbel noise by its definition, -log(-log(u))."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(len(P), generator=generator, dtype=torch.float64)
    return -torch.log(-torch.log(u))


def test_gumbel_and_two_path_by_hand() -> None:
    noisy = torch.exp(torch.tensor(P).double().log() + noise())
    choice = draw("gumbel", make_alpha())
    assert choice.indices == (0, 1, 2, 3)
    assert choice.weights.tolist() == pytest.approx((noisy / noisy.sum()).tolist())
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
        ("gumbel_st", singles(P), singles((0.25,) * 4)),
        ("uniform", singles((0.25,) * 4), singles(P)),
        ("two_path", pairs(P), pairs((0.25,) * 4)),
    ],
)
def test_frequencies(name: str, expected: dict, others: dict) -> None:
    """In each of two layers, next to one of fewer candidates."""
    generator, alpha = torch.Generator().manual_seed(0), make_alpha()
    drawn = [
        sample(name, make_draw([alpha, alpha[:2], alpha], generator))
        for _ in range(DRAWS)
    ]
    # 0.999 quantile of chi-square with 3 and 11 degrees of freedom: 16.3 and 31.3.
    limit = 16.3 if len(expected) == 4 else 31.3
    for layer in (0, 2):
        counts = Counter(choices[layer].indices for choices in drawn)
        assert chi_square(counts, expected) < limit
        assert chi_square(counts, others) > 10 * limit
    assert {i for choices in drawn for i in choices[1].indices} == {0, 1}
    same = sum(choices[0].indices == choices[2].indices for choices in drawn)
    assert same < DRAWS * 0.6  # layers are drawn independently


def test_straight_through() -> None:
    """Exactly 1 forward; backward the gradient of the soft sample."""
    for seed in range(20):
        alpha, soft_alpha = make_alpha(), make_alpha()
        choice = draw("gumbel_st", alpha, seed)
        assert choice.weights.tolist() == [1.0]
        noisy = torch.log_softmax(soft_alpha.double(), 0) + noise(seed)
        assert choice.indices == (int(noisy.argmax()),)
        choice.weights.sum().backward()
        torch.softmax(noisy, 0)[choice.indices[0]].backward()
        torch.testing.assert_close(alpha.grad, soft_alpha.grad)
        assert alpha.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["softmax", "gumbel", "two_path"])
def test_gradient_of_weights_is_that_of_finite_differences(name: str) -> None:
    """Also where a layer has fewer candidates than another."""
    alpha = torch.tensor(ALPHA, dtype=torch.float64, requires_grad=True)

    def weights(a: Tensor) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(0)
        choices = sample(name, make_draw([a, a[:2], a[3:]], generator))
        return tuple(choice.weights for choice in choices)

    assert torch.autograd.gradcheck(weights, (alpha,))


@pytest.mark.parametrize("name", RELAXATIONS)
def test_the_seed_decides(name: str) -> None:
    def sequence(seed: int) -> list[tuple]:
        generator, alpha = torch.Generator().manual_seed(seed), make_alpha()
        torch.rand(seed)  # the global generator has no part in it
        choices = (draw(name, alpha, generator) for _ in range(20))
        return [
            (c.indices, c.weights is not None and c.weights.tolist()) for c in choices
        ]

    assert sequence(3) == sequence(3)
    assert (sequence(3) == sequence(4)) == (name == "softmax")


@pytest.mark.parametrize("name", RELAXATIONS)
def test_a_single_candidate(name: str) -> None:
    """Alone, and next to a layer with more."""
    for rows in ([make_alpha((0.7,))], [make_alpha((0.7,)), make_alpha()]):
        choice, *_ = sample(name, make_draw(rows, None))
        assert choice.indices == (0,)
        assert choice.weights is None or choice.weights.tolist() == [1.0]


@pytest.mark.parametrize("u", [0.0, 1 - 2.0**-53])
def test_noise_is_finite_at_the_ends(u: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda *_, **kw: torch.full((1, 4), u).double())
    assert make_draw([make_alpha()], None).noise.isfinite().all()
