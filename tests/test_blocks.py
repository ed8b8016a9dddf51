"""Blocks against plain modules and numbers by hand, at odd sizes, and folded."""

import copy
import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import LAYERS, build_recognizer, layer_id, make_layer, specs_of

from pvnas_mmaction.apis.export import Classifier, export_onnx, max_difference
from pvnas_mmaction.models import PVNASNet, blocks
from pvnas_mmaction.models.blocks import (
    Block,
    ConvNormAct,
    SqueezeExcitation,
    fold_batch_norm,
)
from pvnas_mmaction.report.drawing import family_colors, network_plot
from pvnas_mmaction.report.layers import layer_rows
from pvnas_mmaction.space import layout as data
from pvnas_mmaction.space.cost import Cost, block_cost, network_cost
from pvnas_mmaction.space.genotype import Skeleton, Stage, Stem, parse_genotype
from pvnas_mmaction.space.layout import (
    FAMILIES,
    BlockSpec,
    Conv,
    Layer,
    Layout,
    Style,
    family,
    layout,
    out_shape,
)
from pvnas_mmaction.space.search_space import SearchSpace


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


def conv(inside, outside, kernel=1, stride=1, groups=1, eps=1e-5) -> list[nn.Module]:
    padding = tuple((size - 1) // 2 for size in kernel) if kernel != 1 else 0
    part = nn.Conv3d(inside, outside, kernel, stride, padding, 1, groups, bias=False)
    return [part, nn.BatchNorm3d(outside, eps)]


def test_squeeze_and_excitation_by_hand() -> None:
    se = randomize(SqueezeExcitation(data.SqueezeExcitation(40, 8)))
    x = clip(40)
    mean = torch.einsum("ncthw->nc", x) / (5 * 17 * 9)
    inside = (mean @ se.reduce.weight.T + se.reduce.bias).clamp_min(0)
    gate = 1 / (1 + torch.exp(-(inside @ se.expand.weight.T + se.expand.bias)))
    torch.testing.assert_close(se(x), torch.einsum("ncthw,nc->ncthw", x, gate))


RELU = nn.ReLU()
# Parts on the residual branch, in the order of the block's weights. 2.25 times 16
# channels, 36, is rounded up to 40. The two convolutions of a separable pair share one
# normalisation. The last three change the width and both strides.
CHAINS = {
    "mb_t3_k5_e2.25": [
        *conv(16, 40), RELU,
        conv(40, 40, (1, 5, 5), groups=40)[0],
        *conv(40, 40, (3, 1, 1), groups=40), RELU, *conv(40, 16),
    ],
    "ts_t3_k3_e2.25": [
        *conv(16, 40), RELU,
        *conv(40, 40, (1, 3, 3), groups=40), RELU, *conv(40, 16),
    ],
    "rs_t3_k3_e0.5": [
        *conv(16, 8), RELU, *conv(8, 8, (1, 3, 3)), RELU, *conv(8, 16),
    ],
    "mb_t3_k3_e1": [
        conv(16, 16, (1, 3, 3), (1, 2, 2), groups=16)[0],
        *conv(16, 16, (3, 1, 1), (2, 1, 1), groups=16), RELU, *conv(16, 24),
    ],
    "mb3d_t3_k3_e1": [
        *conv(16, 16, (3, 3, 3), (2, 2, 2), groups=16), RELU, *conv(16, 24),
    ],
    "rb_t3_k3_e1_se": [
        *conv(16, 24, (3, 1, 1), (2, 1, 1)), RELU,
        *conv(24, 24, (1, 3, 3), (1, 2, 2)), RELU,
        SqueezeExcitation(data.SqueezeExcitation(24, 8)), *conv(24, 24),
    ],
}  # fmt: skip
STRIDED = list(CHAINS)[3:]
assert {text.partition("_")[0] for text in CHAINS} == set(FAMILIES)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("text", CHAINS)
def test_block_against_plain_modules(text: str, training: bool) -> None:
    layer = make_layer(16, 24, 2, 2) if text in STRIDED else make_layer()
    block = randomize(Block(layout(text, layer))).train(training)
    parts = [p for name, p in block.named_children() if name not in ("shortcut", "act")]
    reference = nn.Sequential(*copy.deepcopy(CHAINS[text])).train(training)
    copy_weights(nn.Sequential(*parts), reference)
    x = clip(16)
    shifted = x.clone()
    if text[1] == "s":
        shifted[:, :2, :-1], shifted[:, :2, -1] = x[:, :2, 1:], 0
        shifted[:, 2:4, 1:], shifted[:, 2:4, 0] = x[:, 2:4, :-1], 0
    expected = reference(shifted)
    if layer.keeps_shape:
        expected = expected + x
    elif text.startswith("r"):
        shortcut = nn.Sequential(*conv(16, 24, stride=(2, 2, 2))).train(training)
        copy_weights(block.shortcut, shortcut)
        expected = expected + shortcut(x)
    if text.startswith("r"):
        expected = expected.clamp_min(0)
    before = x.clone()
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(x, before), "activations work in place, but not on the input"


@pytest.mark.parametrize("layer", LAYERS, ids=layer_id)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_at_odd_sizes(family: str, layer: Layer) -> None:
    """The declared shape, finite gradients everywhere, and the same numbers with batch
    normalisation folded into the convolutions."""
    for text in specs_of(family):
        block = randomize(Block(layout(text, layer)))
        x = clip(layer.in_channels).requires_grad_()
        y = block(x)
        assert y.shape == (2, layer.out_channels, *out_shape(layer, (5, 17, 9))), text
        assert block.layout.out_shape((5, 17, 9)) == y.shape[2:]
        y.square().mean().backward()
        for value in (x, *block.parameters()):
            assert value.grad is not None and value.grad.isfinite().all(), text
        with torch.no_grad():
            expected = block.eval()(x)
            fold_batch_norm(block)
            assert not any(isinstance(m, nn.BatchNorm3d) for m in block.modules())
            torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)


