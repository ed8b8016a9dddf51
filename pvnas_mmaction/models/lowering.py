"""How a 3D convolution is carried out: as PyTorch's own, or as cheaper 2D ones.

A tensor (N, C, T, H, W) in channels-last memory holds the same numbers in the same
order as (N*T, C, H, W) in channels-last memory, and as (N, C, T, H*W). So a
convolution without temporal extent is a 2D convolution over N*T images, one without
spatial extent is a 2D convolution over T x (H*W), and neither costs a copy. On CPU the
2D kernels are several times faster (`benchmarks/lowering.py`). Exported graphs keep the
plain 3D convolution.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _conv2d(x: Tensor, weight: Tensor, conv: nn.Conv3d, bias: Tensor | None) -> Tensor:
    """Of frames (N, C, T, H, W) as images, with a convolution's settings over space."""
    stride, padding = conv.stride[1:], conv.padding[1:]
    images = x.transpose(1, 2).flatten(0, 1)
    y = F.conv2d(images, weight, bias, stride, padding, groups=conv.groups)
    return y.unflatten(0, (len(x), -1)).transpose(1, 2)


def conv_folded(x: Tensor, conv: nn.Conv3d) -> Tensor:
    """A kernel of 1 over time: a 2D convolution over N*T images."""
    if conv.stride[0] > 1:
        # Skipped frames leave gaps: a copy in the layout that makes folding a view.
        x = x[:, :, :: conv.stride[0]].contiguous(memory_format=torch.channels_last_3d)
    return _conv2d(x, conv.weight[:, :, 0], conv, conv.bias)


def conv_over_time(x: Tensor, conv: nn.Conv3d) -> Tensor:
    """A kernel of 1x1 over space: a 2D convolution over T x (H*W)."""
    flat, weight = x.flatten(3), conv.weight[..., 0]
    stride, padding = (conv.stride[0], 1), (conv.padding[0], 0)
    y = F.conv2d(flat, weight, conv.bias, stride, padding, groups=conv.groups)
    return y.unflatten(3, x.shape[3:])


def conv_sum_of_folded(x: Tensor, conv: nn.Conv3d) -> Tensor:
    """A joint kernel: one 2D convolution per temporal tap, summed."""
    stride, reach, t = conv.stride[0], conv.padding[0], x.shape[2]
    out_frames = (t - 1) // stride + 1
    total = None
    # The middle tap comes first: it alone reaches every output frame.
    for tap in sorted(range(conv.kernel_size[0]), key=lambda k: abs(k - reach)):
        # Output frame i reads input frame i * stride + shift.
        shift = tap - reach
        first = max(0, -(shift // stride))
        last = min(out_frames - 1, (t - 1 - shift) // stride)
        if last < first:
            continue
        bias = conv.bias if total is None else None
        y = _conv2d(x, conv.weight[:, :, tap], conv, bias)
        start = first * stride + shift
        y = y[:, :, start : start + (last - first) * stride + 1 : stride]
        pad = (0, 0, 0, 0, first, out_frames - 1 - last)
        total = y if total is None else total + F.pad(y, pad)
    return total


LOWERINGS = {
    "plain": lambda x, conv: conv._conv_forward(x, conv.weight, conv.bias),
    "folded": conv_folded,
    "over_time": conv_over_time,
    "sum_of_folded": conv_sum_of_folded,
}


# Before torch 2.7 compiling and exporting can't be told apart.
_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def choose_lowering(conv: nn.Conv3d, x: Tensor) -> str:
    """Name of the lowering used for a convolution of an input."""
    if _is_exporting() or torch.onnx.is_in_onnx_export():
        return "plain"
    if conv.kernel_size[0] == 1:
        return "folded"
    if conv.kernel_size[1:] == (1, 1) and conv.stride[1:] == (1, 1):
        return "over_time"
    # oneDNN's depthwise 3D is quick forward (channels-last) and slow backward.
    learns = x.requires_grad or conv.weight.requires_grad
    backward = learns and torch.is_grad_enabled()
    if backward and conv.groups > 1 and x.device.type == "cpu":
        return "sum_of_folded"
    return "plain"


class LoweredConv3d(nn.Conv3d):
    """``nn.Conv3d`` with odd kernel, "same" padding (stride s gives ceil(size / s)),
    and a chosen lowering.

    With ``tf_same``, height and width are padded as TensorFlow does: where a stride
    leaves less than kernel - 1 pixels to pad, the smaller half comes first. That costs
    a copy of the input.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int, int],
        stride: tuple[int, int, int] = (1, 1, 1),
        groups: int = 1,
        bias: bool = False,
        tf_same: bool = False,
    ) -> None:
        # Without a stride both paddings are the same.
        self.tf_same = tf_same and stride[1:] != (1, 1)
        reach = [size // 2 for size in kernel_size]
        padding = (reach[0], 0, 0) if self.tf_same else tuple(reach)
        sizes = (in_channels, out_channels, kernel_size, stride, padding)
        super().__init__(*sizes, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.tf_same:
            pad: list[int] = []
            for axis in (2, 1):  # width first, as F.pad has it
                kernel, stride = self.kernel_size[axis], self.stride[axis]
                size = x.shape[axis + 2]
                total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
                pad += [total // 2, total - total // 2]
            x = F.pad(x, pad)
        return LOWERINGS[choose_lowering(self, x)](x, self)
