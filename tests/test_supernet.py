"""The supernet against the networks derived from it; where gradients arrive."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from torch import Tensor
from toys import space_of_all_families

from pvnas_mmaction.models import PVNASNet, PVNASSupernet
from pvnas_mmaction.models.relaxation import RELAXATIONS
from pvnas_mmaction.models.supernet import find_supernet, inherit_weights

CONFIGS = Path(__file__).parent.parent / "configs" / "pvnas" / "_base_"
TINY = Config.fromfile(CONFIGS / "spaces" / "tiny.py").space.to_dict()
SPACES = {"tiny": TINY, "all": space_of_all_families()}
# Odd after the stem, too.
SHAPE = (2, 3, 5, 17, 13)


def make_supernet(space: dict[str, Any], **options: Any) -> PVNASSupernet:
    torch.manual_seed(0)
    supernet = PVNASSupernet(space, **options)
    supernet.init_weights()
    for name, value in supernet.state_dict().items():
        if ".bn." in name and value.dim():
            low = 0.0 if name.endswith("mean") else 0.5
            value.copy_(torch.rand(value.shape) / 2 + low)
    return supernet


def clip() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))


def some_networks(supernet: PVNASSupernet) -> list[tuple[int, ...]]:
    """Networks that together hold every candidate of every layer."""
    sizes = supernet.counts
    shifts = range(max(sizes))
    return [tuple((i + k) % size for k, size in enumerate(sizes)) for i in shifts]


def derive(supernet: PVNASSupernet, indices: tuple[int, ...]) -> PVNASNet:
    net = PVNASNet(supernet.space.genotype(indices)).to(supernet.alphas.dtype)
    net.load_state_dict(inherit_weights(supernet.state_dict(), indices), strict=True)
    return net


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SPACES)
def test_one_hot_supernet_is_the_derived_network(name: str, training: bool) -> None:
    """With softmax at one-hot alphas, with the path of a genotype, and without any path
    (the most probable candidates), forward and gradient of the input."""
    supernet = make_supernet(SPACES[name]).double().train(training)
    for indices in some_networks(supernet):
        one_hot = [[-1e4] * count for count in supernet.counts]
        for row, index in zip(one_hot, indices, strict=True):
            row[index] = 1e4
        supernet.write_alphas(one_hot)
        results = []
        for way in ("derived", "softmax", "path_of", "argmax"):
            x = clip().double().requires_grad_()
            if way == "derived":
                y = derive(supernet, indices).train(training)(x)
            elif way == "argmax":
                y = supernet(x)
            elif way == "softmax":
                y = supernet(x, supernet.sample("softmax"))
            else:
                y = supernet(x, supernet.path_of(indices))
            assert y.abs().sum() > 0
            y.square().mean().backward()
            results.append((y.detach(), x.grad))
        for result in results[1:]:
            torch.testing.assert_close(result, results[0])


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_gradients_reach_exactly_what_was_sampled(relaxation: str) -> None:
    supernet = make_supernet(SPACES["all"])
    for seed in range(3):
        supernet.zero_grad(set_to_none=True)
        path = supernet.sample(relaxation, torch.Generator().manual_seed(seed))
        supernet(clip(), path).square().mean().backward()
        for layer, choice in zip(supernet.layers, path, strict=True):
            for index, op in enumerate(layer.ops):
                grads = [value.grad for value in op.parameters()]
                if index in choice.indices:
                    assert all(grad is not None for grad in grads)
                    assert not grads or any(grad.any() for grad in grads)
                else:
                    assert grads == [None] * len(grads)
        for part in (supernet.stem, supernet.head):
            assert all(value.grad.any() for value in part.parameters())
        if relaxation == "uniform":
            assert supernet.alphas.grad is None
            continue
        for row, count, choice in zip(
            supernet.alphas.grad, supernet.counts, path, strict=True
        ):
            reached = tuple(row.nonzero().flatten().tolist())
            if relaxation == "two_path":
                assert reached == tuple(sorted(choice.indices))
            else:
                assert reached == tuple(range(count))


def test_probabilities() -> None:
    supernet = PVNASSupernet(TINY)
    with torch.no_grad():
        supernet.alphas[0, 2] = math.log(4)
    expected = [1 / 7, 1 / 7, 4 / 7, 1 / 7]
    assert supernet.probabilities()[0].tolist() == pytest.approx(expected)
    assert supernet.sample("softmax")[0].weights.tolist() == pytest.approx(expected)
    assert supernet.probabilities()[1].tolist() == pytest.approx([0.25] * 4)
    assert [row.index(max(row)) for row in supernet.read_alphas()] == [2, 0, 0, 0]


def test_layers_may_differ_in_their_number_of_candidates() -> None:
    """Entries behind a layer's candidates have no part in anything."""
    space = space_of_all_families()
    space["stages"][1]["candidates"] = space["stages"][1]["candidates"][:2]
    supernet = make_supernet(space).eval()
    first, most, *_ = supernet.counts  # the first layer allows no skip
    assert supernet.counts == [first, most, 2, 2] and first < most
    assert supernet.alphas.shape == (4, most)
    with torch.no_grad():
        supernet.alphas[2:, 2:] = 9.0  # as a mishap might leave them
    p = supernet.probabilities()
    assert p[2:].tolist() == [[0.5, 0.5, *[0] * (most - 2)]] * 2
    assert [len(row) for row in supernet.read_alphas()] == supernet.counts
    assert [row.index(max(row)) for row in supernet.read_alphas()] == [0, 0, 0, 0]
    for name in RELAXATIONS:
        path = supernet.sample(name, torch.Generator().manual_seed(0))
        for choice, count in zip(path, supernet.counts, strict=True):
            assert max(choice.indices) < count
        if name == "uniform":
            continue
        supernet(clip(), path).square().mean().backward()
        assert not supernet.alphas.grad[2:, 2:].any()
        assert supernet.alphas.grad.isfinite().all() and supernet.alphas.grad.any()
    supernet.write_alphas([[1.0] * count for count in supernet.counts])
    assert supernet.alphas[2].tolist() == [1, 1, *[0] * (most - 2)]


def test_wrong_models() -> None:
    with pytest.raises(ValueError, match="model: expected one supernet, got 0"):
        find_supernet(torch.nn.Linear(1, 1))