def skeleton(**options) -> Skeleton:
    settings = dict(stem=Stem(8), head_channels=16, stages=(Stage(8, 1),)) | options
    return Skeleton(**settings)


def test_stem_and_head() -> None:
    parts = [*conv(3, 8, (1, 3, 3), (1, 2, 2)), RELU]
    pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
    pooled = [*conv(3, 8, (1, 7, 7), (1, 2, 2), eps=0.1), RELU, pool]
    for built, reference in (
        (Block(skeleton().stem_layout), parts),
        (Block(skeleton().head_layout), [*conv(8, 16), RELU]),
        (
            Block(skeleton(stem=Stem(8, kernel=7, pool=3), bn_eps=0.1).stem_layout),
            pooled,
        ),
    ):
        expected = nn.Sequential(*reference)
        copy_weights(randomize(built), expected)
        x = clip(8 if "project" in dict(built.named_children()) else 3)
        torch.testing.assert_close(built(x), expected(x), rtol=1e-4, atol=1e-4)
    x = clip(8)
    assert Block(skeleton(head_channels=None).head_layout)(x) is x


ACTIVATIONS = dict(
    relu=lambda x: x.clamp_min(0),
    relu6=lambda x: x.clamp(0, 6),
    silu=lambda x: x * torch.sigmoid(x),
    hard_swish=lambda x: x * (x + 3).clamp(0, 6) / 6,
)


