# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""A study of real clips: who trains, what chooses, what is done already."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from real_lists import FOUR_FOLDS, write_lists

from benchmarks import real_clips, real_study, real_training
from benchmarks.real_data import RealClips, read_folds
from benchmarks.real_training import Setting


def test_a_network_of_two_searches_counts_twice(tmp_path, monkeypatch):
    write_lists(tmp_path)
    loader = real_study.Loader(tmp_path, Setting(learning_rates=(0.5,)))
    study = real_study.Study(loader, tmp_path / "work")
    one, two = dict(blocks=["skip"]), dict(blocks=["rb_t1_k3_e0.5"])
    # The first record is of a time before searches had a seed.
    for seed, genotype in ((None, one), (1, two), (2, one)):
        record = dict(name="light <= X3D-S", fold=1, genotype=genotype)
        study.searches.append(record | (dict(seed=seed) if seed else {}))
    monkeypatch.setattr(study, "macs", lambda model: 1)
    config = real_clips.SEARCH_CONFIG
    rows = study.search(config, "light", ["X3D-S"], [1], [2, 0, 1])
    assert rows == {"light <= X3D-S": {1: [one, one, two]}}
    for blocks in ("rb_t1_k3_e0.5", "skip"):
        done = dict(name="light <= X3D-S", blocks=blocks, fold=1, lr=0.5, seed=0)
        study.trainings.append(done | dict(split=0))
    records = study.train(rows, [0])
    assert [r["blocks"] for r in records] == ["skip", "skip", "rb_t1_k3_e0.5"]


def test_searches_of_another_config_do_not_mix(tmp_path, monkeypatch):
    write_lists(tmp_path)
    study = real_study.Study(real_study.Loader(tmp_path, Setting()), tmp_path / "work")
    monkeypatch.setattr(study, "macs", lambda model: 1)
    config = real_clips.SEARCH_CONFIG
    record = dict(name="light <= X3D-S", fold=1, seed=0, genotype=dict(blocks=["skip"]))
    study.searches.append(dict(record, search_config=real_study.digest_of(config)))
    assert study.search(config, "light", ["X3D-S"], [1])["light <= X3D-S"][1]
    other = tmp_path / "other.py"
    other.write_text(f"_base_ = {str(config)!r}\nfind_unused_parameters = True\n")
    with pytest.raises(ValueError, match=r"expected those by other.py; .*--work-dir"):
        study.search(other, "light", ["X3D-S"], [1])


def test_random_networks_need_a_budget(tmp_path):
    write_lists(tmp_path)
    study = real_study.Study(real_study.Loader(tmp_path, Setting()), tmp_path / "work")
    with pytest.raises(ValueError, match="--search-budgets: found none, expected one"):
        study.draw("light", [], 1)


def test_every_split_has_a_say_in_the_learning_rate(tmp_path, monkeypatch):
    """Three inner splits that disagree, trainings replaced by a table."""
    accuracies = {0.1: (0.9, 0.1, 0.2), 0.2: (0.4, 0.5, 0.5), 0.3: (0.5, 0.4, 0.5)}
    write_lists(tmp_path, **FOUR_FOLDS)

    def run(jobs, work, make_state, log, workers, title):
        for name, _, fold, lr, seed, split in jobs:
            record = dict(name=name, blocks=None, fold=fold, lr=lr, seed=seed)
            accuracy = accuracies[lr][split - 1] if split else 1.0
            log.append(record | dict(split=split, accuracy=accuracy))

    monkeypatch.setattr(real_study, "run_jobs", run)
    rows = {"X3D-S": {2: ["X3D-S"]}}
    # All splits: 0.2 and 0.3 tie, the lower one is taken. The first one: 0.1.
    for splits, chosen, judged in ((0, 0.2, 9), (3, 0.2, 9), (1, 0.1, 3)):
        setting = Setting(learning_rates=(0.3, 0.2, 0.1), tuning_splits=splits)
        loader = real_study.Loader(tmp_path, setting)
        study = real_study.Study(loader, tmp_path / "work")
        [record] = study.train(rows, [7])
        assert (record["lr"], record["fold"], record["split"]) == (chosen, 2, 0)
        tuning = study.tuning_of(rows, rows, 7)
        assert len(tuning) == judged and {r["seed"] for r in tuning} == {7}
    # What was there before records had a split goes on to count.
    for name, splits in (("tuning", {1, 2, 3}), ("trainings", {0})):
        path = tmp_path / "work" / f"{name}.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()]
        assert {r["split"] for r in records} == splits
        old = [r for r in records if r.pop("split") == (name == "tuning")]
        path.write_text("".join(json.dumps(r) + "\n" for r in old))
    monkeypatch.setattr(real_study, "run_jobs", lambda jobs, *_: asked.append(jobs))
    asked: list = []
    study = real_study.Study(loader, tmp_path / "work")
    assert study.train(rows, [7])[0]["lr"] == 0.1
    assert asked == [[], []]


