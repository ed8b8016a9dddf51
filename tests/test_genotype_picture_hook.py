# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Pictures of the networks found, in the backends of MMEngine's visualizer."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from searching import run_search

from pvnas_mmaction.report.drawing import OTHER_COLOR, family_colors

EventAccumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator",
    reason="needs tensorboard",
).EventAccumulator

HOOKS = [
    dict(type="LRDiversityHook", mode="diversity", num_cycles=2),
    dict(type="GenotypePictureHook"),
]
BACKENDS = [dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    return run_search(
        tmp_path_factory.mktemp("pictures"),
        custom_hooks=HOOKS,
        visualizer=dict(type="Visualizer", vis_backends=BACKENDS),
    )


@pytest.fixture(scope="module")
def events(search):
    (folder,) = {path.parent for path in Path(search.work_dir).rglob("events.*")}
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def colors(image: np.ndarray) -> set[str]:
    return {f"#{r:02X}{g:02X}{b:02X}" for r, g, b in image.reshape(-1, 3)}


def expected_colors(entry) -> set[str]:
    families = {block.split("_")[0] for block in entry.blocks} - {"skip"}
    return {family_colors()[family] for family in families} | {OTHER_COLOR}


def test_every_cycle_has_a_picture_on_disk(search):
    entries = search.train_loop.search.archive.entries
    files = sorted(Path(search.work_dir).rglob("vis_image/*.png"))
    names = sorted(f"genotype_{entry.step}.png" for entry in entries)
    assert [file.name for file in files] == names and len(entries) == 2
    for entry in entries:
        (file,) = (f for f in files if f.name == f"genotype_{entry.step}.png")
        image = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
        assert expected_colors(entry) <= colors(image)


def test_tensorboard_has_pictures_and_scalars(search, events):
    entries = search.train_loop.search.archive.entries
    images = events.Images("genotype")
    assert [image.step for image in images] == [entry.step for entry in entries]
    for image, entry in zip(images, entries, strict=True):
        data = np.frombuffer(image.encoded_image_string, np.uint8)
        decoded = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        assert expected_colors(entry) <= colors(decoded)
    names = events.Tags()["scalars"]
    for name in ("diversity", "planned_diversity", "gain", "entropy", "expected_cost",
                 "num_skips", "argmax_share", "weights_lr", "alphas_lr", "loss",
                 "alpha_loss"):  # fmt: skip
        assert name in names
    assert [event.step for event in events.Scalars("diversity")] == list(range(1, 19))
