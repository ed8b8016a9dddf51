"""The schedule: whole curves by hand, feedback on simulated alphas, resume."""

import doctest
import math
import re
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config

from benchmarks.simulated_schedule import Alphas, run_search
from pvnas_mmaction.search.archive import ArchiveEntry
from pvnas_mmaction.search.donor_warmup import NEAR
from pvnas_mmaction.search.schedule import (
    AUTO,
    MISSED_PLAN,
    SPEEDS,
    LRDiversityConfig,
    LRDiversitySchedule,
    logit_lead,
    num_epochs,
)
from pvnas_mmaction.space.search_space import SearchSpace

CONFIGS = sorted(
    (Path(__file__).resolve().parent.parent / "configs/pvnas").glob("*_search_*.py")
)

# Twelve steps in two cycles: u is 0, 1/6, ... 5/6, and the alphas rest for u < 1/3.
SHORT = dict(
    total_steps=12,
    num_cycles=2,
    weights_lr=0.4,
    weights_lr_floor=0.1,
    alphas_lr=0.02,
    warmup=1 / 3,
    settle=0.0,
    diversity_start=0.9,
    diversity_end=0.1,
)


def schedule(mode="diversity", **changes) -> LRDiversitySchedule:
    return LRDiversitySchedule(LRDiversityConfig(mode=mode, **{**SHORT, **changes}))


def test_feedback_by_hand():
    plan = schedule(kappa=2.0, damping=1.0)  # four alpha steps in a cycle
    # Step 10: D* = 0.5, D = 0.3, e = 0.2, from 0: collapsing too early lowers the gain.
    assert plan.observe(10, 0.3) == pytest.approx(math.exp(-0.1 - 0.2))
    assert plan.alphas_lr(10) == pytest.approx(0.02 * math.exp(-0.3))
    # The same error again: it has not changed.
    assert plan.observe(10, 0.3) == pytest.approx(math.exp(-0.4))
    # Then D = 0.9, e = -0.4: lagging raises it.
    assert plan.observe(10, 0.9) == pytest.approx(math.exp(-0.4 + 0.2 + 0.6))
    # The next cycle starts with the mean of these three.
    plan.restart(None)
    assert plan.gain == pytest.approx(math.exp((-0.3 - 0.4 + 0.4) / 3))
    plan.restart(None)  # without an observation it stays
    # The rate is bounded by what the plan needs, and the bound holds the logarithm
    # itself, so the way back is not delayed.
    for _ in range(100):
        plan.observe(10, 1.0)
    least, most = (speed * plan.needed_lr(10) for speed in SPEEDS)
    assert plan.alphas_lr(10) == pytest.approx(most)
    plan.observe(10, 0.45)
    assert plan.alphas_lr(10) == pytest.approx(most * math.exp(-0.025 - 0.55))
    for _ in range(100):
        plan.observe(10, 0.0)
    assert plan.alphas_lr(10) == pytest.approx(least)
    # 0.04 + 0.36 * (1 + c) / 2 for the cosine of 120 degrees
    assert plan.weights_lr(4) == pytest.approx(0.13)


@pytest.mark.parametrize("mode", ["cyclic", "diversity"])
def test_restart_near_the_archive_is_more_diverse(mode):
    plan = schedule(mode, restart_diversity_step=0.5)
    plan.observe(4, 0.0)
    assert (plan.gain < 1) == (mode == "diversity")
    assert plan.restart(None) == 0.9  # nothing to be near to
    assert plan.last_error == 0
    assert plan.restart(0.1) == pytest.approx(0.95)
    assert plan.planned_diversity(10) == pytest.approx((0.95 + 0.1) / 2)
    assert plan.alphas_lr(10) == 0.02 * plan.gain
    assert plan.restart(0.0) == pytest.approx(0.975)
    # Far enough now: the settings stay as they are.
    assert plan.restart(0.9) == pytest.approx(0.975)


# -- the rate that a plan needs -------------------------------------------------------


def test_automatic_rate_by_hand():
    plan = schedule(
        alphas_lr=AUTO,
        total_steps=600,
        num_candidates=(4, 1, 8),
        accumulated=2,
    )
    # 300 steps a cycle, 200 of them of alphas, 100 updates; layers of one do not count.
    leads = [logit_lead(0.1, k) for k in (4, 8)]
    factors = [1.2 * (k / 2) ** 0.25 / 100**0.75 for k in (4, 8)]
    rates = [f * lead for f, lead in zip(factors, leads, strict=True)]
    assert plan.alphas_lr(299) == pytest.approx(sum(rates) / 2)
    starts = [logit_lead(0.9, k) for k in (4, 8)]
    rates = [f * (a - b) for f, a, b in zip(factors, leads, starts, strict=True)]
    assert plan.alphas_lr(599) == pytest.approx(sum(rates) / 2)
    fixed = schedule(alphas_lr=AUTO, num_candidates=(1, 1))
    assert math.isfinite(fixed.alphas_lr(11))


def test_epochs_of_a_search_are_no_less_than_its_steps_need():
    assert num_epochs(40, 400, 7) == 58  # 57 epochs are 399 steps
    assert num_epochs(40, 400, 10) == num_epochs(40, 0, 1) == 40


