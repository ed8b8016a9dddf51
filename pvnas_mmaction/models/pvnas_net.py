"""The network of one genotype, as a backbone."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmaction.registry import MODELS
from torch import Tensor, nn

from ..space.checks import wrong
from ..space.genotype import load_genotype
from ..space.layout import layout
from .backbone import Backbone
from .blocks import Block, batch_norms


@MODELS.register_module()
class PVNASNet(Backbone):
    """Backbone built from a genotype.

    Args:
        genotype: As for :func:`load_genotype`.
        out_indices: Which outputs to give: 0 to S - 1 for the S stages, S for the last
            convolution, which ``I3DHead`` takes. One index gives a tensor, several a
            tuple. Default None: the last convolution alone.
        norm_eval: Whether batch normalisation keeps to its running statistics in
            training. Default False.
        init_cfg: As in MMEngine's ``BaseModule``. Default None.
    """

    def __init__(
        self,
        genotype: str | Mapping[str, Any],
        out_indices: Sequence[int] | None = None,
        norm_eval: bool = False,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.genotype = load_genotype(genotype)
        space, blocks = self.genotype.space, " ".join(self.genotype.blocks)
        self.whose = f"the genotype of space {space!r} with blocks {blocks}"
        self.norm_eval = norm_eval
        self.skeleton = skeleton = self.genotype.skeleton
        num_stages = len(skeleton.stages)
        indices = (num_stages,) if out_indices is None else tuple(out_indices)
        if not indices or not {*indices} <= {*range(num_stages + 1)}:
            expected = f"indices from 0 to {num_stages}, the output behind all stages"
            raise wrong("out_indices", expected, repr(out_indices))
        self.out_indices = indices
        self.stem = Block(skeleton.stem_layout)
        self.layers = nn.ModuleList(
            Block(layout(spec, layer))
            for spec, layer in zip(self.genotype.specs, skeleton.layers, strict=True)
        )
        self.head = Block(skeleton.head_layout)
        self._stages = [layer.stage for layer in skeleton.layers]

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(N, C, T, H, W) -> (N, head_channels, T', H', W'), or a tuple of outputs."""
        x = self.stem(x.contiguous(memory_format=torch.channels_last_3d))
        outputs: dict[int, Tensor] = {}
        for stage, layer in zip(self._stages, self.layers, strict=True):
            x = outputs[stage] = layer(x)  # that of a stage's last layer stays
        if len(outputs) in self.out_indices:
            outputs[len(outputs)] = self.head(x)
        chosen = tuple(outputs[index] for index in self.out_indices)
        return chosen[0] if len(chosen) == 1 else chosen

    def train(self, mode: bool = True) -> "PVNASNet":
        super().train(mode)
        if mode and self.norm_eval:
            for module in batch_norms(self):
                module.eval()
        return self
