# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Trainings of the ground truth table: recipe, order and resuming."""

from __future__ import annotations

from ground_truth_runs import settings_of

from benchmarks.ground_truth.train import LOG, train_table
from benchmarks.jobs import JobLog


def test_killed_training_goes_on(trained_table, motion_clips, tmp_path):
    loader, whole = trained_table
    log = JobLog(tmp_path, LOG, settings_of(motion_clips))
    assert train_table(loader, log, seeds=[0, 1], limit=1) == 3
    with log.path.open("a") as stream:
        stream.write('{"blocks": "mb_t1_k3')  # killed while it wrote
    again = JobLog(tmp_path, LOG, settings_of(motion_clips))
    assert len(again.records) == 1
    assert train_table(loader, again, seeds=[0, 1]) == 0

    def results(log):
        return [(r["blocks"], r["seed"], r["accuracy"], r["loss"]) for r in log.records]

    assert results(again) == results(whole)
    assert results(JobLog(tmp_path, LOG)) == results(whole)
