# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The five relaxations: which candidates of a layer run, and with what weights.

With p = softmax(alpha / tau) over the K candidates of a layer:

=============  ======================================================  ============
relaxation     forward                                                 runs
=============  ======================================================  ============
``softmax``    sum of p_o * o(x) (DARTS, Liu et al., 2019)             all K
``gumbel``     softmax((log p + G) / tau) in place of p                all K
``gumbel_st``  one candidate drawn from p, straight-through gradient   one
``two_path``   two drawn without replacement, p renormalised over      two
               the pair (ProxylessNAS, Cai et al., 2019)
``uniform``    one drawn with equal chances, no gradient               one
=============  ======================================================  ============

G is Gumbel(0, 1) noise (Gumbel-softmax: Jang et al. and Maddison et al., 2017). Noise
comes from a generator on the CPU only, so that every rank of a distributed run and
every resumed run draws the same candidates from the same seed, whatever the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Choice:
    """What one layer runs.

    Args:
        indices: Candidates that run.
        weights: (len(indices),), a weight for each, with the gradient's way back to
            alpha; None for one candidate at a weight of exactly 1.
    """

    indices: tuple[int, ...]
    weights: Tensor | None = None

    def detach(self) -> Choice:
        """The same forward, with no gradient to alpha."""
        if self.weights is None or len(self.indices) == 1:
            return Choice(self.indices)
        return Choice(self.indices, self.weights.detach())


Relaxation = Callable[[Tensor, float, "torch.Generator | None"], Choice]


def gumbel_noise(alpha: Tensor, generator: torch.Generator | None) -> Tensor:
    """Gumbel(0, 1) noise of alpha's shape and device, drawn on the CPU."""
    uniform = torch.rand(alpha.shape, generator=generator, dtype=torch.float64)
    tiny = torch.finfo(torch.float64).tiny
    exponential = (-uniform.clamp_min(tiny).log()).clamp_min(tiny)
    return (-exponential.log()).to(alpha)


def _draw(
    alpha: Tensor, tau: float, count: int, generator: torch.Generator | None
) -> tuple[int, ...]:
    """``count`` indices drawn from p without replacement (Gumbel top-k)."""
    logits = alpha.detach().double().cpu() / tau
    return tuple(
        (logits + gumbel_noise(logits, generator)).topk(count).indices.tolist()
    )


def softmax(alpha: Tensor, tau: float, generator: torch.Generator | None) -> Choice:
    """All candidates, weighted by p."""
    return Choice(tuple(range(len(alpha))), torch.softmax(alpha / tau, dim=0))


def gumbel(alpha: Tensor, tau: float, generator: torch.Generator | None) -> Choice:
    """All candidates, weighted by a soft sample."""
    log_p = torch.log_softmax(alpha / tau, dim=0)
    soft = torch.softmax((log_p + gumbel_noise(alpha, generator)) / tau, dim=0)
    return Choice(tuple(range(len(alpha))), soft)


def gumbel_st(alpha: Tensor, tau: float, generator: torch.Generator | None) -> Choice:
    """One candidate drawn from p; forward weight 1, gradient of the soft sample."""
    log_p = torch.log_softmax(alpha / tau, dim=0)
    noisy = log_p + gumbel_noise(alpha, generator)
    index = int(noisy.argmax())
    soft = torch.softmax(noisy / tau, dim=0)[index]
    # The difference first: it is exactly 0, so the weight is exactly 1.
    return Choice((index,), (1 + (soft - soft.detach())).reshape(1))


def two_path(alpha: Tensor, tau: float, generator: torch.Generator | None) -> Choice:
    """Two candidates drawn from p without replacement, weighted by p over the pair."""
    indices = _draw(alpha, tau, min(2, len(alpha)), generator)
    pair = alpha[list(indices)]
    return Choice(indices, torch.softmax(pair / tau, dim=0))


def uniform(alpha: Tensor, tau: float, generator: torch.Generator | None) -> Choice:
    """One candidate, every one as likely."""
    return Choice((int(torch.randint(len(alpha), (), generator=generator)),))


RELAXATIONS: dict[str, Relaxation] = {
    "softmax": softmax,
    "gumbel": gumbel,
    "gumbel_st": gumbel_st,
    "two_path": two_path,
    "uniform": uniform,
}


def get_relaxation(name: str) -> Relaxation:
    """The relaxation of a name.

    Raises:
        ValueError: There is none of that name.
    """
    if not isinstance(name, str) or name not in RELAXATIONS:
        raise ValueError(
            f"relaxation: found {name!r}, expected one of {', '.join(RELAXATIONS)}"
        )
    return RELAXATIONS[name]
