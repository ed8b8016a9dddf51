# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The two optimisers of a search: who holds what, mixed precision, accumulation."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict, build_optim_wrapper
from searching import build_toy_model, make_batch
from torch import nn

from pvnas_mmaction.engine.optim import BFloat16OptimWrapper
from pvnas_mmaction.search.distributed import SearchDataParallel
from pvnas_mmaction.search.steps import Steps

NORMS = nn.modules.batchnorm._BatchNorm


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(bias=1),
            r"optim_wrapper: expected .*, got \['alphas', 'bias', 'weights'",
        ),
        (dict(type="AmpOptimWrapper", dtype="float16"), "expected 'bfloat16', got 'fl"),
        (dict(type="AmpOptimWrapper", loss_scale=512.0), "loss_scale: .* got 512.0"),
    ],
)
def test_wrong_settings(model, changes, message):
    with pytest.raises(ValueError, match=message):
        build_optim_wrapper(model, settings(**changes))


def gradients_seen(wrapper, seen: list) -> Callable[[], None]:
    """Record the gradients with which an optimiser steps."""

    def record(*_):
        params = wrapper.optimizer.param_groups[0]["params"]
        seen.extend(None if p.grad is None else p.grad.clone() for p in params)

    return wrapper.optimizer.register_step_pre_hook(record)


@pytest.mark.parametrize("has_gpu", [False, True])
def test_mixed_precision_is_bfloat16(model, monkeypatch, has_gpu):
    """Inside; parameters, gradients and losses in float32. So it is with a GPU, too,
    where no gradient scaler could skip a step."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    gradients = {}
    for precision in ("bfloat16", "float32"):
        twin = copy.deepcopy(model)
        amp = dict(type="AmpOptimWrapper", loss_scale="dynamic")  # as --amp sets it
        changes = amp if precision == "bfloat16" else {}
        wrappers = build_optim_wrapper(twin, settings(**changes))
        expected = BFloat16OptimWrapper if changes else OptimWrapper
        assert all(type(w) is expected for w in wrappers.values())
        steps, dtypes = Steps(twin, wrappers["weights"], wrappers["alphas"]), set()
        twin.backbone.stem.spatial.conv.register_forward_hook(
            lambda module, args, out, dtypes=dtypes: dtypes.add(out.dtype)
        )
        seen = gradients[precision] = {"weights": [], "alphas": []}
        for part, step in (("alphas", steps.alpha_step), ("weights", None)):
            handle = gradients_seen(wrappers[part], seen[part])
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


@pytest.mark.parametrize("part", ["weights", "alphas"])
def test_two_accumulated_batches_are_one_of_twice_the_size(model, part):
    for module in model.modules():
        if isinstance(module, NORMS):
            module.eval()  # a batch then is nothing but its clips
    whole = make_batch(8)
    halves = [{key: value[i : i + 4] for key, value in whole.items()} for i in (0, 4)]
    results = {}
    for counts, batches in ((1, [whole]), (2, halves)):
        twin = copy.deepcopy(model)
        config = settings()
        config[part]["accumulative_counts"] = counts
        config[part]["optimizer"] = dict(type="SGD", lr=1.0)
        wrappers = build_optim_wrapper(twin, config)
        wrappers[part].initialize_count_status(twin, 0, -1)
        steps = Steps(twin, wrappers["weights"], wrappers["alphas"])
        for number, batch in enumerate(batches, start=1):
            # The same draw each time, as another step would only blur the comparison.
            generator = torch.Generator().manual_seed(0)
            with torch.set_grad_enabled(part == "alphas"):
                path = steps.supernet.sample("two_path", generator)
            step = steps.weights_step if part == "weights" else steps.alpha_step
            step(batch, path)
            moved = any(
                not torch.equal(a, b)
                for a, b in zip(twin.parameters(), model.parameters(), strict=True)
            )
            assert moved == (number == len(batches))
        results[counts] = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        once, twice = results[1][name], results[2][name]
        torch.testing.assert_close(once, twice, rtol=1e-4, atol=1e-6)
        if "alphas" in name:
            assert torch.equal(once, parameter) == (part == "weights")
