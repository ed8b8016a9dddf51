# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Time reversal: every training clip is seen forwards and backwards in one batch.

Where some classes are others played backwards (moving left and moving right, opening
and closing), a network has to learn the sign of a motion. At the start nothing leads
to either sign, and what a step says about it drowns in what tells clips apart
otherwise. A clip and its reversal differ in nothing but that sign.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmaction.registry import MODELS
from mmaction.structures import ActionDataSample
from torch import Tensor

from ..space.checks import wrong


def with_reversals(
    clips: Tensor, labels: Tensor, opposites: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Clips and, after them, the same clips played backwards, with their labels.

    Args:
        clips: (N, C, T, H, W).
        labels: (N,), class ids.
        opposites: The class of each class's reversal.

    Returns:
        (2 N, C, T, H, W), in channels-last layout, and (2 N,).
    """
    assert clips.ndim == 5 and labels.shape == clips.shape[:1], labels.shape
    both = torch.cat([clips, clips.flip(2)])
    reversed_labels = torch.as_tensor(opposites, device=labels.device)[labels]
    return (
        both.contiguous(memory_format=torch.channels_last_3d),
        torch.cat([labels, reversed_labels]),
    )


@MODELS.register_module()
class TimeReversalBlending:
    """Double a training batch by its reversals; for
    ``data_preprocessor=dict(type='ActionDataPreprocessor', format_shape='NCTHW',
    blending=...)``.

    Args:
        opposites: The class of each class's reversal, one for every class; a class that
            looks the same backwards is its own.

    Raises:
        ValueError: Some class is not the reversal of its own reversal.
    """

    def __init__(self, opposites: Sequence[int]) -> None:
        self.opposites = list(opposites)
        classes = range(len(self.opposites))
        for index, opposite in enumerate(self.opposites):
            if opposite not in classes or self.opposites[opposite] != index:
                raise wrong(
                    f"opposites[{index}]",
                    f"a class whose own opposite is {index}",
                    repr(opposite),
                    "a class that looks the same backwards is its own opposite",
                )

    def __call__(
        self, imgs: Tensor, batch_data_samples: list[ActionDataSample]
    ) -> tuple[Tensor, list[ActionDataSample]]:
        """(N, clips, C, T, H, W) and N samples -> (2 N, clips, C, T, H, W) and 2 N.

        Raises:
            ValueError: The clips have another layout, or a sample has a class that
                ``opposites`` lacks, or no single one.
        """
        if imgs.ndim != 6:
            raise wrong(
                "blending: shape of a batch",
                "(N, clips, C, T, H, W)",
                str(tuple(imgs.shape)),
                "set format_shape='NCTHW' in the data preprocessor and in FormatShape",
            )
        backwards = []
        for sample in batch_data_samples:
            label = sample.gt_label
            if label.numel() != 1 or not 0 <= int(label) < len(self.opposites):
                expected = f"an entry for every class, such as {label.tolist()}"
                raise wrong("opposites", expected, f"{len(self.opposites)} entries")
            reversed_sample = sample.clone()
            opposite = label.new_tensor([self.opposites[int(label)]])
            backwards.append(reversed_sample.set_gt_label(opposite))
        both = torch.cat([imgs, imgs.flip(-3)])
        return both, [*batch_data_samples, *backwards]
