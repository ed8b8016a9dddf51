# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""A layer of the supernet: its candidates, of which it runs those it is told to."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..space.layout import Layer
from .blocks import build_block
from .relaxation import Choice


class MixedLayer(nn.Module):
    """Candidates of one layer.

    Args:
        candidates: Block specs.
        layer: Widths and strides of the place.
    """

    def __init__(self, candidates: Sequence[str], layer: Layer) -> None:
        super().__init__()
        self.ops = nn.ModuleList(build_block(spec, layer) for spec in candidates)

    def forward(self, x: Tensor, choice: Choice) -> Tensor:
        """Run the candidates of ``choice`` and add them up by its weights.

        Shape: (N, C_in, T, H, W) -> (N, C_out, T', H', W').
        """
        if choice.weights is None:
            (index,) = choice.indices
            return self.ops[index](x)
        terms = (
            weight * self.ops[index](x)
            for index, weight in zip(choice.indices, choice.weights, strict=True)
        )
        total = next(terms)
        for term in terms:
            total = total + term
        return total
