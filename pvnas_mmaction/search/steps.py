# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""One step of the weights and one of the alphas (first-order bilevel search)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..models.supernet import Path, PVNASSupernet
from .distributed import average_gradients
from .penalty import CostPenalty
from .randomness import seeded


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """No gradients for ``parameters`` within this context."""
    trainable = [p for p in parameters if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def untracked_batch_norm(model: nn.Module) -> Iterator[None]:
    """Batch normalisation by the batch, its running statistics left alone."""
    tracking = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True


def find_supernet(model: nn.Module) -> PVNASSupernet:
    """The one supernet within a model.

    Raises:
        ValueError: There is none, or more than one.
    """
    found = [m for m in model.modules() if isinstance(m, PVNASSupernet)]
    if len(found) != 1:
        raise ValueError(
            f"model: found {len(found)} supernets, expected one; set "
            "model.backbone.type='PVNASSupernet'"
        )
    return found[0]


def weights_step(
    model: nn.Module,
    supernet: PVNASSupernet,
    batch: dict,
    path: Path,
    optim_wrapper: OptimWrapper,
) -> dict[str, Tensor]:
    """One optimiser step of the weights on a path. Alphas get no gradient.

    Args:
        model: The recognizer.
        supernet: The supernet in it.
        batch: A batch of the weights half.
        path: What each layer runs.
        optim_wrapper: Optimiser of the weights.

    Returns:
        The values to log: ``loss`` and what the head adds.
    """
    path = tuple(choice.detach() for choice in path)
    with optim_wrapper.optim_context(model), supernet.use_path(path):
        loss, log_vars = _loss(model, batch)
    _update(optim_wrapper, loss)
    return log_vars


def alpha_step(
    model: nn.Module,
    supernet: PVNASSupernet,
    batch: dict,
    path: Path,
    optim_wrapper: OptimWrapper,
    penalty: CostPenalty | None = None,
) -> dict[str, Tensor]:
    """One optimiser step of the alphas on a path. Weights and running statistics of
    batch normalisation stay as they are.

    The gradient is the first-order one of DARTS: that of the loss on the alpha half at
    the present weights.

    Args:
        model: The recognizer.
        supernet: The supernet in it.
        batch: A batch of the alpha half.
        path: What each layer runs, with weights that lead back to the alphas.
        optim_wrapper: Optimiser of the alphas.
        penalty: Cost term of the loss. Default None.

    Returns:
        The values to log, their names starting with ``alpha_``.
    """
    alphas = {id(alpha) for alpha in supernet.alphas}
    weights = [p for p in model.parameters() if id(p) not in alphas]
    with frozen(weights), untracked_batch_norm(model):
        with optim_wrapper.optim_context(model), supernet.use_path(path):
            loss, log_vars = _loss(model, batch)
        if penalty is not None:
            loss = loss + penalty.loss(supernet.probabilities())
        _update(optim_wrapper, loss)
    return {f"alpha_{name}": value for name, value in log_vars.items()}


def _loss(model: nn.Module, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
    data = model.data_preprocessor(batch, training=True)
    return model.parse_losses(model(**data, mode="loss"))


def _update(optim_wrapper: OptimWrapper, loss: Tensor) -> None:
    """``OptimWrapper.update_params`` with the gradients averaged over the processes.

    Gradients that are still accumulated are averaged too, so that those that rank 0
    saves are those of every rank.
    """
    optim_wrapper.backward(optim_wrapper.scale_loss(loss))
    groups = optim_wrapper.optimizer.param_groups
    average_gradients(p for group in groups for p in group["params"])
    if optim_wrapper.should_update():
        optim_wrapper.step()
        optim_wrapper.zero_grad()


@contextmanager
def reestimated_batch_norm(
    model: nn.Module, batches: Iterable[dict], seed: int
) -> Iterator[None]:
    """Within this context, running statistics of batch normalisation are those of the
    network that runs at present, estimated from nothing on ``batches``; afterwards they
    are what they were.

    In a supernet the statistics mix all networks that were sampled, so that no network
    may be judged by them.

    Args:
        model: The recognizer, with the path already chosen.
        batches: Batches of training clips; their mean counts (cumulative average).
        seed: Of what is drawn on the way, by a blending of the data preprocessor above
            all: the same statistics on every rank and every time. All generators go
            on as if nothing had been drawn.
    """
    layers = [
        m
        for m in model.modules()
        if isinstance(m, _BatchNorm) and m.running_mean is not None
    ]
    saved = [
        (m.momentum, {name: value.clone() for name, value in m.named_buffers()})
        for m in layers
    ]
    training = model.training
    try:
        for module in layers:
            module.reset_running_stats()
            module.momentum = None
        model.train()
        device = next(model.parameters()).device
        with torch.no_grad(), seeded(seed, device):
            for batch in batches:
                data = model.data_preprocessor(batch, training=True)
                model(**data, mode="loss")  # head and neck run, too
        yield
    finally:
        for module, (momentum, buffers) in zip(layers, saved, strict=True):
            module.momentum = momentum
            for name, value in module.named_buffers():
                value.copy_(buffers[name])
        model.train(training)
