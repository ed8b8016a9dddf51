# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Every family against hand-built references, at odd sizes, and folded."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from toys import LAYERS, layer_id, make_layer, specs_of

from pvnas_mmaction.models.blocks import (
    OPS,
    ConvBN,
    SqueezeExcitation,
    build_block,
    build_head,
    build_stem,
    init_weights,
    temporal_shift,
)
from pvnas_mmaction.space.genotype import FAMILIES, Layer


def randomize(module: nn.Module) -> nn.Module:
    """Numbers that hide no term: batch normalisation far from its start, too."""
    seed = torch.Generator().manual_seed(0)
    for name, value in module.state_dict().items():
        if name.endswith("running_var") or value.dim() == 1:
            value.copy_(torch.rand(value.shape, generator=seed) + 0.5)
        elif value.dim():
            fan_in = math.prod(value.shape[1:])
            value.copy_(torch.randn(value.shape, generator=seed) / fan_in**0.5)
    return module


def clip(channels: int, frames: int = 5) -> Tensor:
    seed = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, frames, 17, 9, generator=seed)


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """By position, whatever the names; every shape must fit."""
    values = source.state_dict().values()
    for value, place in zip(values, target.state_dict().values(), strict=True):
        assert value.shape == place.shape
        place.copy_(value)


