# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Costs by formula against a counted forward, counted parameters and hand counts."""

from __future__ import annotations

import functools
import random
import warnings
from typing import Any

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

from pvnas_mmaction.models.blocks import build_block
from pvnas_mmaction.space.cost import (
    FORMULAS,
    Cost,
    block_cost,
    check_input_shape,
    fixed_cost,
    layer_costs,
    layer_shapes,
    network_cost,
    skeleton_cost,
)
from pvnas_mmaction.space.genotype import (
    FAMILIES,
    Layer,
    Skeleton,
    Stage,
    parse_genotype,
)
from pvnas_mmaction.space.search_space import SearchSpace

SHAPE = (5, 17, 11)


def num_params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("layer", LAYERS, ids=layer_id)
@pytest.mark.parametrize("family", FAMILIES)
def test_block_cost_is_what_a_forward_counts(family: str, layer: Layer) -> None:
    for text in specs_of(family):
        block = build_block(text, layer).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            block(torch.zeros(1, layer.in_channels, *SHAPE))
        # The counter sees a multiplication and an addition in each.
        counted = Cost(counter.get_total_flops() // 2, num_params(block))
        assert block_cost(text, layer, SHAPE) == counted, text


def test_every_family_has_a_formula() -> None:
    assert set(FORMULAS) == set(FAMILIES)
    assert block_cost("skip", make_layer(), SHAPE) == Cost(0, 0)


# At 8 -> 24 channels, stride 2 over space and time, an input of (4, 6, 6): the output
# is (2, 3, 3), 18 positions; at full time (4, 3, 3) it is 36, at full size 144.
BY_HAND = {
    # 8 -> 16, depthwise 3x3 at full time, depthwise 3 over time, 16 -> 24; batch
    # normalisation has 2 per channel.
    "mb_t3_k3_e2": (
        8 * 16 * 144 + 9 * 16 * 36 + 3 * 16 * 18 + 16 * 24 * 18,
        8 * 16 + 32 + 9 * 16 + 32 + 3 * 16 + 32 + 16 * 24 + 48,
    ),
    # No expansion; the gate squeezes 8 to 8 and has two biases.
    "mb_t1_k5_e1_se": (
        25 * 8 * 18 + 2 * 8 * 8 + 8 * 24 * 18,
        25 * 8 + 16 + 2 * 8 * 8 + 8 + 8 + 8 * 24 + 48,
    ),
    "mb3d_t3_k3_e2": (
        8 * 16 * 144 + 27 * 16 * 18 + 16 * 24 * 18,
        8 * 16 + 32 + 27 * 16 + 32 + 16 * 24 + 48,
    ),
    "ts_t3_k3_e2": (
        8 * 16 * 144 + 9 * 16 * 18 + 16 * 24 * 18,
        8 * 16 + 32 + 9 * 16 + 32 + 16 * 24 + 48,
    ),
    # 12 inside is rounded to 16: 8 -> 16 over 3 frames at (2, 6, 6), full 3x3 of
    # 16 -> 16, 16 -> 24, and 8 -> 24 on the shortcut.
    "rb_t3_k3_e0.5": (
        3 * 8 * 16 * 72 + 9 * 16 * 16 * 18 + 16 * 24 * 18 + 8 * 24 * 18,
        3 * 8 * 16 + 32 + 9 * 16 * 16 + 32 + 16 * 24 + 48 + 8 * 24 + 48,
    ),
}


@pytest.mark.parametrize("text", BY_HAND)
def test_block_cost_by_hand(text: str) -> None:
    cost = block_cost(text, make_layer(8, 24, 2, 2), (4, 6, 6))
    assert cost == Cost(*BY_HAND[text])


@pytest.mark.parametrize("family", FAMILIES)
def test_network_cost_is_what_mmaction_counts(family: str) -> None:
    """As tools/analysis_tools/get_flops.py does, less normalisation and pooling, plus
    the head."""
    data = one_genotype_per_family()[family]
    genotype = parse_genotype(data)
    shape, skeleton, classes = (3, 5, 33, 47), genotype.skeleton, 7
    model = build_recognizer(dict(type="PVNASNet", genotype=data), classes).eval()
    model.forward = functools.partial(model.forward, stage="head")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        flops = FlopAnalyzer(model, torch.zeros(1, 1, *shape))
        counted = flops.unsupported_ops_warnings(False).by_operator()
    assert set(counted) <= {"conv", "linear", "batch_norm", "adaptive_avg_pool3d"}
    assert network_cost(skeleton, genotype.blocks, shape, classes) == Cost(
        int(counted["conv"] + counted["linear"]), num_params(model)
    )


def test_fixed_cost_by_hand() -> None:
    space = SearchSpace.from_config(space_of_all_families())
    # Stem 3 -> 8 at (5, 17, 24); last 16 -> 16 at (3, 9, 12); 16 -> 7 with bias.
    macs = 9 * 3 * 8 * 5 * 17 * 24 + 16 * 16 * 3 * 9 * 12 + 16 * 7
    params = 9 * 3 * 8 + 16 + 16 * 16 + 32 + 16 * 7 + 7
    assert fixed_cost(space, (3, 5, 33, 47), 7) == Cost(macs, params)
    # The last layer has the strides here: 8 -> 16 at (3, 9, 12) behind it.
    skeleton = Skeleton(8, 16, (Stage(8, 1, 2, 2),))
    macs = 9 * 3 * 8 * 5 * 17 * 24 + 8 * 16 * 3 * 9 * 12 + 16 * 7
    params = 9 * 3 * 8 + 16 + 8 * 16 + 32 + 16 * 7 + 7
    assert skeleton_cost(skeleton, (3, 5, 33, 47), 7) == Cost(macs, params)


def test_table_of_a_space_adds_up_to_its_networks() -> None:
    space = SearchSpace.from_config(space_of_all_families())
    shape, classes, draw = (3, 5, 33, 47), 7, random.Random(0)
    table, fixed = layer_costs(space, shape), fixed_cost(space, shape, classes)
    assert [len(row) for row in table] == [len(texts) for texts in space.candidates]
    for _ in range(20):
        indices = [draw.randrange(len(row)) for row in table]
        blocks = space.genotype(indices).blocks
        total = sum((row[i] for row, i in zip(table, indices, strict=True)), fixed)
        assert total == network_cost(space.skeleton, blocks, shape, classes)


def test_shapes_follow_the_strides() -> None:
    skeleton = SearchSpace.from_config(space_of_all_families()).skeleton
    assert layer_shapes(skeleton, (3, 5, 33, 47)) == (
        (5, 17, 24),
        (5, 9, 12),
        (5, 9, 12),
        (3, 9, 12),
        (3, 9, 12),
    )


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((8, 32, 32), r"input_shape: found \(8, 32, 32\), expected \(C, T, H, W\)"),
        ((3, 8, 32, 0), r"input_shape: found \(3, 8, 32, 0\), expected \(C, T, H, W\)"),
        ((3, 8.0, 32, 32), r"input_shape: found .*, expected \(C, T, H, W\), four"),
        ((1, 8, 32, 32), "found C = 1, expected 3, the skeleton's in_channels"),
    ],
)
def test_wrong_input_shape(shape: tuple[Any, ...], message: str) -> None:
    skeleton = SearchSpace.from_config(space_of_all_families()).skeleton
    with pytest.raises(ValueError, match=message):
        check_input_shape(skeleton, shape)


def test_wrong_number_of_blocks() -> None:
    skeleton = SearchSpace.from_config(space_of_all_families()).skeleton
    with pytest.raises(ValueError, match="shorter"):
        network_cost(skeleton, ["mb_t1_k3_e1"], (3, 5, 33, 47), 7)
