# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""A space of two networks and its table, trained in seconds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from benchmarks.clips import read_manifest
from benchmarks.ground_truth.recipe import Recipe
from benchmarks.ground_truth.train import LOG, Loader, train_table
from benchmarks.jobs import JobLog
from pvnas_mmaction.space.search_space import SearchSpace

SPACE = dict(
    name="two",
    stem=dict(channels=8),
    head_channels=8,
    stages=[
        dict(
            out_channels=8,
            num_layers=1,
            spatial_stride=2,
            candidates=["mb_t1_k3_e1", "mb_t3_k3_e2"],
        )
    ],
)
RECIPE = Recipe(size=16, train_clips=32, epochs=1)


def settings_of(clips: Path) -> dict:
    """Settings of trainings on the clips of a folder."""
    return dict(
        space=SearchSpace.from_config(SPACE).to_config(),
        clips=read_manifest(clips),
        recipe=asdict(RECIPE),
        val_clips=16,
        views_per_training=RECIPE.views,
    )


def train_both(clips: Path, folder: Path) -> tuple[Loader, JobLog]:
    """Train both networks with two seeds: the log in a folder, and what builds the
    clips of the trainings."""
    loader = Loader(SPACE, RECIPE, clips, folder)
    log = JobLog(folder, LOG, settings_of(clips))
    assert train_table(loader, log, seeds=[0, 1]) == 0
    return loader, log