def test_the_network_that_trains_best_on_inner_splits_is_kept(tmp_path, monkeypatch):
    """Three searches of a fold, two of which found one network."""
    one, two = dict(blocks=["skip"]), dict(blocks=["rb_t1_k3_e0.5"])
    accuracies = {"skip": (0.5, 0.2, 0.2), "rb_t1_k3_e0.5": (0.3, 0.4, 0.3)}
    write_lists(tmp_path, **FOUR_FOLDS)

    def run(jobs, work, make_state, log, workers, title):
        for job in jobs:
            identity = real_study.Training.of(*job)
            accuracy = accuracies[identity.blocks][identity.split - 1]
            # On fold 2 both are alike. The upper learning rate would favour the first.
            if identity.fold == 2 or identity.lr > 0.1:
                accuracy = 0.5
            log.append(identity._asdict() | dict(accuracy=accuracy))

    monkeypatch.setattr(real_study, "run_jobs", run)
    rows = {
        "light <= X3D-S": {fold: [one, two, one] for fold in (1, 2)},
        "light random 1": {1: [one], 2: [one]},
    }
    for rates, splits, first, judged, tuned in (
        ((0.1,), 0, two, 12, 12),
        ((0.1,), 1, one, 4, 4),
        # Six more for each row and fold, but half of one row's are there.
        ((0.2, 0.1), 0, two, 12, 12 + 24 - 6),
    ):
        setting = Setting(learning_rates=rates, tuning_splits=splits)
        loader = real_study.Loader(tmp_path, setting)
        study = real_study.Study(loader, tmp_path / f"work{len(rates)}{splits}")
        kept = study.keep_best(rows, 3, 0.1)
        assert kept["light <= X3D-S"] == {1: [first], 2: [one]}
        assert kept["light random 1"] == rows["light random 1"]
        assert len(study.tuning.records) == judged
        if len(rates) > 1:
            study.train(kept, [3])
        assert len(study.tuning.records) == tuned
        assert study.tuning_of(rows, kept, 3, 0.1) == study.tuning.records
        without = study.tuning_of(rows, kept, 3)
        assert len(without) == (24 if len(rates) > 1 else 0)


def test_a_job_trains_on_its_own_split(tmp_path, monkeypatch):
    names, _, folds = read_folds(write_lists(tmp_path, **FOUR_FOLDS))
    frames = torch.zeros(4, 8, 8, 8, 3, dtype=torch.uint8)
    clips = RealClips(frames, torch.arange(4), 2, 4)
    state = real_study.State(Setting(), len(names), clips, folds)
    seen = []

    def note(spec, num_classes, clips, test, setting, lr, seed):
        seen.append((clips.labels.tolist(), test.labels.tolist()))
        return dict(accuracy=0.5)

    monkeypatch.setattr(real_study, "train", note)
    for split in range(4):
        record = real_study.train_job(state, ("X3D-S", "X3D-S", 3, 0.1, 0, split))
        assert record["split"] == split
    part = folds[2]
    assert seen == [(list(s.train), list(s.val)) for s in (part.whole, *part.inner)]


@pytest.mark.parametrize("name", ["background_mixing", "averaged_epochs"])
def test_results_from_before_a_setting_count_without_it_alone(tmp_path, name):
    write_lists(tmp_path)
    work_dir = tmp_path / "work"
    plain = real_study.Study(real_study.Loader(tmp_path, Setting()), work_dir)
    assert name not in plain.trainings.settings
    real_study.Study(real_study.Loader(tmp_path, Setting()), work_dir)
    changed = real_study.Loader(tmp_path, dataclasses.replace(Setting(), **{name: 0.3}))
    with pytest.raises(ValueError, match=f"{name}: found None, expected"):
        real_study.Study(changed, work_dir)
    other = real_study.Study(changed, tmp_path / "other")
    assert other.trainings.settings[name] == 0.3


def test_searches_serve_trainings_of_any_length_and_average(tmp_path):
    write_lists(tmp_path)
    real_study.Study(real_study.Loader(tmp_path, Setting()), tmp_path / "work")
    longer = Setting(epochs=99, averaged_epochs=5)
    study = real_study.Study(real_study.Loader(tmp_path, longer), tmp_path / "other")
    first = (tmp_path / "work" / "searches_settings.json").read_text()
    assert study.searches.settings == json.loads(first)


def test_a_search_sees_the_training_part_of_its_fold_alone(tmp_path, monkeypatch):
    names, _, folds = read_folds(write_lists(tmp_path, **FOUR_FOLDS))
    frames = torch.zeros(4, 8, 8, 8, 3, dtype=torch.uint8)
    clips = RealClips(frames, torch.arange(4), 2, 4)  # each its own label
    state = real_study.State(Setting(), len(names), clips, folds)

    class SeenError(Exception):
        pass

    def note(cfg, train, val, seed, device):
        budget = cfg.train_cfg.cost.budget
        raise SeenError(train.labels.tolist(), val.labels.tolist(), budget, seed)

    monkeypatch.setattr(real_training, "MemorySearch", note)
    for number, fold in enumerate(folds, start=1):
        job = ("searched", real_clips.SEARCH_CONFIG, "tiny", 5, number, 2)
        with pytest.raises(SeenError) as seen:
            real_study.search_job(state, job)
        train, val, budget, seed = seen.value.args
        inner = fold.inner[0]
        assert (train, val) == (list(inner.train), list(inner.val))
        assert not set(train + val) & set(fold.whole.val)
        assert (budget, seed) == (5, 2000 + number)
