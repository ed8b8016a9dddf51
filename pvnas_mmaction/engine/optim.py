# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Optimisers of a search: one for the weights, one for the alphas."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import torch
from mmaction.registry import (
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
)
from mmengine.model import is_model_wrapper
from mmengine.optim import (
    AmpOptimWrapper,
    DefaultOptimWrapperConstructor,
    OptimWrapper,
    OptimWrapperDict,
)
from torch import Tensor, nn

from ..search.schedule import AUTO
from ..space.checks import wrong


class _Float32Scores:
    """Gives a head's scores in float32: MMAction2's heads hand them to NumPy, which has
    no bfloat16."""

    @contextmanager
    def optim_context(self, model: nn.Module):
        head = getattr(unwrap(model), "cls_head", None)
        handle = head and head.register_forward_hook(_to_float)
        try:
            with super().optim_context(model):
                yield
        finally:
            if handle:
                handle.remove()


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(_Float32Scores, AmpOptimWrapper):
    """MMEngine's ``AmpOptimWrapper`` with bfloat16 on an accelerator.

    Args:
        dtype: Only ``"bfloat16"``. Default that.
        **kwargs: As for ``AmpOptimWrapper``.

    Raises:
        ValueError: Another dtype.
    """

    def __init__(self, dtype="bfloat16", **kwargs) -> None:
        if not is_bfloat16(dtype):
            raise ValueError(
                f"dtype: found {dtype!r}, expected 'bfloat16'; other types are of "
                "AmpOptimWrapper"
            )
        super().__init__(dtype="bfloat16", **kwargs)


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(_Float32Scores, OptimWrapper):
    """Mixed precision on the CPU: autocast to bfloat16, which needs no loss scale.

    MMEngine's ``AmpOptimWrapper`` is for accelerators only.

    Args:
        loss_scale: Accepted so that configs need not differ; bfloat16 has the exponent
            range of float32, so anything but ``"dynamic"`` or 1 is refused.
        dtype: Only ``"bfloat16"``. Default that.
        **kwargs: As for ``OptimWrapper``.

    Raises:
        ValueError: Another dtype, or a static loss scale.
    """

    def __init__(self, loss_scale="dynamic", dtype="bfloat16", **kwargs) -> None:
        super().__init__(**kwargs)
        if not is_bfloat16(dtype):
            raise ValueError(f"dtype: found {dtype!r}, expected 'bfloat16' on CPU")
        if loss_scale not in ("dynamic", 1):
            raise ValueError(
                f"loss_scale: found {loss_scale!r}, expected 'dynamic': bfloat16 is "
                "not scaled"
            )

    @contextmanager
    def optim_context(self, model: nn.Module):
        with super().optim_context(model), torch.autocast("cpu", torch.bfloat16):
            yield


def is_bfloat16(dtype: str | torch.dtype | None) -> bool:
    """Whether a ``dtype`` of an optimiser wrapper is bfloat16."""
    return str(dtype).removeprefix("torch.") == "bfloat16"


def _to_float(module: nn.Module, inputs: tuple, scores: Tensor) -> Tensor:
    return scores.float()


def unwrap(model: nn.Module) -> nn.Module:
    """The model without its wrapper for many processes."""
    return model.module if is_model_wrapper(model) else model


