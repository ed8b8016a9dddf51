"""Costs by formula against a counted forward, counted parameters and hand counts."""

import functools
import random
import warnings

import pytest
import torch
from mmengine.analysis import FlopAnalyzer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from toys import (
    LAYERS,
    build_recognizer,
    layer_id,
    make_layer,
    one_genotype_per_family,
    space_of_all_families,
    specs_of,
)

from pvnas_mmaction.models import PVNASNet
from pvnas_mmaction.models.blocks import Block
from pvnas_mmaction.space.cost import (
    Cost,
    block_cost,
    layer_costs,
    layer_shapes,
    network_cost,
    skeleton_cost,
)
from pvnas_mmaction.space.genotype import (
    Genotype,
    Skeleton,
    Stage,
    Stem,
    parse_genotype,
)
from pvnas_mmaction.space.layout import FAMILIES, Layer, layout
from pvnas_mmaction.space.search_space import SearchSpace

SPACE = SearchSpace.from_config(space_of_all_families())
SHAPE = (3, 5, 33, 47)


def counted(module: nn.Module, *shape: int) -> Cost:
    """Of a forward: the counter sees a multiplication and an addition in each."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.eval()(torch.zeros(1, *shape))
    params = sum(p.numel() for p in module.parameters())
    return Cost(counter.get_total_flops() // 2, params)


@pytest.mark.parametrize("layer", LAYERS, ids=layer_id)
@pytest.mark.parametrize("family", FAMILIES)
def test_block_cost_is_what_a_forward_counts(family: str, layer: Layer) -> None:
    for text in specs_of(family):
        found = block_cost(text, layer, (5, 17, 11))
        block = Block(layout(text, layer))
        assert found == counted(block, layer.in_channels, 5, 17, 11), text
    assert block_cost("skip", make_layer(), (5, 17, 11)) == Cost(0, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_network_cost_is_what_mmaction_counts(family: str) -> None:
    """As tools/analysis_tools/get_flops.py does, less normalisation and pooling, plus
    the head."""
    data = one_genotype_per_family()[family]
    genotype = parse_genotype(data)
    model = build_recognizer(dict(type="PVNASNet", genotype=data), 7).eval()
    model.forward = functools.partial(model.forward, stage="head")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        flops = FlopAnalyzer(model, torch.zeros(1, 1, *SHAPE))
        found = flops.unsupported_ops_warnings(False).by_operator()
    assert set(found) <= {"conv", "linear", "batch_norm", "adaptive_avg_pool3d"}
    assert network_cost(genotype.skeleton, genotype.blocks, SHAPE, 7) == Cost(
        int(found["conv"] + found["linear"]), sum(p.numel() for p in model.parameters())
    )


@pytest.mark.parametrize(
    "skeleton",
    [
        Skeleton(Stem(8), 16, (Stage(8, 2, 2, 2),)),
        Skeleton(Stem(8, kernel=7, pool=3), None, (Stage(8, 1), Stage(16, 1, 2, 2))),
        Skeleton(Stem(8, 5), None, (Stage(8, 2, 2, 1),), "silu", 1e-3, "tf_same", 2),
    ],
)
def test_stem_and_head_are_counted_too(skeleton: Skeleton) -> None:
    blocks = ("mb_t3_k3_e2", "rb_t1_k3_e1")
    shape = (skeleton.in_channels, 5, 33, 46)
    net = PVNASNet(Genotype("toy", skeleton, blocks))
    assert network_cost(skeleton, blocks, shape, 0) == counted(net, *shape)
    y = net(torch.zeros(1, *shape))
    assert y.shape == (1, skeleton.out_channels, *layer_shapes(skeleton, shape)[-1])


def test_table_of_a_space_adds_up_to_its_networks() -> None:
    draw = random.Random(0)
    table, fixed = layer_costs(SPACE, SHAPE), skeleton_cost(SPACE.skeleton, SHAPE, 7)
    assert [len(row) for row in table] == [len(texts) for texts in SPACE.candidates]
    for _ in range(20):
        indices = [draw.randrange(len(row)) for row in table]
        blocks = SPACE.genotype(indices).blocks
        total = sum((row[i] for row, i in zip(table, indices, strict=True)), fixed)
        assert total == network_cost(SPACE.skeleton, blocks, SHAPE, 7)
