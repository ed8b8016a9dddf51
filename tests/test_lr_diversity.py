# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The schedule: whole curves by hand, feedback on a synthetic search, resume."""

from __future__ import annotations

import ast
import doctest
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnas_mmaction.search import schedule as lr_diversity
from pvnas_mmaction.search.diversity import shrink_to_diversity
from pvnas_mmaction.search.schedule import (
    MODES,
    LRDiversityConfig,
    LRDiversitySchedule,
)

# Twelve steps in two cycles: u is 0, 1/6, ... 5/6, and the alphas rest for u < 1/3.
SHORT = dict(
    total_steps=12,
    num_cycles=2,
    weights_lr=0.4,
    weights_lr_floor=0.1,
    alphas_lr=0.02,
    warmup=1 / 3,
    diversity_start=0.9,
    diversity_end=0.1,
)
R3, R2 = math.sqrt(3) / 2, math.sqrt(2) / 2
# 0.04 + 0.36 * (1 + c) / 2 for the cosines c of 0, 30, 60, ... 150 degrees
WEIGHTS_6 = [0.4, 0.22 + 0.18 * R3, 0.31, 0.22, 0.13, 0.22 - 0.18 * R3]
# 0.1 + 0.8 * (1 + c) / 2 for 0, 45, 90 and 135 degrees, after two steps of warm-up
PLAN_6 = [0.9, 0.9, 0.9, 0.5 + 0.4 * R2, 0.5, 0.5 - 0.4 * R2]


def schedule(mode="diversity", **changes) -> LRDiversitySchedule:
    return LRDiversitySchedule(LRDiversityConfig(mode=mode, **{**SHORT, **changes}))


def curve(method, steps=12) -> list[float]:
    return [method(step) for step in range(steps)]


@pytest.mark.parametrize("mode", ["cyclic", "diversity"])
def test_curves_of_the_modes_with_restarts(mode):
    plan = schedule(mode)
    assert curve(plan.weights_lr) == pytest.approx(WEIGHTS_6 * 2)
    assert curve(plan.alphas_lr) == [0, 0, 0.02, 0.02, 0.02, 0.02] * 2
    assert curve(plan.planned_diversity) == pytest.approx(PLAN_6 * 2)
    assert curve(plan.position) == pytest.approx([i / 6 for i in range(6)] * 2)
    assert curve(plan.cycle_of) == [0] * 6 + [1] * 6
    assert curve(plan.is_cycle_end) == ([False] * 5 + [True]) * 2
    assert curve(plan.is_warmup) == ([True] * 2 + [False] * 4) * 2
    assert plan.has_restarts
    assert plan.num_cycles == 2


def test_curves_of_the_cosine_mode():
    plan = schedule("cosine")
    degrees = [15 * i for i in range(12)]
    expected = [0.22 + 0.18 * math.cos(math.radians(d)) for d in degrees]
    assert curve(plan.weights_lr) == pytest.approx(expected)
    assert curve(plan.alphas_lr) == [0] * 4 + [0.02] * 8
    degrees = [0] * 4 + [22.5 * i for i in range(8)]
    expected = [0.5 + 0.4 * math.cos(math.radians(d)) for d in degrees]
    assert curve(plan.planned_diversity) == pytest.approx(expected)
    assert curve(plan.is_cycle_end) == [False] * 11 + [True]
    assert not plan.has_restarts
    assert plan.num_cycles == 1


def test_curves_of_the_constant_mode():
    plan = schedule("constant")
    assert curve(plan.weights_lr) == [0.4] * 12
    assert curve(plan.alphas_lr) == [0] * 4 + [0.02] * 8
    assert curve(plan.cycle_of) == [0] * 12


