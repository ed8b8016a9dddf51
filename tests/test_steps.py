"""Weights step and alpha step: each moves its own parameters by the right gradient."""

import copy
from collections import Counter

import pytest
import torch
from mmengine.optim import OptimWrapper
from searching import SPACE, STAGE, build_toy_model, make_batch, toy_optimizers
from torch import Tensor, nn
from torch.nn import functional as F

from pvnas_mmaction.search.derive import Budget
from pvnas_mmaction.search.penalty import CostPenalty
from pvnas_mmaction.search.steps import Steps, judge
from pvnas_mmaction.space.cost_table import CostTable


@pytest.fixture
def model() -> nn.Module:
    return build_toy_model(dropout_ratio=0)


def loss_by_hand(model: nn.Module, batch: dict, mix: list[Tensor]) -> Tensor:
    """Cross-entropy of the network whose layer l is sum_o mix[l][o] * o(x)."""
    supernet = model.backbone
    x = supernet.stem(torch.cat(batch["inputs"]))
    for layer, weights in zip(supernet.layers, mix, strict=True):
        x = sum(w * op(x) for w, op in zip(weights, layer.ops, strict=True))
    features = supernet.head(x).mean((2, 3, 4))
    logits = features @ model.cls_head.fc_cls.weight.T + model.cls_head.fc_cls.bias
    labels = torch.cat([s.gt_label for s in batch["data_samples"]])
    return F.cross_entropy(logits, labels)


def move(wrapper: OptimWrapper, step, *args) -> list[Tensor]:
    """How a step moves the parameters of an optimiser."""
    parameters = wrapper.optimizer.param_groups[0]["params"]
    before = [p.detach().clone() for p in parameters]
    step(*args)
    return [p.detach() - old for p, old in zip(parameters, before, strict=True)]


def make_steps(model: nn.Module, lr: float = 1.0, **settings) -> Steps:
    return Steps(model, **toy_optimizers(model, lr, **settings))


@pytest.mark.parametrize("with_penalty", [False, True])
@pytest.mark.parametrize("relaxation", ["softmax", "two_path"])
def test_alpha_gradient_is_that_of_the_mixture_written_out(
    model, relaxation, with_penalty
):
    steps, batch = make_steps(model), make_batch()
    supernet = steps.supernet
    penalty = None
    if with_penalty:
        rows = [[1.0 + i for i in range(count)] for count in supernet.counts]
        table = CostTable("flops", "MACs", 2.0, rows)
        penalty = CostPenalty(Budget(table, 5.0))
        penalty.weight = 0.7
    path = supernet.sample(relaxation, torch.Generator().manual_seed(3))

    twin = copy.deepcopy(model)
    alphas = [a.detach().clone().requires_grad_() for a in supernet.alphas]
    mix = []
    for alpha, choice in zip(alphas, path, strict=True):
        # p renormalised over the pair is a softmax over the pair alone.
        mask = torch.full_like(alpha, float("-inf"))
        mask[list(choice.indices)] = 0
        mix.append(torch.softmax(alpha + mask, 0))
    loss = loss_by_hand(twin, batch, mix)
    cross_entropy = loss.item()
    if with_penalty:
        costs = [1.0 + torch.arange(len(alpha)) for alpha in alphas]
        expected = 2.0 + sum(
            (torch.softmax(a, 0) * c).sum() for a, c in zip(alphas, costs, strict=True)
        )
        loss = loss + 0.7 * (expected / 5.0).log().abs()
    gradients = torch.stack(torch.autograd.grad(loss, alphas))

    logged = {}
    (moved,) = move(
        steps.alphas, lambda: logged.update(steps.alpha_step(batch, path, penalty))
    )
    assert gradients.abs().amax(1).min() > 1e-4
    torch.testing.assert_close(moved, -gradients, rtol=1e-4, atol=1e-6)
    assert float(logged["alpha_loss"]) == pytest.approx(cross_entropy, rel=1e-5)


def test_weights_gradient_is_that_of_the_sampled_network(model):
    steps, batch = make_steps(model), make_batch()
    with torch.no_grad():
        path = steps.supernet.sample("gumbel_st", torch.Generator().manual_seed(3))
    twin = copy.deepcopy(model)
    one_hot = [
        torch.eye(count)[choice.indices[0]]
        for count, choice in zip(steps.supernet.counts, path, strict=True)
    ]
    loss_by_hand(twin, batch, one_hot).backward()
    moved = move(steps.weights, steps.weights_step, batch, path)
    gradients = [p.grad for n, p in twin.named_parameters() if "alphas" not in n]
    for difference, gradient in zip(moved, gradients, strict=True):
        if gradient is None:
            gradient = torch.zeros_like(difference)
        torch.testing.assert_close(difference, -gradient, rtol=1e-3, atol=1e-5)