def test_every_activation() -> None:
    names = set(data.ACTIVATIONS)
    assert names == set(ACTIVATIONS) == set(blocks.ACTIVATIONS)
    x = 9 * clip(8)
    for name, function in ACTIVATIONS.items():
        head = randomize(Block(skeleton(activation=name).head_layout))
        before = F.conv3d(x, head.project.conv.weight)
        expected = function(copy.deepcopy(head.project.bn)(before))
        torch.testing.assert_close(head(x), expected, rtol=1e-4, atol=1e-4)
        layer = Layer(0, 0, 8, 8, 1, 1, Style(name))
        block = randomize(Block(layout("rb_t1_k3_e1", layer))).eval()
        inner = block.reduce(x).detach()
        assert inner.min() >= 0 or name in ("silu", "hard_swish")
        inside = block.expand(block.spatial(inner))
        torch.testing.assert_close(block(x), function(inside + x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(16, 16), (16, 9), (17, 9)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_padding_as_tensorflow_pads(kernel: int, size: tuple[int, int]) -> None:
    """Output i reads from i * 2 - before on, with (n - 1) * 2 + kernel - size zeros in
    total for n = ceil(size / 2) outputs, the smaller half of them before."""
    part = data.Conv("spatial", 4, 4, (1, kernel, kernel), (1, 2, 2), 4)
    module = randomize(ConvNormAct(part, Style(padding="tf_same")))
    x = torch.randn(1, 4, 3, *size, generator=torch.Generator().manual_seed(0))
    outs = [-(-n // 2) for n in size]
    totals = [(m - 1) * 2 + kernel - n for m, n in zip(outs, size, strict=True)]
    (top, bottom), (left, right) = ((n // 2, n - n // 2) for n in totals)
    padded = F.pad(x, (left, right, top, bottom))
    expected = F.conv3d(padded, module.conv.weight, stride=(1, 2, 2), groups=4)
    assert expected.shape[3:] == tuple(outs)
    torch.testing.assert_close(module.conv(x), expected, rtol=1e-5, atol=1e-5)
    same = ConvNormAct(data.Conv("spatial", 4, 4, (3, 3, 3)), Style(padding="tf_same"))
    assert same.conv.padding == (1, 1, 1), "without a stride it is the symmetric one"


def test_a_new_family_is_one_function_and_one_line(monkeypatch, tmp_path) -> None:
    """In the grammar, the space, the cost, the module, the network, its picture and its
    export."""
    monkeypatch.setattr("pvnas_mmaction.space.layout.FAMILIES", dict(FAMILIES))

    @family("full", temporal_kernels=(3, 5), expand_ratios=(1, 1))
    def full(spec: BlockSpec, layer: Layer) -> Layout:
        """One full 3D convolution."""
        kt, ks = spec.temporal_kernel, spec.spatial_kernel
        widths = (layer.in_channels, layer.out_channels)
        return Layout((Conv("joint", *widths, (kt, ks, ks), layer.stride),))

    with pytest.raises(ValueError, match="expected t odd and from 3 to 5 for full"):
        BlockSpec.parse("full_t7_k3_e1")
    stage = dict(out_channels=16, num_layers=2, candidates=["full_t{3,5}_k3_e1"])
    space = SearchSpace.from_config(
        dict(name="toy", stem=dict(channels=8), head_channels=None, stages=[stage])
    )
    assert space.candidates == (("full_t3_k3_e1", "full_t5_k3_e1"),) * 2
    weights = 8 * 16 * 3 * 9
    expected = Cost(weights * 4 * 5 * 6, weights + 32)
    assert block_cost("full_t3_k3_e1", space.layers[0], (4, 5, 6)) == expected
    block = Block(layout("full_t3_k3_e1", space.layers[0])).eval()
    assert next(iter(block.state_dict())) == "joint.conv.weight"
    x = torch.randn(2, 8, 4, 5, 6)
    reference = nn.functional.conv3d(x, block.joint.conv.weight, padding=1)
    expected = (reference / (1 + 1e-5) ** 0.5).relu()
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)
    genotype = space.genotype((0, 1))
    text = genotype.to_json()
    assert parse_genotype(text) == genotype
    net = PVNASNet(genotype).eval()
    clip = torch.randn(1, 3, 4, 12, 12)
    recognizer = build_recognizer(dict(type="PVNASNet", genotype=json.loads(text)))
    classifier = Classifier(recognizer.eval())
    export_onnx(classifier, tmp_path / "full.onnx", clip.shape[1:])
    difference = max_difference(classifier, tmp_path / "full.onnx", [clip])
    assert difference < 1e-4
    drawn = json.dumps(network_plot(layer_rows(genotype, (3, 4, 12, 12))).spec)
    color = family_colors()["full"]
    assert "full\\nt3 k3\\ne1" in drawn and drawn.count(f'"fill": "{color}"') == 2
    params = sum(value.numel() for value in net.parameters())
    cost = network_cost(genotype.skeleton, genotype.blocks, (3, 4, 12, 12), 0)
    assert cost.params == params