@pytest.mark.parametrize("steps", [60, 300, 6000])
def test_every_mode_takes_the_same_number_of_alpha_steps(steps):
    counts = {
        sum(lr > 0 for lr in curve(schedule(m, total_steps=steps).alphas_lr, steps))
        for m in MODES
    }
    assert counts == {steps * 2 // 3}


def test_cycles_share_out_a_remainder():
    plan = schedule(total_steps=14, num_cycles=4, warmup=0.0)
    assert curve(plan.cycle_of, 14) == [0] * 3 + [1] * 4 + [2] * 3 + [3] * 4
    assert [s for s in range(14) if plan.is_cycle_end(s)] == [2, 6, 9, 13]
    thirds, quarters = [0, 1 / 3, 2 / 3], [0, 0.25, 0.5, 0.75]
    assert curve(plan.position, 14) == pytest.approx((thirds + quarters) * 2)


def test_feedback_by_hand():
    plan = schedule(kappa=0.5, gain_min=0.5, gain_max=1.5)
    # Step 4: D* = 0.5, D = 0.3, e = 0.2: collapsing too early lowers the gain.
    assert plan.observe(4, 0.3) == pytest.approx(math.exp(-0.1))
    assert plan.alphas_lr(4) == pytest.approx(0.02 * math.exp(-0.1))
    # Then D = 0.9, e = -0.4: lagging raises it.
    assert plan.observe(4, 0.9) == pytest.approx(math.exp(0.1))
    for _ in range(10):
        plan.observe(4, 1.0)
    assert plan.gain == 1.5
    # The bound holds the logarithm itself, so the way back is not delayed.
    assert plan.observe(4, 0.3) == pytest.approx(1.5 * math.exp(-0.1))
    for _ in range(50):
        plan.observe(4, 0.0)
    assert plan.gain == 0.5
    assert plan.weights_lr(4) == pytest.approx(WEIGHTS_6[4])


def test_no_feedback_in_warmup_nor_in_other_modes():
    plan = schedule()
    assert plan.observe(1, 0.2) == 1
    for mode in ("constant", "cosine", "cyclic"):
        plan = schedule(mode)
        assert plan.observe(11, 0.9) == 1
        assert plan.alphas_lr(11) == 0.02


def test_restart_far_from_the_archive_changes_nothing_but_the_gain():
    plan = schedule()
    plan.observe(4, 0.0)
    assert plan.gain < 1
    assert plan.restart(0.2) == 0.9
    assert plan.gain == 1
    assert plan.restart(None) == 0.9
    assert curve(plan.weights_lr) == pytest.approx(WEIGHTS_6 * 2)
    assert curve(plan.planned_diversity) == pytest.approx(PLAN_6 * 2)


@pytest.mark.parametrize("mode", ["cyclic", "diversity"])
def test_restart_near_the_archive_is_more_diverse_and_higher(mode):
    plan = schedule(
        mode, restart_peak_factor=1.5, restart_diversity_step=0.5, peak_cap=2.0
    )
    assert plan.restart(0.1) == pytest.approx(0.95)
    assert plan.weights_lr(6) == pytest.approx(0.6)
    # 0.04 + 0.56 / 2: the peak rises, the floor stays
    assert plan.weights_lr(9) == pytest.approx(0.32)
    assert plan.planned_diversity(10) == pytest.approx((0.95 + 0.1) / 2)
    assert plan.alphas_lr(10) == 0.02
    assert plan.restart(0.0) == pytest.approx(0.975)
    assert plan.weights_lr(6) == pytest.approx(0.8)
    # Far enough now: the settings stay as they are.
    assert plan.restart(0.9) == pytest.approx(0.975)
    assert plan.weights_lr(6) == pytest.approx(0.8)


@pytest.mark.parametrize("mode", ["constant", "cosine"])
def test_restart_does_nothing_in_modes_without(mode):
    plan = schedule(mode)
    before = plan.state_dict()
    assert plan.restart(0.0) == 0.9
    assert plan.state_dict() == before


class SyntheticSearch:
    """Alphas under Adam on a noisy policy gradient, as a search without networks.

    Every candidate has a hidden merit; the gradient of the expected merit comes
    with noise of the same size. Written without the code under test, but for the
    shrinking at a restart.
    """

    def __init__(self, seed: int, num_layers=20, num_candidates=6) -> None:
        self.random = np.random.default_rng(seed)
        shape = (num_layers, num_candidates)
        self.merit = 0.5 * self.random.standard_normal(shape)
        self.alphas = np.zeros(shape)
        self.clear_moments()

    def clear_moments(self) -> None:
        self.first = np.zeros_like(self.alphas)
        self.second = np.zeros_like(self.alphas)
        self.count = 0

    def probabilities(self) -> np.ndarray:
        power = np.exp(self.alphas - self.alphas.max(1, keepdims=True))
        return power / power.sum(1, keepdims=True)

    def diversity(self) -> float:
        p = self.probabilities()
        return float(np.mean((1 - (p**2).sum(1)) / (1 - 1 / p.shape[1])))

    def alpha_step(self, lr: float) -> None:
        p = self.probabilities()
        gradient = p * (self.merit - (p * self.merit).sum(1, keepdims=True))
        gradient += 0.5 * p * self.random.standard_normal(p.shape)
        self.count += 1
        self.first = 0.5 * self.first + 0.5 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        mean = self.first / (1 - 0.5**self.count)
        scale = np.sqrt(self.second / (1 - 0.999**self.count)) + 1e-8
        self.alphas += lr * mean / scale

    def restart(self, target: float) -> None:
        factor = shrink_to_diversity(self.alphas.tolist(), target)
        mean = self.alphas.mean(1, keepdims=True)
        self.alphas = mean + factor * (self.alphas - mean)
        self.clear_moments()


def run_search(plan: LRDiversitySchedule, search: SyntheticSearch, steps) -> list[dict]:
    """Drive the search by the schedule as the training loop does."""
    history = []
    for step in steps:
        if not plan.is_warmup(step):
            search.alpha_step(plan.alphas_lr(step))
            plan.observe(step, search.diversity())
        history.append(
            dict(
                step=step,
                alphas_lr=plan.alphas_lr(step),
                weights_lr=plan.weights_lr(step),
                planned=plan.planned_diversity(step),
                diversity=search.diversity(),
            )
        )
        last = step + 1 == plan.config.total_steps
        if plan.is_cycle_end(step) and not last:
            search.restart(plan.restart(0.1 if plan.cycle_of(step) else None))
    return history


def mean_deviation(seed: int, alphas_lr: float, kappa: float) -> float:
    config = LRDiversityConfig(
        total_steps=2400, num_cycles=3, alphas_lr=alphas_lr, kappa=kappa
    )
    plan = LRDiversitySchedule(config)
    history = run_search(plan, SyntheticSearch(seed), range(config.total_steps))
    return float(
        np.mean(
            [
                abs(entry["diversity"] - entry["planned"])
                for entry in history
                if not plan.is_warmup(entry["step"])
            ]
        )
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("process", "alphas_lr"), [("collapses too early", 0.12), ("lags behind", 0.006)]
)
def test_feedback_halves_the_deviation_from_the_plan(process, alphas_lr, seed):
    without = mean_deviation(seed, alphas_lr, kappa=0.0)
    with_feedback = mean_deviation(seed, alphas_lr, LRDiversityConfig(1000).kappa)
    assert without > 0.1, f"the process {process} needs no feedback"
    assert with_feedback <= without / 2


def test_restart_brings_the_search_back_to_the_planned_diversity():
    plan = LRDiversitySchedule(
        LRDiversityConfig(total_steps=600, num_cycles=3, alphas_lr=0.1)
    )
    history = run_search(plan, SyntheticSearch(0), range(600))
    # Nothing moves the alphas in warm-up, so D equals D* until it ends.
    for cycle, start in [(1, 0.95), (2, 0.975)]:
        for entry in history[200 * cycle : 200 * cycle + 60]:
            assert entry["planned"] == pytest.approx(start)
            assert entry["diversity"] == pytest.approx(start, abs=1e-6)


@pytest.mark.parametrize("stop", [37, 99, 100, 170, 299])
def test_a_resumed_run_gives_the_same_curve(stop):
    config = LRDiversityConfig(total_steps=300, num_cycles=3, alphas_lr=0.1)
    whole = run_search(LRDiversitySchedule(config), SyntheticSearch(1), range(300))

    plan, search = LRDiversitySchedule(config), SyntheticSearch(1)
    first = run_search(plan, search, range(stop))
    state = json.loads(json.dumps(plan.state_dict()))
    resumed = LRDiversitySchedule(config)
    resumed.load_state_dict(state)
    assert first + run_search(resumed, search, range(stop, 300)) == whole


@st.composite
def configs(draw) -> LRDiversityConfig:
    end = draw(st.floats(0, 0.8))
    num_cycles = draw(st.integers(1, 7))
    warmup = draw(st.floats(0, 0.8))
    return LRDiversityConfig(
        total_steps=num_cycles * 6 + draw(st.integers(0, 40)),
        mode=draw(st.sampled_from(MODES)),
        num_cycles=num_cycles,
        weights_lr=draw(st.floats(1e-4, 10)),
        weights_lr_floor=draw(st.floats(0, 1)),
        alphas_lr=draw(st.floats(1e-5, 1)),
        warmup=warmup,
        diversity_start=draw(st.floats(end + 0.1, 1)),
        diversity_end=end,
        kappa=draw(st.floats(0, 50)),
        gain_min=draw(st.floats(0.01, 1)),
        gain_max=draw(st.floats(1, 20)),
        min_distance=draw(st.floats(0, 1)),
        restart_peak_factor=draw(st.floats(1, 3)),
        restart_diversity_step=draw(st.floats(0, 1)),
        peak_cap=draw(st.floats(1, 5)),
    )


@settings(deadline=None, max_examples=60)
@given(configs(), st.randoms(use_true_random=False))
def test_invariants(config, random):
    plan = LRDiversitySchedule(config)
    tiny = 1 + 1e-9
    floor = config.weights_lr * config.weights_lr_floor
    cap = config.weights_lr * config.peak_cap
    lengths = [0] * plan.num_cycles
    previous = 0
    for step in range(config.total_steps):
        cycle = plan.cycle_of(step)
        lengths[cycle] += 1
        assert cycle in (previous, previous + 1)
        previous = cycle
        assert 0 <= plan.position(step) < 1
        assert floor / tiny <= plan.weights_lr(step) <= cap * tiny
        start = plan.diversity_start
        assert config.diversity_start / tiny <= start <= 1
        planned = plan.planned_diversity(step)
        assert config.diversity_end / tiny <= planned <= start * tiny
        gain = plan.observe(step, random.random())
        assert config.gain_min <= gain <= config.gain_max
        if plan.is_warmup(step):
            assert plan.alphas_lr(step) == 0
        else:
            assert plan.alphas_lr(step) == config.alphas_lr * gain
        if plan.is_cycle_end(step) and cycle + 1 < plan.num_cycles:
            assert plan.restart(random.random()) == plan.diversity_start
            resumed = LRDiversitySchedule(config)
            resumed.load_state_dict(plan.state_dict())
            assert resumed.state_dict() == plan.state_dict()
    assert sum(lengths) == config.total_steps
    assert max(lengths) - min(lengths) <= 1
    assert plan.is_cycle_end(config.total_steps - 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "sgdr"}, r"mode: expected one of \('constant'.*found 'sgdr'"),
        ({"total_steps": 0}, "total_steps: expected an integer of 1 or more, found 0"),
        ({"total_steps": 1e3}, "total_steps: expected an integer .* found 1000.0"),
        ({"num_cycles": True}, "num_cycles: expected an integer .* found True"),
        ({"weights_lr": 0}, "weights_lr: expected a number above 0, found 0"),
        ({"weights_lr": "0.1"}, "weights_lr: expected a number above 0, found '0.1'"),
        ({"weights_lr_floor": 1.5}, r"weights_lr_floor: .* in \[0, 1\], found 1.5"),
        ({"alphas_lr": -1}, "alphas_lr: expected a number above 0, found -1"),
        ({"warmup": 1}, r"warmup: expected a number in \[0, 1\), found 1"),
        ({"diversity_start": 1.1}, r"diversity_start: .* in \[0, 1\], found 1.1"),
        ({"diversity_end": math.nan}, r"diversity_end: .* in \[0, 1\], found nan"),
        ({"diversity_end": 0.9}, "diversity_end: expected less than diversity_start"),
        ({"kappa": -0.1}, "kappa: expected a number of 0 or more, found -0.1"),
        ({"kappa": math.inf}, "kappa: expected a number of 0 or more, found inf"),
        ({"gain_min": 0}, r"gain_min: expected a number in \(0, 1\], found 0"),
        ({"gain_max": 0.9}, "gain_max: expected a number from 1, found 0.9"),
        ({"min_distance": 2}, r"min_distance: expected a number in \[0, 1\], found 2"),
        ({"restart_peak_factor": 0.5}, "restart_peak_factor: .* from 1, found 0.5"),
        ({"restart_diversity_step": -1}, "restart_diversity_step: .* found -1"),
        ({"peak_cap": 0}, "peak_cap: expected a number from 1, found 0"),
        ({"num_cycles": 13}, "total_steps: .* in each of 13 cycle.*found 12"),
        ({"num_cycles": 12}, "total_steps: .*raise train_cfg.max_epochs, or lower"),
        ({"warmup": 0.9}, "total_steps: expected 20 or more, so that .*max_epochs"),
    ],
)
def test_settings_out_of_range_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        schedule(**changes)


