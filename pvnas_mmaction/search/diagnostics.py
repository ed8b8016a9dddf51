"""Signs of a search that has collapsed, or that has settled on noise.

Losses are those of networks with inherited weights on a few clips of the alpha half,
with batch normalisation by the batch. To see what a block is worth, it is exchanged for
each other candidate of its layer (perturbation, after Wang et al., ICLR 2021).
"""

import math
from collections.abc import Iterable
from operator import mul

from scipy.stats import kendalltau
from torch import nn

from ..models.supernet import find_supernet
from ..space.cost_table import Rows
from .derive import Indices
from .donor_warmup import block_losses

NUM_CLIPS = 32
MEANINGS = dict(
    skips="share of layers without a block; near 1, the search has collapsed",
    gap="loss of the network minus its mean loss with the block of one layer drawn "
    "from p; above 0, deriving it has lost something",
    agreement="Kendall's tau, mean over layers, of p with what single blocks are "
    "worth; 1: the same order, 0: none",
    stability="the same of what blocks are worth on two halves of the clips; near 0, "
    "that is noise: use more clips",
)


def diagnose(
    model: nn.Module, network: Indices, probabilities: Rows, batches: Iterable[dict]
) -> dict[str, float | None]:
    """Figures for the keys of :data:`MEANINGS`; None for one that can't be told."""
    batches = list(batches)
    parts = [part for part in (batches[::2], batches[1::2]) if part]
    found = [block_losses(model, network, part) for part in parts]
    # What a block is worth: minus the loss with it, a mean over the parts.
    rows = [[[-loss for loss in row] for row in part] for _, part in found]
    layers = zip(*rows, strict=True)
    worth = [
        [sum(values) / len(parts) for values in zip(*layer, strict=True)]
        for layer in layers
    ]
    own = sum(loss for loss, _ in found) / len(parts)
    pairs = zip(probabilities, worth, strict=True)
    drawn = [-sum(map(mul, p, values)) for p, values in pairs]
    blocks = find_supernet(model).space.blocks(network)
    return dict(
        skips=blocks.count("skip") / len(blocks),
        gap=own - sum(drawn) / len(drawn),
        agreement=_tau(probabilities, worth),
        stability=_tau(*rows) if len(rows) == 2 else None,
    )


def _tau(first: Rows, second: Rows) -> float | None:
    """Kendall's tau of the candidates of a layer, a mean over the layers."""
    pairs = zip(first, second, strict=True)
    found = [kendalltau(*pair)[0] for pair in pairs if len(pair[0]) > 1]
    known = [float(tau) for tau in found if not math.isnan(tau)]
    return sum(known) / len(known) if known else None