def split_parameters(model: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the weights and of the alphas of a model that holds a supernet.

    Raises:
        ValueError: The model has no alphas.
    """
    weights: list[str] = []
    alphas: list[str] = []
    for name, _ in model.named_parameters():
        (alphas if "alphas" in name.split(".") else weights).append(name)
    if not alphas:
        raise ValueError(
            "model: found no alphas, expected a supernet; set "
            "model.backbone.type='PVNASSupernet' to search"
        )
    return weights, alphas


class _WeightsConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's constructor for all parameters but the alphas."""

    def add_params(self, params, module, prefix="", is_dcn_module=None) -> None:
        if prefix.split(".")[-1] != "alphas":
            super().add_params(params, module, prefix, is_dcn_module)
        if not prefix:
            params[:] = _merge_groups(params)


def _merge_groups(groups: list[dict]) -> list[dict]:
    """Join groups of the same settings, so that one call updates many parameters."""
    merged: dict[tuple, dict] = {}
    for group in groups:
        settings = {key: value for key, value in group.items() if key != "params"}
        key = tuple(sorted(settings.items()))
        merged.setdefault(key, {"params": [], **settings})
        merged[key]["params"].extend(group["params"])
    return list(merged.values())


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class SearchOptimWrapperConstructor:
    """Builds ``OptimWrapperDict(weights=..., alphas=...)``.

    Args:
        optim_wrapper_cfg: ``weights`` and ``alphas``, each the config of an optimiser
            wrapper. ``type``, ``loss_scale`` and ``dtype`` beside them are those of
            MMAction2's ``--amp``: they hold for both (on a machine without accelerator
            as :class:`CPUAmpOptimWrapper`). The alphas themselves stay in float32.
        paramwise_cfg: As in MMEngine, for the weights. Default None.

    Raises:
        ValueError: A missing or unknown key, or a model without alphas.
    """

    def __init__(
        self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None
    ) -> None:
        config = copy.deepcopy(dict(optim_wrapper_cfg))  # wrappers take keys out of it
        shared = {
            key: config.pop(key)
            for key in ("type", "loss_scale", "dtype")
            if key in config
        }
        if set(config) != {"weights", "alphas"}:
            raise ValueError(
                f"optim_wrapper: found the keys {sorted(config)}, expected 'weights' "
                "and 'alphas', each with an optimizer"
            )
        if shared.get("type") == "AmpOptimWrapper":
            if not torch.cuda.is_available():
                shared["type"] = "CPUAmpOptimWrapper"
            elif is_bfloat16(shared.get("dtype")):
                shared["type"] = "BFloat16OptimWrapper"
        self.configs = {
            name: {"type": "OptimWrapper", **wrapper, **shared}
            for name, wrapper in config.items()
        }
        self.paramwise_cfg = paramwise_cfg

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        model = unwrap(model)
        weight_names, alpha_names = split_parameters(model)
        # An empty paramwise_cfg would make MMEngine take model.parameters() whole.
        paramwise = {"bypass_duplicate": False, **(self.paramwise_cfg or {})}
        weights = _WeightsConstructor(self.configs["weights"], paramwise)(model)
        parameters = dict(model.named_parameters())
        alphas_cfg = dict(self.configs["alphas"])
        optimizer = build_alphas_optimizer(
            alphas_cfg.pop("optimizer"), [parameters[n] for n in alpha_names]
        )
        alphas = OPTIM_WRAPPERS.build(
            dict(alphas_cfg), default_args=dict(optimizer=optimizer)
        )
        check_partition(
            parameters,
            {"weights": weights.optimizer, "alphas": alphas.optimizer},
            {"weights": weight_names, "alphas": alpha_names},
        )
        return OptimWrapperDict(weights=weights, alphas=alphas)


def build_alphas_optimizer(
    config: dict, parameters: list[nn.Parameter]
) -> torch.optim.Optimizer:
    """The optimiser of the alphas; its ``lr`` may be ``"auto"``, the default.

    Then ``defaults["lr"]`` is that word, for the schedule to read, while the parameter
    groups have a rate of 1 until the schedule sets one.

    Raises:
        ValueError: An automatic rate for another optimiser than Adam.
    """
    config = {"lr": AUTO, **config, "params": parameters}
    if config["lr"] != AUTO:
        return OPTIMIZERS.build(config)
    optimizer = OPTIMIZERS.build({**config, "lr": 1.0})
    if not isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        raise wrong(
            "optim_wrapper.alphas.optimizer.lr",
            f"a number with {config['type']}",
            repr(AUTO),
            f"{AUTO!r} counts on the steps of Adam",
        )
    optimizer.defaults["lr"] = AUTO
    return optimizer


def built_lr(optimizer: torch.optim.Optimizer) -> float:
    """The learning rate with which an optimiser was built."""
    rate = optimizer.defaults["lr"]
    return 1.0 if rate == AUTO else rate


def check_partition(
    parameters: dict[str, nn.Parameter],
    optimizers: dict[str, torch.optim.Optimizer],
    names: dict[str, list[str]],
) -> None:
    """Assert that each optimiser holds exactly its own parameters, each once."""
    for part, optimizer in optimizers.items():
        held = [
            id(parameter)
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]
        own = {id(parameters[name]) for name in names[part]}
        assert len(held) == len(set(held)) and set(held) == own, (
            f"the optimiser of the {part} does not hold exactly the {part}"
        )
