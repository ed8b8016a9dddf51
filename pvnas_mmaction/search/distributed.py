"""Many processes. A sampled path leaves most of the supernet without gradient, so a
step itself averages the gradients that it has made; all ranks draw the same path.

A process that fails alone would leave the others waiting. So every step starts with a
message (:func:`check_ranks_agree`) that may also say that a process has failed
(:func:`announce_failure`), as does what ends :func:`together`.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from mmaction.registry import MODEL_WRAPPERS
from mmengine.dist import (
    all_gather_object,
    broadcast_object_list,
    get_rank,
    get_world_size,
)
from torch import nn

from ..models.relaxation import Choice

WEIGHTS_EVERY = 100
"""Steps between two comparisons of the weights over the processes."""
PATIENCE = timedelta(seconds=30)
"""How long a process that failed waits for the others to listen."""
_FAILED = -1


class OtherRankError(RuntimeError):
    """Another process has failed."""


# Configs name it with its scope, mmaction.SearchDataParallel: MMEngine's runner looks a
# bare name up in MMEngine's own registry alone.
@MODEL_WRAPPERS.register_module()
class SearchDataParallel(nn.Module):
    """Wrapper of a model in a distributed search: copies rank 0's state to all ranks
    when it is built; after that the search keeps the ranks equal."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        if get_world_size() > 1:
            for value in module.state_dict().values():
                dist.broadcast(value, src=0)

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)

    def val_step(self, data):
        return self.module.val_step(data)

    def test_step(self, data):
        return self.module.test_step(data)


def check_ranks_agree(
    step: int,
    paths: Sequence[Sequence[Choice]],
    alphas: Sequence[Sequence[float]],
    model: nn.Module,
) -> None:
    """Check that all ranks are about to run the same paths with the same alphas and,
    every :data:`WEIGHTS_EVERY` steps, the same parameters (else RuntimeError), and that
    none has failed (else OtherRankError)."""
    if get_world_size() == 1:
        return
    content = repr([[[c.indices for c in path] for path in paths], alphas])
    if step % WEIGHTS_EVERY == 0:
        # For each parameter a number that changes with any of its values.
        values = (p.detach().float().contiguous() for p in model.parameters())
        sums = [value.view(torch.int32).sum(dtype=torch.int64) for value in values]
        content += repr(torch.stack(sums).tolist())
    digest = hashlib.sha256(content.encode()).digest()
    low, high = _extremes(int.from_bytes(digest[:7], "big"))
    if low == _FAILED:
        raise OtherRankError("; ".join(_messages(None)))
    if low != high:
        raise RuntimeError(
            f"step {step}: expected the same alphas, weights and paths everywhere, got "
            "others; start all processes with one config, seed, version and checkpoint"
        )


def announce_failure(error: BaseException) -> None:
    """Tell the processes that wait in one of the other two what has failed here."""
    if get_world_size() == 1 or isinstance(error, OtherRankError):
        return
    try:
        _extremes(_FAILED, PATIENCE)
        _messages(error)
    except RuntimeError:  # they wait elsewhere, or are gone
        return


@contextmanager
def together() -> Iterator[None]:
    """What fails in one process within this context fails in all, with its message. No
    process may wait for another one within."""
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    if get_world_size() > 1 and _extremes(_FAILED if error else 0)[0] == _FAILED:
        messages = _messages(error)
        if error is None:
            raise OtherRankError("; ".join(messages))
    if error is not None:
        raise error


def from_rank_0(function: Callable[[], Any]) -> Any:
    """What a function gives in process 0, in every process; where it fails, all do."""
    found: list = [None]
    with together():
        if get_rank() == 0:
            found = [function()]
    broadcast_object_list(found)
    return found[0]


def _messages(error: BaseException | None) -> list[str]:
    text = None if error is None else f"{type(error).__name__}: {error}"
    found = enumerate(all_gather_object(text))
    return [f"process {rank}: {message}" for rank, message in found if message]


def _extremes(number: int, timeout: timedelta | None = None) -> tuple[int, int]:
    """Lowest and highest of the numbers that all processes hold."""
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    # The maximum of (x, -x) is (max, -min): one message gives both.
    both = torch.tensor([number, -number], dtype=torch.int64, device=device)
    work = dist.all_reduce(both, op=dist.ReduceOp.MAX, async_op=True)
    work.wait() if timeout is None else work.wait(timeout)
    high, low = both.tolist()
    return -low, high