def conv(
    inside: int,
    outside: int,
    kernel: tuple[int, int, int] = (1, 1, 1),
    stride: tuple[int, int, int] = (1, 1, 1),
    groups: int = 1,
) -> list[nn.Module]:
    padding = tuple((size - 1) // 2 for size in kernel)
    return [
        nn.Conv3d(inside, outside, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm3d(outside),
    ]


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("channels", [3, 16, 20])
def test_shift_by_explicit_indexing(channels: int, frames: int) -> None:
    x = clip(channels, frames)
    part = max(1, channels // 8)
    expected = x.clone()
    for t in range(frames):
        later = x[:, :part, t + 1] if t + 1 < frames else 0.0
        earlier = x[:, part : 2 * part, t - 1] if t else 0.0
        expected[:, :part, t] = later
        expected[:, part : 2 * part, t] = earlier
    torch.testing.assert_close(temporal_shift(x), expected, rtol=0, atol=0)


def test_squeeze_and_excitation_by_hand() -> None:
    se = randomize(SqueezeExcitation(40))
    # A quarter of 40 is 10, of which 8 is the nearest multiple of 8.
    assert se.reduce.weight.shape == (8, 40)
    x = clip(40)
    mean = torch.einsum("ncthw->nc", x) / (5 * 17 * 9)
    inside = (mean @ se.reduce.weight.T + se.reduce.bias).clamp_min(0)
    gate = 1 / (1 + torch.exp(-(inside @ se.expand.weight.T + se.expand.bias)))
    torch.testing.assert_close(se(x), torch.einsum("ncthw,nc->ncthw", x, gate))


RELU = nn.ReLU()
STRIDED = make_layer(16, 24, 2, 2)
# Expected part between input and residual, in the order of the block's weights. 2.25
# times 16 channels, 36, is rounded up to 40.
CHAINS = {
    "mb_t3_k5_e2.25": [
        *(*conv(16, 40), RELU),
        *(*conv(40, 40, (1, 5, 5), groups=40), RELU),
        *(*conv(40, 40, (3, 1, 1), groups=40), RELU),
        *conv(40, 16),
    ],
    "mb_t1_k3_e1": [*conv(16, 16, (1, 3, 3), groups=16), RELU, *conv(16, 16)],
    "mb_t3_k3_e1_se": [
        *(*conv(16, 16, (1, 3, 3), groups=16), RELU),
        *(*conv(16, 16, (3, 1, 1), groups=16), RELU),
        *(SqueezeExcitation(16), *conv(16, 16)),
    ],
    "mb3d_t5_k3_e2.25": [
        *(*conv(16, 40), RELU),
        *(*conv(40, 40, (5, 3, 3), groups=40), RELU),
        *conv(40, 16),
    ],
    "ts_t3_k3_e2.25": [
        *(*conv(16, 40), RELU),
        *(*conv(40, 40, (1, 3, 3), groups=40), RELU),
        *conv(40, 16),
    ],
    "rb_t3_k5_e0.5": [
        *(*conv(16, 8, (3, 1, 1)), RELU),
        *(*conv(8, 8, (1, 5, 5)), RELU),
        *conv(8, 16),
    ],
}
STRIDED_CHAINS = {
    "mb_t3_k3_e1": [
        *(*conv(16, 16, (1, 3, 3), (1, 2, 2), groups=16), RELU),
        *(*conv(16, 16, (3, 1, 1), (2, 1, 1), groups=16), RELU),
        *conv(16, 24),
    ],
    "mb_t1_k3_e1": [
        *(*conv(16, 16, (1, 3, 3), (2, 2, 2), groups=16), RELU),
        *conv(16, 24),
    ],
    "mb3d_t3_k3_e1": [
        *(*conv(16, 16, (3, 3, 3), (2, 2, 2), groups=16), RELU),
        *conv(16, 24),
    ],
    "ts_t3_k3_e1": [
        *(*conv(16, 16, (1, 3, 3), (2, 2, 2), groups=16), RELU),
        *conv(16, 24),
    ],
    "rb_t3_k3_e1": [
        *(*conv(16, 24, (3, 1, 1), (2, 1, 1)), RELU),
        *(*conv(24, 24, (1, 3, 3), (1, 2, 2)), RELU),
        *conv(24, 24),
    ],
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("layer", "text", "chain"),
    [
        *((make_layer(), text, chain) for text, chain in CHAINS.items()),
        *((STRIDED, text, chain) for text, chain in STRIDED_CHAINS.items()),
    ],
    ids=[*CHAINS, *(f"{text}-strided" for text in STRIDED_CHAINS)],
)
def test_block_against_plain_modules(
    layer: Layer, text: str, chain: list[nn.Module], training: bool
) -> None:
    block = randomize(build_block(text, layer)).train(training)
    reference = nn.Sequential(*copy.deepcopy(chain)).train(training)
    copy_weights(block.layers, reference)
    x = clip(16)
    if text.startswith("ts"):
        shifted = x.clone()
        shifted[:, :2, :-1], shifted[:, :2, -1] = x[:, :2, 1:], 0
        shifted[:, 2:4, 1:], shifted[:, 2:4, 0] = x[:, 2:4, :-1], 0
        expected = reference(shifted)
    else:
        expected = reference(x)
    if layer.keeps_shape:
        expected = expected + x
    if text.startswith("rb") and not layer.keeps_shape:
        shortcut = nn.Sequential(*conv(16, 24, stride=(2, 2, 2))).train(training)
        copy_weights(block.shortcut, shortcut)
        expected = expected + shortcut(x)
    if text.startswith("rb"):
        expected = expected.clamp_min(0)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)


def test_every_family_has_a_class() -> None:
    assert list(OPS) == ["skip", *FAMILIES]


@pytest.mark.parametrize("layer", LAYERS, ids=layer_id)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_at_odd_sizes(family: str, layer: Layer) -> None:
    """The declared shape, finite gradients everywhere, and the same numbers with batch
    normalisation folded into the convolutions."""
    for text in specs_of(family):
        block = randomize(build_block(text, layer))
        x = clip(layer.in_channels).requires_grad_()
        y = block(x)
        assert y.shape == (2, layer.out_channels, *layer.out_shape((5, 17, 9))), text
        y.square().mean().backward()
        for value in (x, *block.parameters()):
            assert value.grad is not None and value.grad.isfinite().all(), text
        with torch.no_grad():
            expected = block.eval()(x)
            for part in block.modules():
                if isinstance(part, ConvBN):
                    part.switch_to_deploy()
            assert not any(isinstance(m, nn.BatchNorm3d) for m in block.modules())
            torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)


def test_synchronised_batch_normalisation_is_folded_too() -> None:
    """As MMEngine's sync_bn leaves it."""
    conv = nn.SyncBatchNorm.convert_sync_batchnorm(randomize(ConvBN(3, 4)))
    assert isinstance(conv.bn, nn.SyncBatchNorm)
    x = clip(3)
    with torch.no_grad():
        expected = conv.eval()(x)
        conv.switch_to_deploy()
        assert isinstance(conv.bn, nn.Identity)
        torch.testing.assert_close(conv(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_temporal_blocks_mix_frames(family: str) -> None:
    """The first output frame depends on the second input frame, or does not."""
    for text in specs_of(family):
        if text.endswith("_se"):  # the mean over time reaches every frame
            continue
        block = randomize(build_block(text, make_layer())).eval()
        x = clip(16).requires_grad_()
        block(x)[:, :, 0].sum().backward()
        assert bool(x.grad[:, :, 1].any()) == ("_t1_" not in text), text


def test_stem_and_head() -> None:
    x = clip(3)
    for part, reference in (
        (build_stem(3, 8), nn.Sequential(*conv(3, 8, (1, 3, 3), (1, 2, 2)), RELU)),
        (build_head(3, 8), nn.Sequential(*conv(3, 8), RELU)),
    ):
        copy_weights(randomize(part), reference)
        torch.testing.assert_close(part(x), reference(x), rtol=1e-4, atol=1e-4)


def test_skip_is_the_identity_and_only_where_the_shape_is_kept() -> None:
    x = clip(16)
    assert build_block("skip", make_layer())(x) is x
    for layer in LAYERS[1:]:
        with pytest.raises(ValueError, match="layer 0: found 'skip' where the shape"):
            build_block("skip", layer)


def test_wrong_spec_names_the_layer() -> None:
    with pytest.raises(ValueError, match="layer 0: found 'mb_t2_k3_e1', expected t"):
        build_block("mb_t2_k3_e1", make_layer())


def test_init_weights() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(ConvBN(64, 128, (1, 3, 3)), SqueezeExcitation(256))
    randomize(module)
    init_weights(module)
    (conv_bn, se) = module
    # He et al.: variance 2 over the fan out, 128 * 3 * 3.
    assert conv_bn.conv.weight.var().item() == pytest.approx(2 / 1152, rel=0.05)
    assert se.reduce.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not se.reduce.bias.any() and not conv_bn.bn.bias.any()
    assert (conv_bn.bn.weight == 1).all()
