"""Block specs, layers and a space for tests, taken from the registered families.

A family that joins ``layout.FAMILIES`` is in every list here without a change.
"""

import itertools
import json
from pathlib import Path
from typing import Any

from mmaction.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from torch import nn

from pvnas_mmaction.space.layout import FAMILIES, BlockSpec, Layer
from pvnas_mmaction.space.search_space import SearchSpace

CONFIGS = Path(__file__).resolve().parent.parent / "configs/pvnas/_base_"


def is_spec(text: str) -> bool:
    """Whether the grammar allows a block spec."""
    try:
        BlockSpec.parse(text)
    except ValueError:
        return False
    return True


def specs_of(family: str) -> list[str]:
    """Valid specs of a family: temporal kernels 1, 3, 5, spatial kernels 3, 5, two
    ratios, with and without squeeze-and-excitation (with it, one ratio is enough)."""
    parts = itertools.product((1, 3, 5), (3, 5), ("0.5", "1", "2.25"), ("", "_se"))
    texts = [f"{family}_t{kt}_k{ks}_e{ratio}{se}" for kt, ks, ratio, se in parts]
    texts = [text for text in texts if not text.endswith("_e1_se")]
    return [text for text in texts if is_spec(text)]


def one_spec_of(family: str) -> str:
    """The smallest temporal spec of a family that has squeeze-and-excitation."""
    return next(t for t in specs_of(family) if "_t3_k3" in t and t.endswith("_se"))


def make_layer(
    in_channels: int = 16, out_channels: int = 16, spatial: int = 1, temporal: int = 1
) -> Layer:
    return Layer(0, 0, in_channels, out_channels, spatial, temporal)


# The shape kept, the width changed, and each stride alone and together.
LAYERS = [
    make_layer(),
    make_layer(out_channels=24),
    make_layer(spatial=2),
    make_layer(temporal=2),
    make_layer(8, 24, 2, 2),
]


def layer_id(layer: Layer) -> str:
    widths = f"{layer.in_channels}-{layer.out_channels}"
    return f"{widths}-s{layer.spatial_stride}-t{layer.temporal_stride}"


def space_of_all_families() -> dict[str, Any]:
    """A space whose every layer offers every family."""
    texts = ["mb_t1_k3_e1", *(one_spec_of(family) for family in FAMILIES), "skip"]
    stages = [
        dict(out_channels=8, num_layers=2, spatial_stride=2, candidates=texts),
        dict(out_channels=16, num_layers=2, temporal_stride=2, candidates=texts),
    ]
    return dict(name="all", stem=dict(channels=8), head_channels=16, stages=stages)


def one_genotype_per_family() -> dict[str, dict[str, Any]]:
    """For each family, the content of a genotype whose shape-changing layers and one
    more are of it."""
    space = SearchSpace.from_config(space_of_all_families())
    genotypes = {}
    for family in FAMILIES:
        spec = one_spec_of(family)
        indices = space.indices_of_blocks([spec, "skip", spec, spec])
        genotypes[family] = json.loads(space.genotype(indices).to_json())
    return genotypes


def recognizer(backbone: dict[str, Any], num_classes: int = 7) -> dict[str, Any]:
    """Config of a recognizer around a backbone of 16 output channels."""
    head = dict(type="I3DHead", in_channels=16, num_classes=num_classes)
    return dict(
        type="Recognizer3D",
        backbone=backbone,
        cls_head=dict(head, average_clips="prob"),
        data_preprocessor=dict(type="ActionDataPreprocessor", format_shape="NCTHW"),
    )


def write_config(
    folder: Path, genotype: dict[str, Any], head: dict[str, Any], pipeline: list[dict]
) -> Path:
    """A retrain config of a genotype, and how its clips are read for a test."""
    (folder / "genotype.json").write_text(json.dumps(genotype))
    backbone = dict(genotype=str(folder / "genotype.json"))
    bases = [f"{CONFIGS}/models/retrain.py", f"{CONFIGS}/default_runtime.py"]
    path = folder / "config.py"
    path.write_text(
        f"_base_ = {bases}\nmodel = {dict(backbone=backbone, cls_head=head)}\n"
        f"test_pipeline = {pipeline}\n"
    )
    return path


def build_recognizer(backbone: dict[str, Any], num_classes: int = 7) -> nn.Module:
    """The recognizer, as MMAction2 builds it."""
    with DefaultScope.overwrite_default_scope("mmaction"):
        return MODELS.build(ConfigDict(recognizer(backbone, num_classes)))
