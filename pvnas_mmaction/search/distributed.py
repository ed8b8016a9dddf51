# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Many processes: the search reduces its gradients itself.

A sampled path leaves most of the supernet without gradient, and the alpha step wants
gradients of the alphas only, so the loop averages exactly the gradients that a step has
made. All ranks draw the same path, hence they agree on which those are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from mmaction.registry import MODEL_WRAPPERS
from mmengine.dist import broadcast_object_list
from torch import Tensor, nn

from ..models.relaxation import Choice


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def shared_seed(seed: int) -> int:
    """Rank 0's seed; with ``diff_rank_seed`` MMEngine gives each rank another one."""
    seeds = [seed]
    broadcast_object_list(seeds)
    return seeds[0]


# Configs name it with its scope, mmaction.SearchDataParallel: MMEngine's runner looks a
# bare name up in MMEngine's own registry alone.
@MODEL_WRAPPERS.register_module()
class SearchDataParallel(nn.Module):
    """Wrapper of a model in a distributed search: copies rank 0's state to all ranks
    when it is built; after that the search loop keeps the ranks equal.

    Args:
        module: The model.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        if is_distributed():
            for value in module.state_dict().values():
                dist.broadcast(value, src=0)

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)

    def val_step(self, data):
        return self.module.val_step(data)

    def test_step(self, data):
        return self.module.test_step(data)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients that are there over all processes, in one message per
    dtype. Every rank must have made the same ones."""
    if not is_distributed():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    for dtype in sorted({g.dtype for g in gradients}, key=str):
        same = [g for g in gradients if g.dtype == dtype]
        flat = torch.cat([g.reshape(-1) for g in same])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for gradient, part in zip(
            same, flat.split([g.numel() for g in same]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))


def check_ranks_agree(
    step: int, path: Sequence[Choice], alphas: Sequence[Tensor]
) -> None:
    """Check that every rank runs the same path with the same alphas.

    Raises:
        RuntimeError: They differ.
    """
    if not is_distributed():
        return
    digest = hashlib.sha256(repr([choice.indices for choice in path]).encode())
    for alpha in alphas:
        digest.update(alpha.detach().cpu().numpy().tobytes())
    number = int.from_bytes(digest.digest()[:7], "big")
    device = alphas[0].device
    # The maximum of (x, -x) is (max, -min): one message tells whether all are equal.
    both = torch.tensor([number, -number], dtype=torch.int64, device=device)
    dist.all_reduce(both, op=dist.ReduceOp.MAX)
    if int(both[0]) != -int(both[1]):
        raise RuntimeError(
            f"step {step}: the processes hold different alphas or drew different "
            "paths. Start all of them with the same config, seed and code version, "
            "and resume all of them from the same checkpoint."
        )
