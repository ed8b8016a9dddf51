"""Every lowering against PyTorch's own 3D convolution, forward and backward."""

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvnas_mmaction.models.lowering import LOWERINGS, LoweredConv3d, choose_lowering

# For which convolutions a lowering holds.
APPLIES: dict[str, Callable[[nn.Conv3d], bool]] = {
    "plain": lambda conv: True,
    "folded": lambda conv: conv.kernel_size[0] == 1,
    "over_time": lambda conv: (
        conv.kernel_size[1:] == (1, 1) and conv.stride[1:] == (1, 1)
    ),
    "sum_of_folded": lambda conv: True,
}
# Kt 7 and 11 reach beyond the clip.
KERNELS = [(1, 1), (1, 3), (1, 5), (3, 1), (3, 3), (5, 1), (5, 3), (7, 3), (11, 1)]
STRIDES = [(1, 1), (1, 2), (2, 1), (2, 2)]
LAST = torch.channels_last_3d
FORMATS = [torch.contiguous_format, LAST]


def make_conv(
    kernel: tuple[int, int], stride: tuple[int, int], groups: int
) -> LoweredConv3d:
    (kt, ks), (st, s) = kernel, stride
    torch.manual_seed(0)
    conv = LoweredConv3d(4, 4, (kt, ks, ks), (st, s, s), groups, bias=True)
    return conv.double()


def run(
    function: Callable[[Tensor, nn.Conv3d], Tensor], x: Tensor, conv: nn.Conv3d
) -> list[Tensor]:
    """Output, and the gradients of x, weight and bias for a fixed output gradient."""
    x = x.detach().requires_grad_()
    y = function(x, conv)
    seed = torch.Generator().manual_seed(1)
    grad = torch.randn(y.shape, generator=seed, dtype=y.dtype)
    grads = torch.autograd.grad(y, [x, conv.weight, conv.bias], grad)
    return [y.detach(), *grads]


def reference(x: Tensor, conv: nn.Conv3d) -> Tensor:
    return F.conv3d(
        x, conv.weight, conv.bias, conv.stride, conv.padding, groups=conv.groups
    )


def cases(conv: nn.Conv3d) -> list[Tensor]:
    """Odd and even clips, a single frame, batches of 1 and 3, both layouts."""
    seed = torch.Generator().manual_seed(2)
    options = dict(generator=seed, dtype=torch.float64)
    return [
        torch.randn(n, 4, t, 17, 6, **options).contiguous(memory_format=layout)
        for n, t, layout in itertools.product((1, 3), (1, 4, 5), FORMATS)
    ]


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("stride", STRIDES, ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_lowerings_give_the_numbers_of_conv3d(
    kernel: tuple[int, int], stride: tuple[int, int], groups: int
) -> None:
    conv = make_conv(kernel, stride, groups)
    names = [name for name, applies in APPLIES.items() if applies(conv)]
    for x in cases(conv):
        expected = run(reference, x, conv)
        for name in names:
            torch.testing.assert_close(run(LOWERINGS[name], x, conv), expected)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("groups", [1, 4])
def test_the_choice_applies_and_is_what_runs(grad: bool, groups: int) -> None:
    chosen = set()
    for kernel, stride in itertools.product(KERNELS, STRIDES):
        conv = make_conv(kernel, stride, groups)
        with torch.set_grad_enabled(grad):
            for x in cases(conv)[-2:]:
                name = choose_lowering(conv, x)
                assert APPLIES[name](conv), (name, kernel, stride)
                chosen.add(name)
                torch.testing.assert_close(conv(x), reference(x, conv))
    assert chosen >= {"folded", "over_time"}


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("stride", STRIDES, ids=str)
def test_the_layout_is_kept(stride: tuple[int, int], grad: bool) -> None:
    """Else all layers that follow run in the other layout, which is slower."""
    x = torch.randn(2, 4, 5, 17, 6).contiguous(memory_format=LAST)
    for kernel, groups in itertools.product(KERNELS, (1, 4)):
        conv = make_conv(kernel, stride, groups).float()
        with torch.set_grad_enabled(grad):
            y = conv(x)
        assert y.stride() == y.contiguous(memory_format=LAST).stride(), (kernel, groups)
