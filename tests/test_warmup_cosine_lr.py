"""Learning rates of a training follow its length, also when it is resumed."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

import pvnas_mmaction  # noqa: F401
from pvnas_mmaction.engine.warmup_cosine_lr import check_resumed_schedulers

ROOT = Path(__file__).resolve().parent.parent
RETRAIN = sorted((ROOT / "configs/pvnas").glob("*_retrain_*.py"))
OURS = dict(type="WarmupCosineLR", by_epoch=False, warmup=0.25, start_factor=0.1)
COSINE = dict(type="CosineAnnealingLR", by_epoch=True, convert_to_iter_based=True)
_NAMES = itertools.count()


class Toy(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, inputs, mode="loss"):
        return dict(loss=self.layer(inputs).square().mean())


class Rates(Hook):
    """Writes down the rate of each step; checks schedulers as a run's own hook does."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.rates += runner.optim_wrapper.get_lr()["lr"]

    def after_load_checkpoint(self, runner, checkpoint):
        check_resumed_schedulers(runner, checkpoint, "epoch_3.pth")


def train(work_dir, epochs: int, schedulers, resume=False) -> list[float]:
    """Train with four steps an epoch; gives the rates of the steps made."""
    rates = Rates()
    runner = Runner(
        model=Toy(),
        work_dir=str(work_dir),
        experiment_name=f"rates_{next(_NAMES)}",
        train_dataloader=dict(
            batch_size=1,
            dataset=torch.ones(4, 1),
            sampler=dict(type="DefaultSampler", shuffle=False),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=1.0)),
        param_scheduler=schedulers,
        default_scope="mmaction",
        custom_hooks=[rates],
        resume=resume,
        log_level="WARNING",
    )
    runner.train()
    return rates.rates


def expected_rates(num_steps: int) -> list[float]:
    """A quarter of warm-up from 0.1 to 1, then half a cosine to 0."""
    warm = num_steps // 4
    cosine = [math.cos(math.pi * t / (num_steps - warm)) for t in range(num_steps)]
    return [
        *[0.1 + 0.9 * t / warm for t in range(warm)],
        *[(1 + c) / 2 for c in cosine[: num_steps - warm]],
    ]


@pytest.mark.parametrize(("first", "epochs"), [(1, 6), (3, 3)])
def test_rates_are_those_of_the_length_also_of_a_resumed_one(tmp_path, first, epochs):
    assert train(tmp_path, first, [OURS]) == pytest.approx(expected_rates(4 * first))
    rates = train(tmp_path, epochs, [OURS], resume=True)
    assert rates == pytest.approx(expected_rates(4 * epochs)[4 * first :])
    with pytest.raises(ValueError, match=r"warmup: expected a number in .*, got 5"):
        train(tmp_path / "other", 1, dict(OURS, warmup=5))


@pytest.mark.parametrize(
    "changes", [[COSINE], [dict(COSINE, end=6, begin=0)], [OURS, COSINE]]
)
def test_other_settings_of_a_scheduler_are_refused(tmp_path, changes):
    """MMEngine would let those of the checkpoint win without a word."""
    train(tmp_path, 3, [COSINE])
    message = "param_scheduler: expected .*, as in epoch_3.pth, got .*'WarmupCosineLR'"
    with pytest.raises(ValueError, match=message):
        train(tmp_path, 6, changes, resume=True)
    # With nothing changed it goes on.
    assert train(tmp_path, 3, [COSINE], resume=True) == []


@pytest.mark.parametrize("path", RETRAIN, ids=lambda path: path.stem)
def test_shipped_retrainings_end_at_zero(path, tmp_path):
    """Whatever their length, by max_epochs alone."""
    cfg = Config.fromfile(path)
    plan = cfg.param_scheduler.to_dict()
    assert "end" not in plan
    for epochs in (cfg.train_cfg.max_epochs, 8):
        rates = train(tmp_path, epochs, plan)
        assert len(rates) == 4 * epochs
        assert max(rates) == pytest.approx(1, abs=0.02)
        assert rates[-1] == min(rates[4:]) < 0.04
        start = plan.get("start_factor", 0.01) if plan.get("warmup", 1) else 1
        assert rates[0] == pytest.approx(start)
