"""The study on real clips: folds, networks, a whole run, and the table."""

import json

import pytest
import torch

from benchmarks import real_clips
from benchmarks.real_clips import KINDS, STARTS, Study
from benchmarks.real_table import comparison, markdown, with_error


def test_clips_to_test_on_are_no_part_of_an_inner_split(tmp_path):
    lists = dict(fold1_train="a 0\nb 1\nc 2\nd 3", fold1_val="e 0")
    lists |= dict(fold2_train="e 0\nb 1\nd 3", fold2_val="a 0\nc 2", classes="a")
    for name, text in lists.items():
        (tmp_path / f"{name}.txt").write_text(text)
    study = Study(tmp_path, tmp_path)
    assert study.inner(1) == dict(train=["b 1", "d 3"], val=["a 0", "c 2"])
    assert study.inner(2) == dict(train=["b 1", "d 3"], val=["e 0"])


def test_networks_keep_their_budgets(tmp_path):
    (tmp_path / "classes.txt").write_text("a b")
    study = Study(tmp_path, tmp_path, size=32)
    narrowed = study.narrowed(1 / 3)
    assert 0.3 < study.cost(narrowed)["macs"] / study.donor_macs <= 1 / 3
    assert {b[:5] for b in narrowed} == {b[:5] for b in study.donor()}
    assert {b[:5] for b in study.donor(False)} == {"mb_t1"}
    for blocks in study.draw(1 / 2, 3):
        assert 0.425 <= study.cost(blocks)["macs"] / study.donor_macs <= 1 / 2


@pytest.mark.slow
def test_a_whole_run_and_going_on(motion_clips, tmp_path, monkeypatch):
    lines = (motion_clips / "train.txt").read_text().splitlines()
    (tmp_path / "classes.txt").write_text("a b c d e f g h")
    (tmp_path / "fold1_train.txt").write_text("\n".join(lines[:16]))
    (tmp_path / "fold1_val.txt").write_text("\n".join(lines[16:]))
    (tmp_path / "train").symlink_to(motion_clips / "train")
    monkeypatch.setattr(Study, "inner", Study.lists)
    work = tmp_path / "work"
    words = f"""{tmp_path} --budgets 0.4 --random 1 --donor --folds 1 --seeds 0
        --size 32 --starts supernet donor --work-dir {work} --out {tmp_path}/out.json
        --search-options train_cfg.donor.tune_steps=2 train_cfg.donor.clips=2
        train_cfg.min_steps=8 train_cfg.max_epochs=1 train_cfg.calibration_batches=1
        --train-options train_cfg.max_epochs=1""".split()
    real_clips.main(words)
    result = json.loads((tmp_path / "out.json").read_text())
    own = [f"{k} at 0.4, from {s}" for s in STARTS[1::-1] for k in KINDS]
    names = ["donor", "donor with shifts", *own, "narrowed at 0.4", "random 1 at 0.4"]
    assert [row["name"] for row in result["rows"]] == names
    assert [training["name"] for training in result["trainings"]] == names
    donor, shifts, *others = result["rows"]
    assert donor["macs"] == shifts["macs"]
    assert all(row["macs"] <= 0.4 * donor["macs"] for row in others)
    for kind, blocks in result["searches"][0]["networks"].items():
        path = work / f"{kind}_0.4_fold1_seed0.pth"
        assert torch.load(path)["meta"]["blocks"] == blocks
    monkeypatch.setattr(Study, "run", None)  # nothing is run again
    real_clips.main(words)


def test_table_by_hand():
    accuracies = {
        ("a", 1, 0): 0.2, ("a", 1, 1): 0.4, ("a", 2, 0): 0.5,
        ("b", 1, 0): 0.4, ("b", 2, 0): 0.8,
    }  # fmt: skip
    trainings = [
        dict(name=name, fold=fold, seed=seed, accuracy=accuracy)
        for (name, fold, seed), accuracy in accuracies.items()
    ]
    rows = [dict(name=name, macs=2e6, params=30_000) for name in "ab"]
    lines = markdown(dict(trainings=trainings, rows=rows), ["a"]).splitlines()
    # Folds: a 30 and 50, b 40 and 80; differences 10 and 30.
    assert lines[2] == "| a | 40.0 ± 10.0 |  | 2 | 0.03 | 3 |"
    assert lines[3] == "| b | 60.0 ± 20.0 | +20.0 ± 10.0 | 2 | 0.03 | 2 |"
    assert with_error([1.0]) == "1.0"


def test_comparison_of_sets_by_hand():
    def result(*accuracies):
        names = ("random 1 at 0.5", "random 2 at 0.5", "searched")
        pairs = zip(names, accuracies, strict=True)
        return dict(
            trainings=[dict(name=n, fold=1, seed=0, accuracy=a) for n, a in pairs]
        )

    a, b = result(0.2, 0.4, 0.4), result(0.5, 0.5, 0.7)
    for record in result(0.3, 0.5, 0.7)["trainings"]:
        b["trainings"].append(dict(record, fold=2))
    sets = dict(a=a, b=b)
    table = comparison(sets, "random at 0.5").splitlines()
    assert table[2] == "| random at 0.5 | 30.0 | 45.0 |  |  |  |"
    # Differences of 10, 20 and 30; one of a set alone has no interval.
    own = "40.0 | 70.0, +25.0 (+20.0 to +30.0) | +20.0 (+10.0 to +30.0) | +50% | 3 |"
    assert table[3] == f"| searched | {own}"