def test_shared_weights_learn_from_all_that_have_them():
    specs = ["mb_t1_k3_e4", "ts_t3_k3_e2", "mb_t3_k3_e2", "mb3d_t3_k3_e2", "skip"]
    space = {**SPACE, "stages": [{**STAGE, "candidates": specs}]}
    models = [build_toy_model(space, share, dropout_ratio=0) for share in (True, False)]
    shared, apart = map(make_steps, models)
    owners = shared.owners = shared.supernet.share_weights()
    models[1].load_state_dict(models[0].state_dict())
    paths = [shared.supernet.path_of(path) for path in ([1, 2, 3], [0, 0, 4])]
    moves = []
    for steps in (shared, apart):
        moved = move(steps.weights, steps.weights_step, make_batch(), *paths)
        names = [n for n, _ in steps.model.named_parameters() if "alphas" not in n]
        moves.append(dict(zip(names, moved, strict=True)))
    parameters = dict(models[0].named_parameters())
    for name, moved in moves[1].items():
        owner = owners.get(parameters[name], parameters[name])
        if owner is not parameters[name]:
            o, i = moved.shape[:2]
            (whole,) = (n for n, p in parameters.items() if p is owner)
            moves[1][whole][:o, :i] += moved
            assert torch.equal(parameters[name], owner[:o, :i])
    for name in (name for name in moves[1] if parameters[name] not in owners):
        torch.testing.assert_close(moves[0][name], moves[1][name], msg=name)
    # All but skip and the joint kernel; that has the others' expansion and projection.
    kinds = Counter(n.split(".")[-3] for n, p in parameters.items() if p in owners)
    assert kinds == dict(expand=9, project=9, spatial=6)


def test_each_step_leaves_the_rest_bitwise_alone(model):
    weights = [p for n, p in model.named_parameters() if "alphas" not in n]
    # Weight decay and momentum would move what should rest.
    sgd = torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.1)
    adam = torch.optim.Adam([model.backbone.alphas], lr=0.1, weight_decay=0.1)
    steps, batch = Steps(model, OptimWrapper(sgd), OptimWrapper(adam)), make_batch()
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        state = copy.deepcopy(model.state_dict())
        with torch.no_grad():
            path = steps.supernet.sample("softmax", generator)
        steps.weights_step(batch, path)
        for name, value in model.state_dict().items():
            if "alphas" in name:
                assert torch.equal(value, state[name])
            elif name.endswith(("running_mean", "fc_cls.weight")):
                assert not torch.equal(value, state[name])
        assert all(p.grad is None for p in model.parameters())

        state = copy.deepcopy(model.state_dict())
        steps.alpha_step(batch, steps.supernet.sample("two_path", generator))
        # Batch normalisation's running statistics and counters among them.
        for name, value in model.state_dict().items():
            assert torch.equal(value, state[name]) == ("alphas" not in name), name
        assert all(p.grad is None for p in model.parameters())
        assert all(p.requires_grad for p in model.parameters())
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm3d)]
        assert all(m.track_running_stats for m in norms)


class _Classifier(nn.Module):
    """A recognizer of vectors with normalisation in backbone and head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3))
        self.cls_head = nn.BatchNorm1d(3)

    def data_preprocessor(self, batch: dict, training: bool) -> dict:
        return batch

    def forward(self, inputs: Tensor, mode: str) -> Tensor:
        x = self.backbone(inputs)
        return x if mode == "tensor" else self.cls_head(x)


def test_reestimated_batch_norm_averages_over_the_batches():
    torch.manual_seed(0)
    model = _Classifier().train()
    for _ in range(3):  # statistics that must not shine through
        model(torch.randn(4, 3) + 5, mode="loss")
    model.backbone[0].momentum = 0.3
    before = copy.deepcopy(model.state_dict())
    # Batches of unequal size count alike: it is their mean that is averaged.
    batches = [torch.randn(n, 3) * n for n in (4, 6, 8)]

    def validate(model: nn.Module) -> float:
        inputs = {model.backbone[0]: batches, model.cls_head: []}
        for batch in batches:
            mean, var = batch.mean(0), batch.var(0, unbiased=False)
            normed = (batch - mean) / (var + 1e-5).sqrt()
            inputs[model.cls_head].append(model.backbone[1](normed).detach())
        for module, seen in inputs.items():
            means = torch.stack([b.mean(0) for b in seen]).mean(0)
            variances = torch.stack([b.var(0) for b in seen]).mean(0)
            torch.testing.assert_close(module.running_mean, means)
            torch.testing.assert_close(module.running_var, variances)
            assert int(module.num_batches_tracked) == 3
        return 0.5

    assert judge(model, [dict(inputs=b) for b in batches], validate, seed=0) == 0.5
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert (model.backbone[0].momentum, model.cls_head.momentum) == (0.3, 0.1)
    assert model.training
