# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The ground truth table: clips, trainings, packing, ranks, regrets, what it says."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
import torch

from benchmarks.clips import MotionClips
from benchmarks.ground_truth.table import GroundTruth, Network, all_indices
from pvnas_mmaction.space.search_space import SearchSpace

CANDIDATES = ["mb_t1_k3_e1", "mb_t3_k3_e2"]
STAGE = dict(out_channels=8, num_layers=1, spatial_stride=2, candidates=CANDIDATES)
SPACE = dict(name="two", stem=dict(channels=8), head_channels=8, stages=[STAGE])


def test_view_is_consecutive_frames():
    # Clip n holds the value 20 n + f in frame f.
    values = 20 * torch.arange(3)[:, None] + torch.arange(12)
    frames = values.to(torch.uint8)[:, :, None, None, None].expand(-1, -1, 4, 4, 3)
    clips = MotionClips(frames.contiguous(), torch.arange(3), clip_len=8)
    middle = clips.views([1])
    assert middle.shape == (1, 3, 8, 4, 4)
    assert middle[0, 0, :, 0, 0].tolist() == list(range(22, 30))
    drawn = clips.views([0, 2, 0], seeds=[0, 4, 6])
    assert [v[0, 0, 0, 0].item() for v in drawn] == [0, 44, 1]


@pytest.fixture(scope="module")
def synthetic() -> GroundTruth:
    """All networks of a space of four layers, with random accuracies and costs."""
    space = dict(SPACE, stages=SPACE["stages"] * 4)
    generator = np.random.default_rng(0)
    built = SearchSpace.from_config(space)
    networks = []
    for indices in all_indices(built):
        blocks = built.genotype(indices).blocks
        first_seed = generator.integers(1, 200) / 256
        accuracies = (first_seed, first_seed + generator.integers(0, 40) / 256)
        macs = int(generator.integers(1000, 2000))
        networks.append(Network(indices, blocks, accuracies, macs, 100))
    return GroundTruth(dict(space=space), [0, 1], networks)


def test_rank_and_regret_by_hand(synthetic):
    means = {i: sum(n.accuracies) / 2 for i, n in synthetic.items()}
    budget = statistics.median_low(n.macs for n in synthetic.values())
    for max_macs in (None, budget):
        kept = [i for i in means if not max_macs or synthetic[i].macs <= max_macs]
        best = max(means[i] for i in kept)
        assert synthetic.best(max_macs).accuracy == best
        for i in kept:
            assert synthetic.regret(i, max_macs) == pytest.approx(best - means[i])
            better = sum(means[j] > means[i] for j in kept)
            assert synthetic.rank(i, max_macs) == better + 1
