"""The five relaxations: which candidates of a layer run, and with what weights.

With p = softmax(alpha) over the K candidates of a layer:

=============  ======================================================  ============
relaxation     forward                                                 runs
=============  ======================================================  ============
``softmax``    sum of p_o * o(x) (DARTS, Liu et al., 2019)             all K
``gumbel``     softmax(log p + G) in place of p                        all K
``gumbel_st``  one candidate drawn from p, straight-through gradient   one
``two_path``   two drawn without replacement, p renormalised over      two
               the pair (ProxylessNAS, Cai et al., 2019)
``uniform``    one drawn with equal chances, no gradient               one
=============  ======================================================  ============

G is Gumbel(0, 1) noise (Gumbel-softmax: Jang et al. and Maddison et al., 2017). Noise
comes from a generator on the CPU, so that every rank and every resumed run draws the
same candidates from the same seed; what is drawn depends on a copy of the logits there,
so that no draw waits for an accelerator.

**To add a relaxation**, write a function of a :class:`Draw` and add it to
:data:`RELAXATIONS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Choice:
    """Candidates that a layer runs, and ``weights`` (len(indices),) that lead back to
    alpha; None for one candidate at a weight of exactly 1."""

    indices: tuple[int, ...]
    weights: Tensor | None = None


@dataclass(frozen=True)
class Draw:
    """What a relaxation draws from: alphas (L, K), -inf where there is no candidate,
    with gradient, and in float64 on the CPU without; the number of candidates of each
    layer; and the source of the noise."""

    logits: Tensor
    host: Tensor
    counts: Sequence[int]
    generator: torch.Generator | None

    @cached_property
    def noise(self) -> Tensor:
        """Gumbel(0, 1) noise, (L, K), in float64 on the CPU."""
        shape = self.host.shape
        uniform = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        tiny = torch.finfo(torch.float64).tiny
        exponential = (-uniform.clamp_min(tiny).log()).clamp_min(tiny)
        return -exponential.log()

    def soft(self) -> Tensor:
        """The soft sample softmax(log p + G), (L, K)."""
        return torch.softmax(self.logits + self.noise.to(self.logits), 1)

    def top(self, count: int) -> Tensor:
        """Indices (L, count) drawn from p without replacement (Gumbel top-k)."""
        return (self.host + self.noise).topk(min(count, self.host.shape[1])).indices

    def everything(self) -> Tensor:
        """Indices (L, K) of all candidates."""
        return torch.arange(self.host.shape[1]).expand(self.host.shape)


# Indices (L, n) on the CPU, and weights (L, n) or None for a weight of exactly 1.
Relaxation = Callable[[Draw], tuple[Tensor, "Tensor | None"]]


def softmax(draw: Draw) -> tuple[Tensor, Tensor]:
    return draw.everything(), torch.softmax(draw.logits, 1)


def gumbel(draw: Draw) -> tuple[Tensor, Tensor]:
    return draw.everything(), draw.soft()


def gumbel_st(draw: Draw) -> tuple[Tensor, Tensor | None]:
    index = draw.top(1)
    if not torch.is_grad_enabled():
        return index, None
    soft = draw.soft().gather(1, index.to(draw.logits.device))
    # The difference first: it is exactly 0, so the weight is exactly 1.
    return index, 1 + (soft - soft.detach())


def two_path(draw: Draw) -> tuple[Tensor, Tensor]:
    indices = draw.top(2)
    pair = draw.logits.gather(1, indices.to(draw.logits.device))
    return indices, torch.softmax(pair, 1)


def uniform(draw: Draw) -> tuple[Tensor, None]:
    size = (len(draw.counts), 1)
    u = torch.rand(size, generator=draw.generator, dtype=torch.float64)
    return (u * torch.tensor(draw.counts).unsqueeze(1)).long(), None


RELAXATIONS: dict[str, Relaxation] = dict(
    softmax=softmax, gumbel=gumbel, gumbel_st=gumbel_st, two_path=two_path,
    uniform=uniform,
)  # fmt: skip


def sample(relaxation: str, draw: Draw) -> tuple[Choice, ...]:
    """What each layer runs."""
    indices, weights = RELAXATIONS[relaxation](draw)
    parts = [None] * len(draw.counts) if weights is None else weights.unbind()
    rows = zip(indices.tolist(), parts, draw.counts, strict=True)
    return tuple(  # a row may hold more than there are candidates
        Choice(tuple(row[:k]), part[:k] if k < len(row) else part)
        for row, part, k in rows
    )
