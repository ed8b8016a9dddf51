"""One step of the weights and one of the alphas (first-order bilevel search)."""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmaction.models.heads import BaseHead
from mmengine.dist import all_reduce_params
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from ..models.blocks import batch_norms
from ..models.supernet import Choices, find_supernet, first_channels
from ..space.checks import wrong
from .distributed import together
from .penalty import CostPenalty
from .randomness import Stream, derived_seed, seeded


class _Part(NamedTuple):
    """Parameters and batch normalisations of a part of the model."""

    weights: list[nn.Parameter]
    norms: list[nn.Module]

    @classmethod
    def of(cls, module: nn.Module) -> "_Part":
        norms = [m for m in batch_norms(module) if m.track_running_stats]
        return cls([*module.parameters()], norms)

    def without(self, *others: "_Part") -> "_Part":
        left_out = {id(item) for part in others for items in part for item in items}
        return _Part(*([i for i in own if id(i) not in left_out] for own in self))


class Steps:
    """Optimiser steps of the weights and of the alphas of a model around a supernet, on
    clips of (C, T, H, W) as ``input_shape`` says (None: any). A step walks over no
    parts of the supernet but those that its path runs.

    Attributes:
        owners: What ``PVNASSupernet.share_weights`` gives.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: OptimWrapper,
        alphas: OptimWrapper,
        input_shape: Sequence[int] | None = None,
    ) -> None:
        self.model, self.weights, self.alphas = model, weights, alphas
        self.input_shape = input_shape
        self.owners: dict[nn.Parameter, nn.Parameter] = {}
        self.supernet = find_supernet(model)
        layers = self.supernet.layers
        self._candidates = [[_Part.of(op) for op in layer.ops] for layer in layers]
        alphas_alone = _Part([self.supernet.alphas], [])
        self._shared = _Part.of(model).without(_Part.of(layers), alphas_alone)

    def weights_step(
        self, batch: dict, path: Choices, teacher: Choices | None = None
    ) -> dict[str, Tensor]:
        """One optimiser step of the weights on a path drawn under ``torch.no_grad``.

        With a teacher, another path, both learn in the one step: the teacher from the
        labels, the path from the teacher's probabilities (in-place distillation, Yu and
        Huang, ICCV 2019). Gives the values to log: ``loss`` and what the head adds;
        with a teacher its own, and ``path_loss``, the path's divergence from it.
        """
        paths = [path] if teacher is None else [teacher, path]
        with self.weights.optim_context(self.model):
            data = self._data(batch)
            with self.supernet.use_path(paths[0]):
                loss, logs, scores = loss_of(self.model, **data)
            if teacher is not None:
                with self.supernet.use_path(path):
                    path_scores = loss_of(self.model, **data)[2]
                target = torch.softmax(scores.detach().float(), 1)
                found = torch.log_softmax(path_scores.float(), 1)
                distance = F.kl_div(found, target, reduction="batchmean")
                loss = loss + distance
                logs["path_loss"] = distance.detach()
        self._update(self.weights, loss, self._running(*paths).weights)
        return logs

    @contextmanager
    def undone(self, path: Choices) -> Iterator[None]:
        """What is trained of a path within this context, with a new state of the
        weights' optimiser, is forgotten."""
        running, optimizer = self._running(path), self.weights.optimizer
        weights = {self.owners.get(weight, weight): None for weight in running.weights}
        tensors = [*weights, *(b for m in running.norms for b in m.buffers())]
        saved = [tensor.detach().clone() for tensor in tensors]
        state, optimizer.state = optimizer.state, defaultdict(dict)
        self.weights.zero_grad()
        try:
            yield
        finally:
            self.weights.zero_grad()
            optimizer.state = state
            with torch.no_grad():
                for tensor, value in zip(tensors, saved, strict=True):
                    tensor.copy_(value)

    def alpha_step(
        self, batch: dict, path: Choices, penalty: CostPenalty | None = None
    ) -> dict[str, Tensor]:
        """One optimiser step of the alphas on a path with weights that lead back to
        them, with the first-order gradient of DARTS; gives the values to log, their
        names starting with ``alpha_``. Weights and running statistics of batch
        normalisation stay as they are."""
        running = self._running(path)
        with (
            switched_off(running.weights, "requires_grad"),
            switched_off(running.norms, "track_running_stats"),
        ):
            with self.alphas.optim_context(self.model), self.supernet.use_path(path):
                loss, logs, _ = loss_of(self.model, **self._data(batch))
            if penalty is not None:
                loss = loss + penalty.loss(self.supernet.probabilities())
            self._update(self.alphas, loss, [self.supernet.alphas])
        return {f"alpha_{name}": value for name, value in logs.items()}

    def _update(
        self, optimizer: OptimWrapper, loss: Tensor, parameters: Sequence[nn.Parameter]
    ) -> None:
        """``OptimWrapper.update_params`` with the gradients averaged over the
        processes, also those that still accumulate: what rank 0 saves is that of every
        rank. Those of shared weights go to their owner, which alone is trained."""
        optimizer.backward(optimizer.scale_loss(loss))
        found = [parameter for parameter in parameters if parameter.grad is not None]
        all_reduce_params((parameter.grad for parameter in found), op="mean")
        for weight in (w for w in found if w in self.owners):
            owner, gradient, weight.grad = self.owners[weight], weight.grad, None
            if owner.grad is None and gradient.shape == owner.shape:
                owner.grad = gradient
                continue
            if owner.grad is None:
                owner.grad = torch.zeros_like(owner)
            first_channels(owner.grad, weight).add_(gradient)
        if optimizer.should_update():
            optimizer.step()
            optimizer.zero_grad()

    def _data(self, batch: dict) -> dict:
        data = self.model.data_preprocessor(batch, training=True)
        shape = tuple(data["inputs"].shape[-4:])
        if self.input_shape not in (None, shape):
            expected = f"{shape}, (C, T, H, W) of the clips that train_dataloader gives"
            hint = "costs and budgets are counted for it; change the one or the other"
            raise wrong("train_cfg.input_shape", expected, str(self.input_shape), hint)
        return data

    def _running(self, *paths: Choices) -> _Part:
        parts = [self._shared]
        for candidates, *choices in zip(self._candidates, *paths, strict=True):
            indices = (index for choice in choices for index in choice.indices)
            parts += [candidates[index] for index in dict.fromkeys(indices)]
        kinds = zip(*parts, strict=True)
        return _Part(*([item for own in kind for item in own] for kind in kinds))


