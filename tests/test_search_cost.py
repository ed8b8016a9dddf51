# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The estimate of a search's time, against a count over its schedule."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from benchmarks.search_cost import (
    CONFIGS,
    SEARCHES,
    TRAIN_CLIPS,
    clips_per_second,
    estimate,
    search_clips,
)
from benchmarks.supernet_step import Bench
from pvnas_mmaction.search.schedule import LRDiversityConfig, LRDiversitySchedule

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize("name", SEARCHES)
def test_clips_are_those_of_the_schedule(name):
    cfg = Config.fromfile(CONFIGS / SEARCHES[name])
    (hook,) = (dict(h) for h in cfg.custom_hooks if h["type"] == "LRDiversityHook")
    del hook["type"]
    steps, batch = 3000, 8
    schedule = LRDiversitySchedule(LRDiversityConfig(total_steps=steps, **hook))
    moving = sum(schedule.alphas_lr(step) > 0 for step in range(steps))
    # Half of the clips train the weights, so many in each epoch.
    train_clips = 2 * steps * batch / cfg.train_cfg.max_epochs
    clips = search_clips(cfg, train_clips)
    assert clips["weights"] == pytest.approx(steps * batch)
    assert clips["alpha"] == pytest.approx(
        moving * batch, abs=schedule.num_cycles * batch
    )


def test_hours_by_hand():
    name = "Kinetics-400"
    cfg = Config.fromfile(CONFIGS / SEARCHES[name])
    cfg.train_cfg.max_epochs = 2
    speeds = dict(weights=dict(clips_per_second=10), alpha=dict(clips_per_second=4))
    found = estimate(name, cfg, speeds)
    seconds = TRAIN_CLIPS[name] / 10 + TRAIN_CLIPS[name] * 2 / 3 / 4
    assert found["total_hours"] == pytest.approx(seconds / 3600)


def test_speed_is_that_of_the_steps_timed():
    found = clips_per_second(Bench("tiny", (2, 16, 16)), "alpha", "two_path", 2, 3)
    assert len(found["step_ms"]) == 3
    middle = sorted(found["step_ms"])[1]
    assert found["clips_per_second"] == pytest.approx(2000 / middle, rel=0.1)
