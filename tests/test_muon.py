# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Muon and AdamW in one optimiser, against PyTorch's own two."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pvnas_mmaction.engine.muon import MuonAdamW, orthogonalised

RATES = dict(lr=0.01, muon_lr=0.05, muon_momentum=0.8, weight_decay=0.1)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv3d(3, 8, (1, 3, 3), padding=(0, 1, 1), bias=False),
        nn.BatchNorm3d(8),
        nn.ReLU(),
        nn.Conv3d(8, 8, 3, groups=8, padding=1, bias=False),
        nn.Conv3d(8, 4, 1),
        nn.Conv3d(4, 12, 1, bias=False),  # more rows than columns
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(12, 2),
    )


def gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 3, 2, 6, 6, generator=generator)
    model.zero_grad()
    nn.functional.cross_entropy(model(x), torch.tensor([0, 1, 1, 0])).backward()


def test_orthogonal_matrix_of_the_same_singular_vectors() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((6, 10), (10, 6), (5, 5)):
        matrix = torch.randn(shape, generator=generator)
        u, values, vh = torch.linalg.svd(matrix, full_matrices=False)
        assert values.max() / values.min() > 1.5
        found = u.T @ orthogonalised(matrix).float() @ vh.T
        assert ((found.diagonal() > 0.6) & (found.diagonal() < 1.3)).all()
        # bfloat16 has three digits.
        assert (found - found.diagonal().diag()).abs().max() < 0.05
        scaled = orthogonalised(1024 * matrix)
        assert torch.equal(scaled, orthogonalised(matrix))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9")
def test_steps_are_those_of_both_optimisers() -> None:
    ours, theirs = network(), network()
    optimizer = MuonAdamW(ours.parameters(), **RATES)
    mixing = [theirs[index].weight for index in (0, 4, 5)]
    rest = [p for p in theirs.parameters() if all(p is not m for m in mixing)]
    rows = [nn.Parameter(weight.detach().flatten(1)) for weight in mixing]
    muon = torch.optim.Muon(rows, lr=0.05, momentum=0.8, weight_decay=0.1)
    adamw = torch.optim.AdamW(rest, lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    start = copy.deepcopy(list(ours.parameters()))
    for step in range(5):
        gradients(ours, step)
        gradients(theirs, step)
        optimizer.step()
        for row, weight in zip(rows, mixing, strict=True):
            row.grad = weight.grad.flatten(1)
        muon.step()
        adamw.step()
    for before, a, b in zip(start, ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)
        assert not torch.equal(a, before)


def test_groups_have_rates_of_their_own() -> None:
    model = network()
    slow = dict(params=list(model[4].parameters()), lr=0.005)
    rest = [p for name, p in model.named_parameters() if not name.startswith("4.")]
    optimizer = MuonAdamW([dict(params=rest), slow], **RATES)
    found = [(g["muon"], g["lr"], len(g["params"])) for g in optimizer.param_groups]
    assert found == [
        (False, 0.01, 5),
        (True, 0.05, 2),
        (False, 0.005, 1),
        (True, 0.025, 1),
    ]
    assert optimizer.defaults["lr"] == 0.01
    # In the end every parameter stands in one group.
    members = [id(p) for g in optimizer.param_groups for p in g["params"]]
    assert sorted(members) == sorted(map(id, model.parameters()))
