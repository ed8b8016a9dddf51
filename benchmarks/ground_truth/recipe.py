"""How one network of the table is trained."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.clips import OPPOSITES, MotionClips
from pvnas_mmaction.engine.muon import MuonAdamW
from pvnas_mmaction.models.blocks import init_weights
from pvnas_mmaction.models.pvnas_net import PVNASNet
from pvnas_mmaction.search.randomness import derived_seed
from pvnas_mmaction.space.checks import at_least, check, wrong
from pvnas_mmaction.space.search_space import SearchSpace


@dataclass(frozen=True)
class Recipe:
    """Settings of a training: Muon and AdamW, a linear warm-up, a fall to 0.

    The sign of a motion is a symmetric pair of solutions: training lingers where it
    knows the axis and not the sign, with small gradients. When a network leaves that
    place is luck, which is noise in the table. These make it short:

    - Clips come together with their reversals
      (:mod:`pvnas_mmaction.models.time_reversal`), which show what the sign is, and
      nothing else.
    - The convolutions that mix channels are trained by Muon
      (:mod:`pvnas_mmaction.engine.muon`), whose updates are orthogonal matrices: a
      direction in which the gradient is small counts as much as the others. All other
      parameters are AdamW's.
    - The sign counts twice in the loss.
    - The learning rate stays at its peak for 40 % of the steps.

    Args:
        size: Height and width of a view in pixels. Default 20.
        clip_len: Frames of a view. Default 6.
        train_clips: The first so many clips of the training list. Default 4096.
        epochs: Passes over them. Default 1.
        batch_size: Clips of a step; their reversals come on top. Default 16.
        lr: Peak learning rate of AdamW. Default 0.012.
        muon_lr: Peak learning rate of Muon. Default 0.06.
        muon_momentum: Of Muon, Nesterov's. Default 0.9.
        beta1: Decay of AdamW's mean of gradients. Default 0.9.
        beta2: Decay of AdamW's mean of squared gradients. Default 0.99.
        weight_decay: Decoupled, on every weight, of both. Default 0.01.
        warmup: Share of the steps in which the learning rate rises. Default 0.1.
        cooldown: Share of the steps, at the end, in which it falls in a straight line
            from its peak to 0; between the two it stays there. Default 0.5.
        sign_weight: Of the sign of a motion in the loss, against its axis; see
            :func:`weighted_cross_entropy`; 1 is plain cross-entropy. Default 2.
        muon: Whether Muon trains what mixes channels; else AdamW does, at ``lr``.
            Default True.
        reversals: Whether a step holds every clip's reversal too. Default True.

    Raises:
        ValueError: Fewer clips than one batch, or shares of steps that overlap.
    """

    size: int = 20
    clip_len: int = 6
    train_clips: int = 4096
    epochs: int = 1
    batch_size: int = 16
    lr: float = 0.012
    muon_lr: float = 0.06
    muon_momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.01
    warmup: float = 0.1
    cooldown: float = 0.5
    sign_weight: float = 2.0
    muon: bool = True
    reversals: bool = True

    def __post_init__(self) -> None:
        check("train_clips", self.train_clips, at_least(self.batch_size))
        if self.warmup < 0 or self.cooldown <= 0 or self.warmup + self.cooldown > 1:
            raise wrong(
                "warmup, cooldown",
                "shares of the steps, 1 or less together",
                f"{self.warmup} and {self.cooldown}",
            )

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return self.epochs * (self.train_clips // self.batch_size)

    @property
    def views(self) -> int:
        """Clips that a training runs forward and backward, those played in reverse
        among them."""
        return self.steps * self.batch_size * (2 if self.reversals else 1)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0, as a share of its peak."""
        rising = self.warmup * self.steps
        if step < rising:
            return (step + 1) / (rising + 1)
        return min(1.0, (self.steps - step) / (self.cooldown * self.steps))


def weighted_cross_entropy(
    logits: Tensor, labels: Tensor, sign_weight: float
) -> Tensor:
    """Cross-entropy in which the sign of a motion counts more, or less, than its axis.

    Classes come in pairs, each the other played backwards. With p the softmax of the
    logits, y the label and y' its opposite, cross-entropy is that of the pair and that
    of the sign within it:

        -log p_y = -log(p_y + p_y') - log(p_y / (p_y + p_y'))

    ``sign_weight`` multiplies the second part, which is softplus(z_y' - z_y).

    Args:
        logits: (N, 8), z.
        labels: (N,).
        sign_weight: 1 gives cross-entropy as it is.

    Returns:
        The mean over N, a scalar.
    """
    loss = nn.functional.cross_entropy(logits, labels)
    opposites = torch.tensor(OPPOSITES, device=labels.device)[labels]
    own, other = (logits.gather(1, y[:, None]) for y in (labels, opposites))
    return loss + (sign_weight - 1) * nn.functional.softplus(other - own).mean()


