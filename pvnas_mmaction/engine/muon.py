"""Muon for the convolutions that mix channels, AdamW for everything else.

Muon (Jordan et al., 2024) moves a weight matrix by its momentum made orthogonal, so
that a direction in which the gradient is small counts as much as the others.
``torch.optim.Muon`` takes matrices alone; here an output channel of a convolution is a
row.
"""

import inspect
import math
from collections.abc import Iterable
from typing import Any

import torch
from mmaction.registry import OPTIMIZERS
from torch import Tensor

# Of the quintic Newton-Schulz iteration, and its number of steps (Jordan et al., 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5


def orthogonalised(matrix: Tensor) -> Tensor:
    """A matrix of the same singular vectors, and singular values of about 1."""
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalised(matrix.T).T
    a, b, c = COEFFICIENTS
    x = matrix.bfloat16()
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


@OPTIMIZERS.register_module()
class MuonAdamW(torch.optim.AdamW):
    """AdamW whose convolutions that mix channels follow Muon, in groups of their own.

    Args:
        params: Parameters, or groups of them.
        lr, betas: Of AdamW.
        muon_lr: Of Muon, as a step of a matrix of spectral norm 1 (more for those with
            more rows than columns: sqrt(rows / columns)).
        muon_momentum: Of Muon, Nesterov's.
        weight_decay: Decoupled, of both.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        muon_lr: float = 0.06,
        muon_momentum: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
    ) -> None:
        assert lr > 0 and muon_lr > 0 and 0 <= muon_momentum < 1
        given = list(params)
        if not isinstance(given[0], dict):
            given = [dict(params=given)]
        groups: list[dict[str, Any]] = []
        for group in given:
            parts: dict[bool, list] = {False: [], True: []}
            for parameter in group["params"]:  # convolutions of more than one channel
                parts[parameter.ndim > 2 and parameter.shape[1] > 1].append(parameter)
            rate = group.get("lr", lr)
            for muon, own in ((False, rate), (True, muon_lr * (rate / lr))):
                settings = dict(params=parts[muon], muon=muon, lr=own)
                settings["muon_momentum"] = muon_momentum
                groups += [dict(group, **settings)] if parts[muon] else []
        super().__init__(
            groups, lr=lr, betas=tuple(betas), weight_decay=weight_decay, fused=True
        )
        # Under mixed precision, gradients come unscaled: Muon's part needs them so.
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self) -> None:
        """One step; Muon's parameters lose their gradients, so that AdamW passes over
        them."""
        for group in self.param_groups:
            if group["muon"]:
                self._muon_step(group)
        # AdamW's bare step: once an AdamW was built anywhere, its class's step runs the
        # hooks of a step too, as this one has already.
        inspect.unwrap(torch.optim.AdamW.step)(self)

    def _muon_step(self, group: dict[str, Any]) -> None:
        momentum = group["muon_momentum"]
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            gradient = parameter.grad.flatten(1)
            state = self.state[parameter]
            if not state:
                # AdamW, which reads all states of a checkpoint, looks for a step.
                state["step"] = torch.zeros(())
                state["momentum_buffer"] = torch.zeros_like(gradient)
            state["step"] += 1
            mean = state["momentum_buffer"]
            mean.lerp_(gradient, 1 - momentum)
            update = orthogonalised(gradient.lerp(mean, momentum))
            rows, columns = gradient.shape
            rate = group["lr"] * math.sqrt(max(1, rows / columns))
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.sub_(update.view_as(parameter), alpha=rate)
            parameter.grad = None
