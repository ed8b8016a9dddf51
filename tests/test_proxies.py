"""Zero-cost proxies: scores against answers by hand, and one run over some networks."""

import math

import numpy as np
import pytest
import torch
from test_search_quality import SIZE, make_table
from torch import nn

from benchmarks import proxies
from benchmarks.clips import MotionClips


def test_synflow_of_two_layers():
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False))
    a, b = (layer.weight.detach().abs().double() for layer in model)
    found = proxies.synflow(model, [(torch.zeros(4, 2), torch.zeros(4))])
    # Each layer's weights times their gradients add up to the output.
    assert found == pytest.approx(math.log(2 * (b @ a).sum().item()))


def test_nwot_counts_what_two_clips_switch_alike(monkeypatch):
    monkeypatch.setattr(proxies, "BATCH", 2)
    x = torch.tensor([[1.0, -1.0, 1.0], [1.0, 1.0, 1.0]])
    found = proxies.nwot(nn.ReLU(), [(x, None)])
    assert found == pytest.approx(math.log(3 * 3 - 2 * 2))


def test_zico_of_one_layer():
    torch.manual_seed(0)
    model, criterion = nn.Linear(2, 2), nn.functional.cross_entropy
    batches = [(torch.randn(4, 2), torch.tensor([0, 1, 1, 0])) for _ in range(3)]
    seen = []
    for x, labels in batches:
        loss = criterion(model(x), labels)
        seen.append(torch.autograd.grad(loss, model.weight)[0].abs().numpy())
    expected = np.log((np.mean(seen, 0) / np.std(seen, 0, ddof=1)).sum())
    assert proxies.zico(model, batches) == pytest.approx(expected, rel=1e-4)


def test_ranks_are_combined():
    parts = np.array([[1.0, 5.0], [2.0, 4.0], [3.0, 6.0]])
    expected = np.log([1 / 3 * 2 / 3, 2 / 3 * 1 / 3, 1])
    assert proxies.combined(parts) == pytest.approx(expected)


def test_run_over_some_networks():
    table = make_table(keep=5)
    frames = torch.randint(0, 256, (128, 6, SIZE, SIZE, 3), dtype=torch.uint8)
    clips = MotionClips(frames, torch.arange(128) % 8, clip_len=6)
    found, _ = proxies.scores(table, clips, seed=0)
    assert found.keys() == {"parameters", "MACs", *proxies.MEASURED}
    assert all(np.isfinite(values).all() for values in found.values())
    rows = proxies.judge(table, [found])
    best = max(n.accuracy for n in table.values())
    first = list(table.values())[found["MACs"].argmax()]
    assert rows["MACs"]["regret"] == [pytest.approx(100 * (best - first.accuracy))]
