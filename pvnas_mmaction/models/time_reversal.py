"""Time reversal: every training clip is seen forwards and backwards in one batch. Where
some classes are others played backwards, as opening and closing, the two differ in
nothing but the sign of the motion."""

from collections.abc import Sequence

import torch
from mmaction.registry import MODELS
from mmaction.structures import ActionDataSample
from torch import Tensor

from ..space.checks import wrong


@MODELS.register_module()
class TimeReversalBlending:
    """Double a training batch by its reversals; for
    ``data_preprocessor=dict(type='ActionDataPreprocessor', format_shape='NCTHW',
    blending=...)``.

    Args:
        opposites: The class of each class's reversal; a class that looks the same
            backwards is its own. ValueError if one is not that of its own reversal.
    """

    def __init__(self, opposites: Sequence[int]) -> None:
        self.opposites = list(opposites)
        opposite_of = dict(enumerate(self.opposites))
        for index, opposite in opposite_of.items():
            if opposite_of.get(opposite) != index:
                expected = f"a class whose own opposite is {index}"
                raise wrong(f"opposites[{index}]", expected, repr(opposite))

    def __call__(
        self, imgs: Tensor, batch_data_samples: list[ActionDataSample]
    ) -> tuple[Tensor, list[ActionDataSample]]:
        """(N, clips, C, T, H, W), format_shape 'NCTHW', and N samples: 2 N of both."""
        backwards = []
        for sample in batch_data_samples:
            label = sample.gt_label
            opposite = label.new_tensor([self.opposites[int(label)]])
            backwards.append(sample.clone().set_gt_label(opposite))
        both = torch.cat([imgs, imgs.flip(-3)])
        return both, [*batch_data_samples, *backwards]
