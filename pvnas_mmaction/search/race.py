# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The race at the end of a search: its finalists are trained separately for a while.

With inherited weights a validation accuracy says what a network shares with others as
much as what it is. A short training alone, from these weights and on the same batches
for all, tells them apart better (one round of successive halving, Jamieson and
Talwalkar, AISTATS 2016). The finalists are the networks of the archive, the one that
the search would end in, and a hand-made one.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor

from ..space.layout import BlockSpec
from ..space.search_space import SearchSpace
from .derive import Budget, Indices, derive

LEFT_OUT = -20.0
"""What the hand-made network's score loses where it leaves out a layer."""


def hand_made(space: SearchSpace, budgets: Sequence[Budget]) -> Indices:
    """The donor with a temporal shift in every residual block (TSM, Lin et al., ICCV
    2019), as wide as the budgets allow: the greatest sum of the logarithms of expand
    ratios, without a layer only where no width keeps them.

    Where a space has no shift, the residual blocks have a temporal kernel of 3.
    """
    scores = []
    for layer, row in zip(space.layers, space.candidates, strict=True):
        kernel = next(s for s in row if s != "skip").split("_")[2]  # the donor's
        for start in ("ts_|rs_", "mb_t3|rb_t3", "."):
            wanted = re.compile(start if layer.keeps_shape else "(mb|rb)_t1")
            fits = [bool(wanted.match(s)) and kernel in s.split("_") for s in row]
            if any(fits):
                break
        ratios = (None if s == "skip" else BlockSpec.parse(s).expand_ratio for s in row)
        widths = [math.log(ratio) if ratio else LEFT_OUT for ratio in ratios]
        pairs = zip(fits, widths, strict=True)
        scores.append([w if fit or w == LEFT_OUT else -math.inf for fit, w in pairs])
    return derive(scores, budgets)[0].indices


@contextmanager
def undone(tensors: Sequence[Tensor], optimizer: OptimWrapper) -> Iterator[None]:
    """What is trained within this context is forgotten: ``tensors`` and the state of
    their optimiser, new within it, are afterwards what they were."""
    saved = [tensor.detach().clone() for tensor in tensors]
    inner = optimizer.optimizer
    state, inner.state = inner.state, defaultdict(dict)
    optimizer.zero_grad()
    try:
        yield
    finally:
        optimizer.zero_grad()
        inner.state = state
        with torch.no_grad():
            for tensor, value in zip(tensors, saved, strict=True):
                tensor.copy_(value)
