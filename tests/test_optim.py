"""The two optimisers of a search; Muon and AdamW in one, against PyTorch's own two."""

import copy

import pytest
import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict, build_optim_wrapper
from searching import build_toy_model, make_batch
from torch import nn

from pvnas_mmaction.engine.muon import MuonAdamW, orthogonalised
from pvnas_mmaction.engine.optim import BFloat16OptimWrapper
from pvnas_mmaction.search.distributed import SearchDataParallel
from pvnas_mmaction.search.steps import Steps


@pytest.fixture
def model() -> nn.Module:
    return build_toy_model(dropout_ratio=0)


def settings(**changes) -> dict:
    return dict(
        constructor="SearchOptimWrapperConstructor",
        weights=dict(optimizer=dict(type="SGD", lr=0.1, weight_decay=0.01)),
        alphas=dict(optimizer=dict(type="Adam", lr=0.2)),
        **changes,
    )


def held(wrappers: OptimWrapperDict, part: str) -> list[nn.Parameter]:
    groups = wrappers[part].optimizer.param_groups
    return [parameter for group in groups for parameter in group["params"]]


@pytest.mark.parametrize("wrap", [nn.Identity(), SearchDataParallel])
@pytest.mark.parametrize("paramwise", [None, {}, dict(norm_decay_mult=0.0)])
def test_each_parameter_is_in_one_group(model, wrap, paramwise):
    wrappers = build_optim_wrapper(wrap(model), settings(paramwise_cfg=paramwise))
    name_of = {id(p): name for name, p in model.named_parameters()}
    weights = [name_of[id(p)] for p in held(wrappers, "weights")]
    alphas = [name_of[id(p)] for p in held(wrappers, "alphas")]
    assert alphas == ["backbone.alphas"]
    assert sorted(weights + alphas) == sorted(name_of.values())


def test_wrong_settings(model):
    for changes, message in (
        (dict(bias=1), r"optim_wrapper: expected .*, got \['alphas', 'bias', 'weigh"),
        (dict(type="AmpOptimWrapper", dtype="float16"), "expected 'bfloat16', got 'fl"),
        (dict(type="AmpOptimWrapper", loss_scale=512.0), "loss_scale: .* got 512.0"),
    ):
        with pytest.raises(ValueError, match=message):
            build_optim_wrapper(model, settings(**changes))


@pytest.mark.parametrize("has_gpu", [False, True])
def test_mixed_precision_is_bfloat16(model, monkeypatch, has_gpu):
    """Inside; parameters, gradients and losses in float32. So it is with a GPU, too,
    where no gradient scaler could skip a step."""
    gradients = {}
    for precision in ("bfloat16", "float32"):
        twin = copy.deepcopy(model)
        amp = dict(type="AmpOptimWrapper", loss_scale="dynamic")  # as --amp sets it
        changes = amp if precision == "bfloat16" else {}
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "is_available", lambda: has_gpu)
            wrappers = build_optim_wrapper(twin, settings(**changes))
        expected = BFloat16OptimWrapper if changes else OptimWrapper
        assert all(type(w) is expected for w in wrappers.values())
        steps, dtypes = Steps(twin, wrappers["weights"], wrappers["alphas"]), set()
        twin.backbone.stem.spatial.conv.register_forward_hook(
            lambda module, args, out, dtypes=dtypes: dtypes.add(out.dtype)
        )
        seen = gradients[precision] = {"weights": [], "alphas": []}
        for part, step in (("alphas", steps.alpha_step), ("weights", None)):
            params = held(wrappers, part)
            handle = wrappers[part].optimizer.register_step_pre_hook(
                lambda *_, params=params, to=seen[part]: to.extend(
                    None if p.grad is None else p.grad.clone() for p in params
                )
            )
            with torch.set_grad_enabled(step is not None):
                path = steps.supernet.sample("softmax")
            log = (step or steps.weights_step)(make_batch(), path)
            handle.remove()
            losses = {n: v.dtype for n, v in log.items() if n.endswith("loss")}
            assert set(losses.values()) == {torch.float32}
        assert dtypes == {getattr(torch, precision)}
        assert {p.dtype for p in twin.parameters()} == {torch.float32}
        assert {g.dtype for g in seen["alphas"] + seen["weights"]} == {torch.float32}
    for part in ("alphas", "weights"):
        rough, exact = (
            torch.cat([g.flatten() for g in gradients[p][part]])
            for p in ("bfloat16", "float32")
        )
        assert not torch.equal(rough, exact)
        assert torch.cosine_similarity(rough, exact, dim=0) > 0.9


# -- Muon --------------------------------------------------------------------------

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
