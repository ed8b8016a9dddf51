"""Whether the choice of a search can be trusted, in figures that are known here."""

import pytest
import torch
from searching import build_toy_model, make_batch

from pvnas_mmaction.search.diagnostics import MEANINGS, diagnose
from pvnas_mmaction.search.donor_warmup import block_losses

NETWORK = (1, 0, 1)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = build_toy_model()
    for parameter in model.parameters():  # zero batch norms would hide everything
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.train()


def found(model, batches, sign=-1.0):
    _, rows = block_losses(model, NETWORK, batches)
    p = [torch.softmax(sign * torch.tensor(row), 0).tolist() for row in rows]
    return diagnose(model, NETWORK, p, batches)


def test_p_that_follows_what_blocks_are_worth_agrees(model):
    batches = [make_batch(8, 1), make_batch(8, 1)]
    values = found(model, batches)
    assert values.keys() == MEANINGS.keys()
    assert values["agreement"] == pytest.approx(1)
    assert values["stability"] == pytest.approx(1)  # both halves are the same clips
    assert found(model, batches, sign=1.0)["agreement"] == pytest.approx(-1)


def test_other_clips_say_other_things(model):
    values = found(model, [make_batch(4, seed) for seed in range(4)])
    assert -1 < values["stability"] < 1
    assert found(model, [make_batch(8, 1)])["stability"] is None


def test_gap_is_to_networks_with_one_block_drawn_from_p(model):
    batches = [make_batch(8, 1)]
    own, rows = block_losses(model, NETWORK, batches)
    other = [row.index(max(row)) for row in rows]
    p = [
        [float(i == j) for j in range(len(row))]
        for i, row in zip(other, rows, strict=True)
    ]
    expected = own - sum(map(max, rows)) / len(rows)
    assert expected < 0
    assert diagnose(model, NETWORK, p, batches)["gap"] == pytest.approx(expected)


def test_share_of_skips(model):
    candidates = model.backbone.space.candidates
    network = [row.index("skip") if "skip" in row else 0 for row in candidates]
    number = sum("skip" in row for row in candidates)
    p = [[1 / len(row)] * len(row) for row in candidates]
    values = diagnose(model, network, p, [make_batch(8, 1)])
    assert 0 < values["skips"] == pytest.approx(number / len(candidates))
    assert values["agreement"] is None  # p knows no order


def test_nothing_is_changed(model):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    batches = [make_batch(8, 1)]
    random = torch.get_rng_state()
    found(model, batches)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