def loss_of(
    model: nn.Module, inputs: Tensor, data_samples: list
) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
    """Loss and values to log, as of ``model(inputs, data_samples, mode="loss")`` from
    scores in float32, and the scores; None for a head that makes its loss itself.

    MMAction2's heads copy scores and labels to the host to count the clips that are
    right, and take no bfloat16 there; here that is done where the scores are.
    """
    head = model.cls_head
    if type(head).loss is not BaseHead.loss:
        found = model(inputs, data_samples, mode="loss")
        return *model.parse_losses(found), None
    scores, extra = model.extract_feat(inputs, stage="head", data_samples=data_samples)
    scores = scores.float()
    labels = torch.stack([sample.gt_label for sample in data_samples]).flatten()
    own = type(head).loss_by_feat is not BaseHead.loss_by_feat
    if own or head.label_smooth_eps or len(labels) != len(scores):
        found = head.loss_by_feat(scores, data_samples)
    else:
        labels = labels.to(scores.device)
        found = head.loss_cls(scores, labels)
        found = found if isinstance(found, dict) else dict(loss_cls=found)
        best = scores.detach().topk(min(max(head.topk), scores.shape[1])).indices
        right = best == labels[:, None]
        for k in head.topk:
            found[f"top{k}_acc"] = right[:, :k].any(1).float().mean()
    return *model.parse_losses({**found, **extra.get("loss_aux", {})}), scores


@contextmanager
def switched_off(items: Iterable[object], attribute: str) -> Iterator[None]:
    """Within this context an attribute of some items, by default True, is False."""
    items = [item for item in items if getattr(item, attribute)]
    for item in items:
        object.__setattr__(item, attribute, False)  # nn.Module is slow to set it
    try:
        yield
    finally:
        for item in items:
            object.__setattr__(item, attribute, True)


def judge(
    model: nn.Module,
    calibration: Iterable[dict],
    validate: Callable[[nn.Module], Any],
    seed: int,
) -> Any:
    """What ``validate`` gives for the network that a model runs at present.

    Meanwhile running statistics of batch normalisation are the mean over batches of
    training clips: a supernet's mix all networks that were sampled. ``seed``, that of
    the search, is for what is drawn on the way, as by a blending.
    """
    layers = [m for m in batch_norms(model) if m.running_mean is not None]
    saved = [(m.momentum, copy.deepcopy(dict(m.named_buffers()))) for m in layers]
    training, device = model.training, next(model.parameters()).device
    try:
        for module in layers:
            module.reset_running_stats()
            module.momentum = None
        model.train()
        seed = derived_seed(seed, Stream.CALIBRATION)
        with together(), torch.no_grad(), seeded(seed, device):
            for batch in calibration:
                data = model.data_preprocessor(batch, training=True)
                model(**data, mode="loss")  # head and neck run, too
        return validate(model)
    finally:
        for module, (momentum, buffers) in zip(layers, saved, strict=True):
            module.momentum = momentum
            for name, value in module.named_buffers():
                value.copy_(buffers[name])
        model.train(training)