def entries(*ends: tuple[float, float]) -> list[ArchiveEntry]:
    """Of the archive, by D* and D at the end of each cycle."""
    names = ("planned_diversity", "diversity")
    values = [
        dict(zip(names, pair, strict=True), cycle=i) for i, pair in enumerate(ends)
    ]
    other = dict(step=0, blocks=(), costs={}, accuracy=None, distance=None, file="")
    return [ArchiveEntry(**value, **other) for value in values]


def test_a_missed_plan_is_named_with_what_to_change():
    plan = schedule(alphas_lr=AUTO, num_candidates=(4,), settle=0.5)
    assert plan.missed(entries((0.1, 0.15), (0.1, 0.2))) is None
    said = plan.missed(entries((0.1, 0.3), (0.1, 0.1), (0.5, 0.2)))
    assert "2 of 3 cycle(s) ended far from" in said and said.endswith("max_epochs")
    assert "(cycle 1 at 0.30, planned 0.10: p decided too little; cycle 3 at" in said
    assert "0.20, planned 0.50: p decided too early)" in said
    assert schedule("cosine").missed(entries((0.1, 0.9))) is None
    assert "; set optim_wrapper.alphas" in schedule().missed(entries((0.5, 0.3)))


SNRS = [0, 0.05, 0.1, 0.2, 0.5, 1, math.inf] * 5


@pytest.mark.parametrize("clips", [50, 200, 2000])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_searches_keep_their_plan(path, clips):
    cfg = Config.fromfile(path)
    ranks = int(re.search(r"_(\d+)xb", path.stem)[1])
    batch = ranks * cfg.train_dataloader.batch_size
    per_epoch = max(clips // 2 // batch, 1)
    loop = cfg.train_cfg
    epochs = num_epochs(loop.max_epochs, loop.min_steps, per_epoch)
    hook = next(h for h in cfg.custom_hooks if h["type"] == "LRDiversityHook")
    candidates = SearchSpace.from_config(cfg.model.backbone.space).candidates
    sizes = [len(texts) for texts in candidates]
    donor = loop.get("donor")
    config = LRDiversityConfig(
        total_steps=epochs * per_epoch - (donor.tune_steps if donor else 0),
        tune_steps=donor.tune_steps if donor else 0,
        alphas_lr=cfg.optim_wrapper.alphas.optimizer.lr,
        num_candidates=tuple(sizes),
        **{key: value for key, value in hook.items() if key != "type"},
    )
    plans = [LRDiversitySchedule(config) for _ in SNRS]
    alphas = Alphas(sizes, SNRS, near=NEAR if donor else 1.0)
    if donor:
        alphas.alphas = 5 * alphas.random.standard_normal(alphas.alphas.shape)
        for run in range(len(plans)):
            alphas.restart(run, config.diversity_start)
    history = run_search(plans, alphas, range(plans[0].num_steps))
    last = [step for step in range(len(history)) if plans[0].is_cycle_end(step)]
    missed = np.abs(np.diff(np.array(history)[last])) > MISSED_PLAN
    # Where gradients are noise, a layer may change its mind in the last steps; of four
    # layers one is a quarter of D.
    assert missed.mean() <= (0.05 if len(sizes) <= 4 else 0.02), np.argwhere(missed)


@pytest.mark.parametrize("alphas_lr", [0.002, 0.02, 0.5])
def test_feedback_keeps_the_plan_at_any_rate(alphas_lr):
    def ends(**changes) -> np.ndarray:
        changes |= dict(num_cycles=3, diversity_end=0.3)
        config = LRDiversityConfig(2400, alphas_lr=alphas_lr, **changes)
        plans = [LRDiversitySchedule(config) for _ in range(5)]
        history = run_search(plans, Alphas([6] * 20, [0.3] * 5), range(2400))
        last = [step for step in range(2400) if plans[0].is_cycle_end(step)]
        return np.abs(np.diff(np.array(history)[last]))

    if alphas_lr != 0.02:  # about what the plan needs
        assert (ends(kappa=0.0, damping=0.0) > MISSED_PLAN).all()
    assert (ends() < MISSED_PLAN).all()


def test_settings_out_of_range_are_named():
    for changes, message in (
        ({"mode": "sgdr"}, "mode: expected one of constant, .*, got 'sgdr'"),
        ({"num_cycles": True}, "num_cycles: expected a whole number .*, got True"),
        ({"weights_lr": "0.1"}, "weights_lr: expected a number above 0, got '0.1'"),
        ({"alphas_lr": "fast"}, "alphas_lr: expected .*, got 'fast'"),
        ({"warmup": 1}, r"warmup: expected a number in \[0, 1\), got 1"),
        ({"diversity_end": 0.9}, "diversity_end: expected less than diversity_start"),
        ({"kappa": math.inf}, r"kappa: expected a number in \[0, inf\), got inf"),
        ({"warmup": 0.9}, "total_steps: expected 20 or more, so that .*max_epochs"),
        ({"accumulated": 5}, "total_steps: expected 16 or more.*accumulative_counts"),
    ):
        with pytest.raises(ValueError, match=message):
            schedule(**changes)


def test_the_worked_example_of_the_documentation(project_root):
    path = project_root / "docs" / "schedule.md"
    failed, attempted = doctest.testfile(str(path), module_relative=False)
    assert attempted == 8
    assert failed == 0
