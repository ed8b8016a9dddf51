"""From the layout of a block to its module, which takes (N, C_in, T, H, W) and gives
(N, C_out, ceil(T/St), ceil(H/S), ceil(W/S))."""

import itertools
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..space import layout as data
from .lowering import LoweredConv3d

ACTIVATIONS: dict[str, type[nn.Module]] = dict(
    relu=nn.ReLU, relu6=nn.ReLU6, silu=nn.SiLU, hard_swish=nn.Hardswish
)


class ConvNormAct(nn.Sequential):
    """A convolution, then batch normalisation and activation where it has them."""

    def __init__(self, part: data.Conv, style: data.Style) -> None:
        sizes = part.in_channels, part.out_channels, part.kernel, part.stride
        tf_same = style.padding == "tf_same"
        conv = LoweredConv3d(*sizes, part.groups, tf_same=tf_same)
        modules: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
        if part.norm:
            modules["bn"] = nn.BatchNorm3d(part.out_channels, eps=style.bn_eps)
        if part.activate:
            modules["act"] = ACTIVATIONS[style.activation](inplace=True)
        super().__init__(modules)


class SqueezeExcitation(nn.Module):
    """x * sigmoid(W2 relu(W1 mean(x))) (Hu et al., 2018)."""

    def __init__(self, part: data.SqueezeExcitation) -> None:
        super().__init__()
        self.reduce = nn.Linear(part.channels, part.squeeze_channels)
        self.expand = nn.Linear(part.squeeze_channels, part.channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.relu(self.reduce(x.mean(dim=(2, 3, 4))))
        gate = torch.sigmoid(self.expand(gate))
        return x * gate[:, :, None, None, None]


class TemporalShift(nn.Module):
    """Shift 1 / ``fraction`` of the channels, at least one, a frame back in time, as
    many forth, with zeros at the ends (TSM, Lin et al., 2019)."""

    def __init__(self, fraction: int) -> None:
        super().__init__()
        self.fraction = fraction

    def forward(self, x: Tensor) -> Tensor:
        part = max(1, x.shape[1] // self.fraction)
        back = F.pad(x[:, :part, 1:], (0, 0, 0, 0, 0, 1))
        forth = F.pad(x[:, part : 2 * part, :-1], (0, 0, 0, 0, 1, 0))
        y = torch.cat((back, forth, x[:, 2 * part :]), dim=1)
        return y.contiguous(memory_format=torch.channels_last_3d)


def build_part(part: data.Part, style: data.Style) -> nn.Module:
    if isinstance(part, data.Conv):
        return ConvNormAct(part, style)
    if isinstance(part, data.SqueezeExcitation):
        return SqueezeExcitation(part)
    if isinstance(part, data.Shift):
        return TemporalShift(part.fraction)
    size, margin = part.kernel, part.kernel // 2
    return nn.MaxPool3d((1, size, size), part.stride, (0, margin, margin))


class Block(nn.Module):
    """The module of a layout. Its parts are children under their roles, in order."""

    def __init__(self, layout: data.Layout) -> None:
        super().__init__()
        self.layout = layout
        for part in layout.parts:
            self.add_module(part.role, build_part(part, layout.style))
        if isinstance(layout.shortcut, data.Conv):
            self.shortcut = ConvNormAct(layout.shortcut, layout.style)
        if layout.act_after:
            self.act = ACTIVATIONS[layout.style.activation](inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for part in self.layout.parts:
            y = getattr(self, part.role)(y)
        if self.layout.shortcut == "identity":
            y = x + y
        elif self.layout.shortcut is not None:
            y = self.shortcut(x) + y
        return self.act(y) if self.layout.act_after else y


def batch_norms(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """The module, with every batch normalisation of its blocks folded into its
    convolution. For inference only: training checkpoints fit it no more."""
    for part in module.modules():
        if isinstance(part, ConvNormAct) and hasattr(part, "bn"):
            part.conv = fuse_conv_bn_eval(part.conv, part.bn)
            del part.bn
    return module


def init_weights(module: nn.Module) -> None:
    """He-normal convolutions (fan out; He et al., 2015), fully connected layers at a
    standard deviation of 0.01, batch normalisation at 1 and 0.

    The second convolution of a pair that shares one normalisation keeps the scale of
    its input (fan in): behind two small ones epsilon would outweigh the variance.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv3d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.01)
            nn.init.zeros_(part.bias)
        elif isinstance(part, _BatchNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
    for block in (part for part in module.modules() if isinstance(part, Block)):
        for before, part in itertools.pairwise(block.layout.parts):
            if isinstance(before, data.Conv) and not before.norm:
                weight = block.get_submodule(part.role).conv.weight
                nn.init.kaiming_normal_(weight, nonlinearity="linear")
