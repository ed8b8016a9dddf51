"""A learning rate that follows from the length of a training, also a resumed one."""

import math
from typing import Any

from mmaction.registry import PARAM_SCHEDULERS
from mmengine.optim import _ParamScheduler
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.runner import Runner

from ..space.checks import check, in_range, wrong

# What of a scheduler's state is how far it is, not how it is set.
_PROGRESS = ("last_step", "_global_step", "_last_value", "base_values", "verbose")


@PARAM_SCHEDULERS.register_module()
class WarmupCosineLR(LRSchedulerMixin, _ParamScheduler):
    """A linear warm-up, then one cosine to zero at the end of the training.

    With ``n`` steps and ``w = round(warmup * n)`` the factor on the learning rate is
    ``start_factor + (1 - start_factor) * t / w`` before step ``w``, then
    ``(1 + cos(pi * (t - w) / (n - w))) / 2``. MMEngine sets ``end`` to the length of
    the loop, also of a resumed one.

    Args:
        warmup: Share of the steps for the warm-up, in [0, 1). Default 0.05.
        start_factor: Factor at the first step of the warm-up. Default 0.01.
        optimizer, *args: As for MMEngine's schedulers, as are other keywords.
    """

    def __init__(
        self, optimizer, *args, warmup: float = 0.05, start_factor=0.01, **kwargs
    ) -> None:
        check("param_scheduler.warmup", warmup, in_range("[0, 1)"))
        self.warmup, self.start_factor = warmup, start_factor
        super().__init__(optimizer, *args, **kwargs)

    def _get_value(self) -> list[float]:
        length, step = self.end - self.begin, self.last_step
        warm = round(self.warmup * length)
        if step < warm:
            factor = self.start_factor + (1 - self.start_factor) * step / warm
        else:
            factor = 0.5 * (1 + math.cos(math.pi * (step - warm) / (length - warm)))
        return [base * factor for base in self.base_values]

    def state_dict(self) -> dict[str, Any]:
        """How far it is: settings are those of the config."""
        return {"_global_step": self._global_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        groups = self.optimizer.param_groups
        if self.begin <= self._global_step < self.end:
            # Not the checkpoint's last_step, which stops at the old end.
            self.last_step = self._global_step - self.begin
            for group, value in zip(groups, self._get_value(), strict=True):
                group[self.param_name] = value
        self._last_value = [group[self.param_name] for group in groups]


def check_resumed_schedulers(runner: Runner, checkpoint: dict, path: str) -> None:
    """Check that the learning rates of a resumed training are those of its config:
    MMEngine takes a scheduler's settings, such as its end, from the checkpoint."""
    if not isinstance(runner.param_schedulers, list):
        return
    saved = checkpoint.get("param_schedulers") or []
    built = [scheduler.state_dict() for scheduler in runner.param_schedulers]
    found, expected = (
        [{k: v for k, v in state.items() if k not in _PROGRESS} for state in states]
        for states in (built, saved)
    )
    if found != expected:
        hint = "keep the settings, or start a new training with load_from=CHECKPOINT; "
        hint += "the type 'WarmupCosineLR' is as long as train_cfg.max_epochs"
        raise wrong("param_scheduler", f"{expected}, as in {path}", str(found), hint)
