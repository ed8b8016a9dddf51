# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The families of blocks: from a block spec and a layer to a module.

Every block takes (N, C_in, T, H, W) and gives (N, C_out, ceil(T/St), ceil(H/S),
ceil(W/S)). To add a family: one class here, its line in :data:`OPS`, its name in
``genotype.FAMILIES`` and its formula in ``cost.FORMULAS``; the tests run over those
tables.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from ..space.cost import squeeze_channels
from ..space.genotype import BlockSpec, Layer
from .lowering import LoweredConv3d

SHIFT_FRACTION = 8


class ConvBN(nn.Sequential):
    """Convolution, batch normalisation and, if wanted, ReLU.

    Args:
        in_channels: Input width.
        out_channels: Output width.
        kernel_size: (Kt, Kh, Kw), odd.
        stride: (St, Sh, Sw).
        groups: Groups of the convolution. Default 1.
        activate: Whether a ReLU follows. Default True.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int, int] = (1, 1, 1),
        stride: tuple[int, int, int] = (1, 1, 1),
        groups: int = 1,
        activate: bool = True,
    ) -> None:
        conv = LoweredConv3d(in_channels, out_channels, kernel_size, stride, groups)
        layers = OrderedDict(conv=conv, bn=nn.BatchNorm3d(out_channels))
        if activate:
            layers["act"] = nn.ReLU(inplace=True)
        super().__init__(layers)

    @torch.no_grad()
    def switch_to_deploy(self) -> None:
        """Fold the batch normalisation into the convolution, for inference.

        With g = gamma / sqrt(var + eps): weight *= g and bias = beta - mean * g.
        """
        if isinstance(self.bn, nn.Identity):
            return
        scale = self.bn.weight / torch.sqrt(self.bn.running_var + self.bn.eps)
        self.conv.weight.mul_(scale.view(-1, 1, 1, 1, 1))
        self.conv.bias = nn.Parameter(self.bn.bias - self.bn.running_mean * scale)
        self.bn = nn.Identity()


class SqueezeExcitation(nn.Module):
    """Gate channels by the mean over time and space (Hu et al., 2018).

    x * sigmoid(W2 relu(W1 mean(x))), with a squeeze to a quarter of the width.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeeze = squeeze_channels(channels)
        self.reduce = nn.Linear(channels, squeeze)
        self.expand = nn.Linear(squeeze, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.relu(self.reduce(x.mean(dim=(2, 3, 4))))
        gate = torch.sigmoid(self.expand(gate))
        return x * gate[:, :, None, None, None]


def temporal_shift(x: Tensor, fraction: int = SHIFT_FRACTION) -> Tensor:
    """Shift one part in ``fraction`` of the channels a frame back in time, as many
    forth, with zeros at the ends (TSM, Lin et al., 2019).

    Args:
        x: (N, C, T, H, W).
        fraction: 8 shifts C // 8 channels each way, at least one. Default 8.
    """
    part = max(1, x.shape[1] // fraction)
    back = torch.roll(x[:, :part], -1, dims=2)
    forth = torch.roll(x[:, part : 2 * part], 1, dims=2)
    keep = torch.ones(x.shape[2], dtype=x.dtype, device=x.device)
    keep[-1] = 0
    mask = keep[:, None, None]
    return torch.cat(
        (back * mask, forth * mask.flip(0), x[:, 2 * part :]), dim=1
    ).contiguous(memory_format=torch.channels_last_3d)


class Skip(nn.Identity):
    """The identity: the layer is not there."""

    def __init__(self, spec: BlockSpec, layer: Layer) -> None:
        super().__init__()
        if not layer.keeps_shape:
            raise ValueError(
                f"layer {layer.index}: found 'skip' where the shape changes from "
                f"{layer.in_channels} to {layer.out_channels} channels with stride "
                f"{layer.stride}, expected another block spec"
            )


class InvertedBottleneck(nn.Module):
    """``mb``: expand, depthwise 1xKsxKs, depthwise Ktx1x1 if Kt > 1, project.

    MobileNetV2's block (Sandler et al., 2018) with the temporal convolution apart from
    the spatial one, as in R(2+1)D (Tran et al., 2018). The residual is there where the
    shape is kept.
    """

    def __init__(self, spec: BlockSpec, layer: Layer) -> None:
        super().__init__()
        hidden = spec.hidden_channels(layer.in_channels, layer.out_channels)
        self.residual = layer.keeps_shape
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if spec.expand_ratio != 1:
            layers["expand"] = ConvBN(layer.in_channels, hidden)
        layers.update(self.depthwise(spec, layer, hidden))
        if spec.se:
            layers["se"] = SqueezeExcitation(hidden)
        layers["project"] = ConvBN(hidden, layer.out_channels, activate=False)
        self.layers = nn.Sequential(layers)

    def depthwise(
        self, spec: BlockSpec, layer: Layer, hidden: int
    ) -> OrderedDict[str, nn.Module]:
        """The part between expand and project, by name."""
        kt, ks = spec.temporal_kernel, spec.spatial_kernel
        st, s = layer.temporal_stride, layer.spatial_stride
        spatial, temporal = (1, ks, ks), (kt, 1, 1)
        if kt == 1:
            conv = ConvBN(hidden, hidden, spatial, (st, s, s), groups=hidden)
            return OrderedDict(spatial=conv)
        return OrderedDict(
            spatial=ConvBN(hidden, hidden, spatial, (1, s, s), groups=hidden),
            temporal=ConvBN(hidden, hidden, temporal, (st, 1, 1), groups=hidden),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return x + y if self.residual else y


class JointInvertedBottleneck(InvertedBottleneck):
    """``mb3d``: one depthwise KtxKsxKs in place of the two (CSN, X3D)."""

    def depthwise(
        self, spec: BlockSpec, layer: Layer, hidden: int
    ) -> OrderedDict[str, nn.Module]:
        kernel = (spec.temporal_kernel, spec.spatial_kernel, spec.spatial_kernel)
        conv = ConvBN(hidden, hidden, kernel, layer.stride, groups=hidden)
        return OrderedDict(joint=conv)


class ShiftedInvertedBottleneck(InvertedBottleneck):
    """``ts``: a temporal shift in front of ``mb`` with Kt = 1 (TSM).

    The shift stands on the residual branch only, so that what is shifted away is not
    lost.
    """

    def depthwise(
        self, spec: BlockSpec, layer: Layer, hidden: int
    ) -> OrderedDict[str, nn.Module]:
        kernel = (1, spec.spatial_kernel, spec.spatial_kernel)
        conv = ConvBN(hidden, hidden, kernel, layer.stride, groups=hidden)
        return OrderedDict(spatial=conv)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(temporal_shift(x))
        return x + y if self.residual else y


class ResidualBottleneck(nn.Module):
    """``rb``: reduce Ktx1x1, full 1xKsxKs, expand 1x1x1, ReLU after the sum.

    ResNet's bottleneck (He et al., 2016) with the temporal kernel in the first
    convolution, as in SlowFast's (Feichtenhofer et al., 2019). A 1x1x1 projection
    stands on the shortcut where the shape changes.
    """

    def __init__(self, spec: BlockSpec, layer: Layer) -> None:
        super().__init__()
        hidden = spec.hidden_channels(layer.in_channels, layer.out_channels)
        kt, ks = spec.temporal_kernel, spec.spatial_kernel
        st, s = layer.temporal_stride, layer.spatial_stride
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            reduce=ConvBN(layer.in_channels, hidden, (kt, 1, 1), (st, 1, 1)),
            spatial=ConvBN(hidden, hidden, (1, ks, ks), (1, s, s)),
        )
        if spec.se:
            layers["se"] = SqueezeExcitation(hidden)
        layers["expand"] = ConvBN(hidden, layer.out_channels, activate=False)
        self.layers = nn.Sequential(layers)
        self.shortcut: nn.Module = nn.Identity()
        if not layer.keeps_shape:
            self.shortcut = ConvBN(
                layer.in_channels,
                layer.out_channels,
                stride=layer.stride,
                activate=False,
            )
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.shortcut(x) + self.layers(x))


OPS: dict[str, type[nn.Module]] = {
    "skip": Skip,
    "mb": InvertedBottleneck,
    "mb3d": JointInvertedBottleneck,
    "ts": ShiftedInvertedBottleneck,
    "rb": ResidualBottleneck,
}


def build_block(spec: BlockSpec | str, layer: Layer) -> nn.Module:
    """The module of a block spec at a layer.

    Raises:
        ValueError: The text is no block spec, or a skip stands where the shape changes.
    """
    if isinstance(spec, str):
        spec = BlockSpec.parse(spec, place=f"layer {layer.index}")
    return OPS[spec.family](spec, layer)


def build_stem(in_channels: int, out_channels: int) -> ConvBN:
    """1x3x3 convolution of stride 2 over space."""
    return ConvBN(in_channels, out_channels, (1, 3, 3), (1, 2, 2))


def build_head(in_channels: int, out_channels: int) -> ConvBN:
    """1x1x1 convolution to the width that the recognizer's head takes."""
    return ConvBN(in_channels, out_channels)


def init_weights(module: nn.Module) -> None:
    """He-normal convolutions (fan out; He et al., 2015), fully connected layers at a
    standard deviation of 0.01, batch normalisation at 1 and 0."""
    for part in module.modules():
        if isinstance(part, nn.Conv3d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.01)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.modules.batchnorm._BatchNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