def test_arguments_out_of_range_are_named():
    plan = schedule()
    for method in (plan.weights_lr, plan.alphas_lr, plan.planned_diversity):
        for step in (-1, 12):
            with pytest.raises(ValueError, match=f"expected 0 to 11, found {step}"):
                method(step)
    with pytest.raises(ValueError, match="step: expected 0 to 11, found 12"):
        schedule("constant").weights_lr(12)
    for value in (1.1, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"diversity: expected a number in \[0, 1"):
            plan.observe(4, value)
    plan.observe(4, 1 + 1e-6)
    with pytest.raises(ValueError, match=r"distance: .*\[0, 1\] or None, found 4"):
        plan.restart(4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": 1}, r"state: expected the keys .*, found \['diversity_start', 'ext"),
        ({"log_gain": 9.0}, r"log_gain: expected .*, found 9.0; resume with the"),
        ({"log_gain": math.nan}, "log_gain: expected a number in .*, found nan"),
        ({"peak_factor": "1"}, "peak_factor: expected a number in .*, found 1"),
        ({"diversity_start": 0.5}, r"diversity_start: .* \[0.9, 1\], found 0.5"),
        ({"total_steps": 18}, "total_steps: expected 12 as in this config, found 18"),
        ({"mode": "cyclic"}, "mode: expected 'diversity' .* found 'cyclic'; resume"),
        ({"num_cycles": 5}, "num_cycles: expected 2 .* found 5"),
        ({"warmup": 0.5}, "warmup: expected .* found 0.5; .* max_epochs, batch_size"),
    ],
)
def test_a_state_of_another_run_is_refused(changes, message):
    plan = schedule()
    with pytest.raises(ValueError, match=message):
        plan.load_state_dict({**plan.state_dict(), **changes})
    assert plan.state_dict() == schedule().state_dict()


def test_the_schedule_is_pure_arithmetic():
    tree = ast.parse(Path(lr_diversity.__file__).read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert imported == {"math", "dataclasses"}


def test_the_worked_example_of_the_documentation(project_root):
    path = project_root / "docs" / "schedule.md"
    failed, attempted = doctest.testfile(str(path), module_relative=False)
    assert attempted == 8
    assert failed == 0


@pytest.mark.parametrize("warmup", [0, 1 / 3, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("num_cycles", [1, 3])
def test_the_steps_that_are_asked_for_are_enough(warmup, num_cycles):
    settings = dict(num_cycles=num_cycles, warmup=warmup)
    short = num_cycles - 1 or 1
    for steps in range(short, 40):
        try:
            LRDiversityConfig(total_steps=steps, **settings)
            break
        except ValueError as error:
            asked = int(re.search(r"expected (\d+) or more", str(error))[1])
    else:
        pytest.fail("no number of steps was enough")
    if steps > short:
        assert asked == steps
