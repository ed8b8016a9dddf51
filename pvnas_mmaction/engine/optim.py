"""Optimisers of a search: one for the weights, one for the alphas."""

import copy
from contextlib import contextmanager

import torch
from mmaction.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from mmengine.model import is_model_wrapper
from mmengine.optim import (
    DefaultOptimWrapperConstructor,
    OptimWrapper,
    OptimWrapperDict,
)
from torch import nn

from ..models.supernet import find_supernet
from ..search.schedule import AUTO
from ..space.checks import wrong


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Mixed precision in bfloat16, on any device: MMEngine's ``AmpOptimWrapper`` is for
    accelerators only, and heads give scores to NumPy, which has no bfloat16."""

    def __init__(self, loss_scale="dynamic", dtype="bfloat16", **kwargs) -> None:
        super().__init__(**kwargs)
        if not is_bfloat16(dtype):
            raise wrong("optim_wrapper.dtype", "'bfloat16'", repr(dtype))
        if loss_scale != "dynamic":
            raise wrong("optim_wrapper.loss_scale", "'dynamic'", repr(loss_scale))

    @contextmanager
    def optim_context(self, model: nn.Module):
        device = next(model.parameters()).device.type
        head = getattr(unwrap(model), "cls_head", None)
        handle = head and head.register_forward_hook(
            lambda module, inputs, scores: scores.float()
        )
        try:
            with super().optim_context(model), torch.autocast(device, torch.bfloat16):
                yield
        finally:
            if handle:
                handle.remove()


def is_bfloat16(dtype: str | torch.dtype | None) -> bool:
    return str(dtype).removeprefix("torch.") == "bfloat16"


def unwrap(model: nn.Module) -> nn.Module:
    """The model without its wrapper for many processes."""
    return model.module if is_model_wrapper(model) else model


class _WeightsConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's constructor for all parameters but the alphas."""

    def add_params(self, params, module, prefix="", is_dcn_module=None) -> None:
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:
            return
        alphas, merged = find_supernet(module).alphas, {}
        for group in params:  # one for all parameters of the same settings
            (parameter,) = group.pop("params")
            if parameter is not alphas:
                key = tuple(sorted(group.items()))
                merged.setdefault(key, {"params": [], **group})
                merged[key]["params"].append(parameter)
        params[:] = merged.values()


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class SearchOptimWrapperConstructor:
    """Builds ``OptimWrapperDict(weights=..., alphas=...)``.

    Mixed precision is bfloat16 on every device: in float16 the gradient of a mixing
    weight, one number for a whole feature map, overflows. The alphas stay in float32.

    Args:
        optim_wrapper_cfg: Configs of two wrappers; ``type``, ``loss_scale`` and
            ``dtype`` next to them, as ``--amp`` sets them, hold for both.
        paramwise_cfg: As in MMEngine, for the weights. Default None.
    """

    def __init__(
        self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None
    ) -> None:
        config = copy.deepcopy(dict(optim_wrapper_cfg))  # wrappers take keys out of it
        names = ("type", "loss_scale", "dtype")
        shared = {name: config.pop(name) for name in names if name in config}
        if set(config) != {"weights", "alphas"}:
            expected = "the keys 'weights' and 'alphas', each with an optimizer"
            raise wrong("optim_wrapper", expected, str(sorted(config)))
        self.configs, self.paramwise_cfg = {}, paramwise_cfg
        for name, wrapper in config.items():
            wrapper = {"type": "OptimWrapper", **wrapper, **shared}
            if wrapper["type"] == "AmpOptimWrapper":
                wrapper["type"] = "BFloat16OptimWrapper"
            self.configs[name] = wrapper

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        model = unwrap(model)
        found = find_supernet(model).alphas
        # An empty paramwise_cfg would make MMEngine take model.parameters() whole.
        paramwise = {"bypass_duplicate": False, **(self.paramwise_cfg or {})}
        weights = _WeightsConstructor(self.configs["weights"], paramwise)(model)
        # Of "auto", the default, a schedule makes a rate; 1 stands for it until then.
        config = self.configs["alphas"]
        settings = dict(config["optimizer"], params=[found])
        rate = settings.pop("lr", AUTO)
        settings["lr"] = 1.0 if rate == AUTO else rate
        optimizer = config["optimizer"] = OPTIMIZERS.build(settings)
        adams = torch.optim.Adam | torch.optim.AdamW
        if rate == AUTO and not isinstance(optimizer, adams):
            expected = f"a number with {settings['type']}"
            hint = f"{AUTO!r} counts on the steps of Adam"
            raise wrong("optim_wrapper.alphas.optimizer.lr", expected, repr(AUTO), hint)
        optimizer.defaults["lr"] = rate
        alphas = OPTIM_WRAPPERS.build(config)
        return OptimWrapperDict(weights=weights, alphas=alphas)
