# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""A layer of the supernet: its candidates, of which it runs those it is told to."""

from collections.abc import Sequence

from torch import Tensor, nn

from ..space.layout import Layer
from .blocks import build_block
from .relaxation import Choice


class MixedLayer(nn.Module):
    """Candidates of one layer, from their block specs and the place."""

    def __init__(self, candidates: Sequence[str], layer: Layer) -> None:
        super().__init__()
        self.ops = nn.ModuleList(build_block(spec, layer) for spec in candidates)

    def forward(self, x: Tensor, choice: Choice) -> Tensor:
        """Run the candidates of ``choice`` and add them up by its weights.

        Shape: (N, C_in, T, H, W) -> (N, C_out, T', H', W').
        """
        first, *others = (self.ops[index] for index in choice.indices)
        if choice.weights is None:
            return first(x)
        weights = choice.weights.unbind()
        total = weights[0] * first(x)
        for weight, op in zip(weights[1:], others, strict=True):
            total = total + weight * op(x)
        return total