class Classifier(nn.Module):
    """A network and a linear classifier on the mean of its output over T, H and W.

    Args:
        space: The search space.
        indices: Candidate index of each layer.
        num_classes: Outputs.
    """

    def __init__(
        self, space: SearchSpace, indices: Sequence[int], num_classes: int
    ) -> None:
        super().__init__()
        genotype = json.loads(space.genotype(indices).to_json())
        self.backbone = PVNASNet(genotype=genotype)
        self.fc = nn.Linear(space.skeleton.out_channels, num_classes)
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> (N, num_classes), before softmax."""
        return self.fc(self.backbone(x).mean(dim=(2, 3, 4)))


def fit(
    space: SearchSpace,
    indices: Sequence[int],
    train: MotionClips,
    recipe: Recipe,
    seed: int,
) -> tuple[Classifier, float]:
    """Train one network from scratch.

    Initial weights follow from the seed and the network, batches from the seed alone:
    all networks of one seed see the same clips in the same order. On a CPU the result
    is the same every time; on a GPU some kernels add up in varying order.

    Args:
        space: The search space.
        indices: Candidate index of each layer.
        train: Training clips, on the device to use.
        recipe: How to train.
        seed: Of this training.

    Returns:
        The network and the mean loss of the last epoch.
    """
    device = train.frames.device
    torch.manual_seed(derived_seed(seed, *indices))
    model = Classifier(space, indices, train.num_classes).to(device)
    betas = (recipe.beta1, recipe.beta2)
    settings = dict(lr=recipe.lr, betas=betas, weight_decay=recipe.weight_decay)
    if recipe.muon:
        optimizer = MuonAdamW(
            model.parameters(),
            muon_lr=recipe.muon_lr,
            muon_momentum=recipe.muon_momentum,
            **settings,
        )
    else:
        optimizer = torch.optim.AdamW(model.parameters(), fused=True, **settings)
    peaks = [group["lr"] for group in optimizer.param_groups]
    step = 0
    for epoch in range(recipe.epochs):
        losses = []
        for x, labels in train.training_batches(recipe.batch_size, seed, epoch):
            if recipe.reversals:
                x = torch.cat([x, x.flip(2)])
                x = x.contiguous(memory_format=torch.channels_last_3d)
                opposites = torch.as_tensor(OPPOSITES, device=labels.device)
                labels = torch.cat([labels, opposites[labels]])
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * recipe.rate(step)
            loss = weighted_cross_entropy(model(x), labels, recipe.sign_weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            step += 1
    return model, float(torch.stack(losses).mean())


def train_network(
    space: SearchSpace,
    indices: Sequence[int],
    train: MotionClips,
    val: MotionClips,
    recipe: Recipe,
    seed: int,
) -> dict[str, Any]:
    """Train one network from scratch and validate it after the last epoch.

    Args:
        space: The search space.
        indices: Candidate index of each layer.
        train: Training clips, on the device to use.
        val: Validation clips, there too.
        recipe: How to train.
        seed: Of this training, as for :func:`fit`.

    Returns:
        ``accuracy`` (top-1, a share), ``recalls`` (the same of each class), ``loss``
        (mean of the last epoch) and ``seconds`` (of training and validation).
    """
    started = time.perf_counter()
    model, loss = fit(space, indices, train, recipe, seed)
    accuracy, recalls = validate(model, val)
    return dict(
        accuracy=accuracy,
        recalls=recalls,
        loss=round(loss, 4),
        seconds=round(time.perf_counter() - started, 2),
    )


@torch.no_grad()
def predict(model: nn.Module, val: MotionClips) -> Tensor:
    """Class probabilities of all clips, (N, classes): the softmax of a classifier in
    evaluation mode."""
    model.eval()
    return torch.cat([model(x) for x, _ in val.validation_batches()]).softmax(dim=1)


def validate(model: nn.Module, val: MotionClips) -> tuple[float, list[float]]:
    """Top-1 of a classifier on all clips, and on those of each class, as shares."""
    right = predict(model, val).argmax(dim=1) == val.labels
    classes = range(val.num_classes)
    recalls = [float(right[val.labels == label].float().mean()) for label in classes]
    return int(right.sum()) / len(val), recalls
