"""A checkpoint of another network is an error; one of the same network loads."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.runner import load_checkpoint
from torch import nn
from toys import build_recognizer, one_genotype_per_family, space_of_all_families

from pvnas_mmaction.models import PVNASNet, PVNASSupernet
from pvnas_mmaction.models.blocks import fold_batch_norm

GENOTYPES = one_genotype_per_family()
SPACE = space_of_all_families()
MB = GENOTYPES["mb"]
NET = dict(type="PVNASNet", genotype=MB)
SKIPPED = dict(MB, blocks=[*MB["blocks"][:3], "skip"])

# What was saved, what loads it, and parts of the message.
MISMATCHES: list[tuple[Any, Any, str]] = [
    # In each of three layers two convolutions for one.
    (lambda: PVNASNet(GENOTYPES["mb3d"]), lambda: PVNASNet(MB),
     r"expected the genotype of space 'all' with blocks mb_t3_k3_e2.25_se skip .*, "
     r"got another network: 33 parameters differ, first of them layers.0"),
    (lambda: PVNASNet(MB), lambda: PVNASNet(SKIPPED), r"layers.3.expand.conv.weight: "),
    (lambda: PVNASSupernet(SPACE), lambda: PVNASNet(MB), "derive a network from it"),
    (lambda: PVNASNet(MB), lambda: PVNASSupernet(SPACE), "no checkpoint of a search"),
    (lambda: PVNASSupernet(dict(SPACE, name="other", head_channels=24)),
     lambda: PVNASSupernet(SPACE), r" 5 parameters differ.*take the config"),
    (lambda: build_recognizer(NET), lambda: PVNASNet(MB), "say prefix='backbone.' n"),
]  # fmt: skip


def same(a: nn.Module, b: nn.Module) -> bool:
    states = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(x[0] == y[0] and torch.equal(x[1], y[1]) for x, y in states)


@pytest.mark.parametrize(
    ("source", "target", "message"), MISMATCHES, ids=range(len(MISMATCHES))
)
def test_another_network(
    source: Any, target: Any, message: str, tmp_path: Path
) -> None:
    """By MMEngine's way, which only warns, and by PyTorch's; nothing is copied."""
    path, model = tmp_path / "checkpoint.pth", target()
    torch.save(dict(state_dict=source().state_dict()), path)
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match="checkpoint: .*" + message):
        load_checkpoint(model, str(path), strict=False)
    with pytest.raises(ValueError, match="checkpoint: .*" + message):
        model.load_state_dict(source().state_dict(), strict=False)
    assert same(model, before)


@pytest.mark.parametrize("source", [PVNASNet(MB), PVNASSupernet(SPACE)])
def test_copies_and_wrappers_load_and_check(source: nn.Module) -> None:
    for copied in (
        copy.deepcopy(source),
        pickle.loads(pickle.dumps(source)),
        torch.compile(source, backend="eager"),
        ExponentialMovingAverage(source),
    ):
        copied.load_state_dict(copied.state_dict(), strict=True)
        with pytest.raises(ValueError, match=r"checkpoint: .* got another network"):
            copied.load_state_dict({}, strict=False)


def test_a_folded_network_loads_its_own_checkpoint() -> None:
    nets = [PVNASNet(MB) for _ in range(2)]
    training_state = copy.deepcopy(nets[0].state_dict())
    for net in nets:
        fold_batch_norm(net.eval())
    nets[1].load_state_dict(nets[0].state_dict(), strict=True)
    assert same(*nets)
    with pytest.raises(ValueError, match=r"stem\.spatial\.conv\.bias: .* got none"):
        nets[1].load_state_dict(training_state, strict=False)
