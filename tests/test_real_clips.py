# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The command for real clips: a small run, and what it is given wrongly."""

from __future__ import annotations

import json

import pytest
from real_lists import write_lists

from benchmarks import real_clips, real_study
from benchmarks.real_training import Setting


def test_small_study_goes_on_where_it_stopped(motion_clips, tmp_path, capsys):
    """Two folds of motion clips: a search, the choice of a learning rate, trainings."""
    data = tmp_path / "data"
    data.mkdir()
    lines = (motion_clips / "train.txt").read_text().splitlines()
    (data / "clips").symlink_to(motion_clips)
    lines = [f"clips/{line}" for line in lines]
    parts = [lines[:8], lines[8:16], lines[16:]]
    (data / "classes.txt").write_text("\n".join(map(str, range(8))))
    for fold, other in ((0, 1), (1, 0)):
        train_lines = "\n".join(parts[other] + parts[2])
        (data / f"fold{fold + 1}_train.txt").write_text(train_lines)
        (data / f"fold{fold + 1}_val.txt").write_text("\n".join(parts[fold]))
    work_dir = tmp_path / "work"
    arguments = [data, "--reduced", "--work-dir", work_dir, "--models"]
    arguments += ["TSM-MobileNetV2", "--search-space", "tiny", "--search-budgets"]
    arguments += ["TSM-MobileNetV2", "--random", 2, "--search-epochs", 9, "--epochs", 1]
    arguments += ["--search-seeds", 0, 1]
    arguments += ["--batch-size", 8, "--frames", 4, "--stored-frames", 8]
    arguments += ["--crop", 24, "--learning-rates", 0.01, 0.05]
    arguments = list(map(str, arguments))
    real_clips.main(arguments)
    printed = capsys.readouterr().out
    result = json.loads((work_dir / "real_clips.json").read_text())
    assert [row["name"] for row in result["rows"]] == [
        "TSM-MobileNetV2",
        "tiny random 1",
        "tiny random 2",
        "tiny <= TSM-MobileNetV2",
    ]
    assert [row["trainings"] for row in result["rows"]] == [2, 2, 2, 4]
    found = [(s["fold"], s["seed"]) for s in result["searches"]]
    assert sorted(found) == [(1, 0), (1, 1), (2, 0), (2, 1)]
    used = [s["genotype"]["provenance"]["seed"] for s in result["searches"]]
    assert sorted(used) == [1, 2, 1001, 1002]
    # Two rates for each network of a fold, once where both searches found it.
    networks = {(s["fold"], *s["genotype"]["blocks"]) for s in result["searches"]}
    assert len(result["tuning"]) == 2 * (3 * 2 + len(networks))
    for search in result["searches"]:
        assert search["macs"] <= search["max_macs"] == result["rows"][0]["macs"]
    for row in result["rows"][1:]:
        assert row["max_macs"] <= result["rows"][0]["max_macs"]
    drawn = {r["name"]: r["blocks"] for r in result["trainings"] if "rand" in r["name"]}
    assert len(set(drawn.values())) == 2
    identity = ("name", "fold", "blocks")
    for record in result["trainings"]:
        own = [
            r
            for r in result["tuning"]
            if [r[key] for key in identity] == [record[key] for key in identity]
        ]
        best = max(own, key=lambda r: (r["accuracy"], -r["lr"]))
        assert record["lr"] == best["lr"]
        assert 0 <= record["accuracy"] <= 1
    assert "A REDUCED setting" in printed and "| TSM-MobileNetV2 |" in printed
    for plot in ("macs", "latency"):
        content = (work_dir / f"real_clips_{plot}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
    logs = {p: p.read_bytes() for p in work_dir.glob("*.jsonl")}
    assert len(logs) == 3
    # One training is lost; the second call repeats it alone, with the same result.
    path = work_dir / "trainings.jsonl"
    kept = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(kept[:-1]))
    real_clips.main(arguments)
    for log, before in logs.items():
        if log != path:
            assert log.read_bytes() == before
    again = [json.loads(line) for line in path.read_bytes().splitlines()]
    for new, old in zip(again, map(json.loads, kept), strict=True):
        assert new["accuracy"] == old["accuracy"] and new["loss"] == old["loss"]
    # Fewer searches, one rate: only what belongs to them is in the result.
    real_clips.main([*arguments, "--search-seeds", "1", "--learning-rates", "0.05"])
    result = json.loads((work_dir / "real_clips.json").read_text())
    assert [s["seed"] for s in result["searches"]] == [1, 1]
    assert result["tuning"] == []
    assert {r["lr"] for r in result["trainings"]} == {0.05}
    # Of both searches of a fold the one whose network the inner split prefers.
    real_clips.main([*arguments, "--keep-best", "0.05", "--learning-rates", "0.05"])
    assert "Of the searches [0, 1] of a fold" in capsys.readouterr().out
    result = json.loads((work_dir / "real_clips.json").read_text())
    assert [row["trainings"] for row in result["rows"]] == [2, 2, 2, 2]
    assert {(r["name"], r["lr"], r["split"]) for r in result["tuning"]} == {
        ("tiny <= TSM-MobileNetV2", 0.05, 1)
    }
    for record in result["trainings"][-2:]:
        judged = {
            r["blocks"]: r["accuracy"]
            for r in result["tuning"]
            if r["fold"] == record["fold"]
        }
        assert judged[record["blocks"]] == max(judged.values())
    with pytest.raises(ValueError, match="momentum: found"):
        real_clips.main([*arguments, "--momentum", "0.5"])


def test_wrong_options_are_told(tmp_path, monkeypatch):
    write_lists(tmp_path)
    with pytest.raises(ValueError, match="--folds: found 3, expected 1 to 2"):
        real_clips.main(
            [str(tmp_path), "--folds", "3", "--work-dir", str(tmp_path / "work")]
        )
    with pytest.raises(ValueError, match="--tuning-splits: found 2, expected 0 to 1"):
        real_clips.main(
            [str(tmp_path), "--tuning-splits", "2", "--work-dir", str(tmp_path / "s")]
        )
    study = real_study.Study(
        real_study.Loader(tmp_path, Setting(frames=4, crop=64)), tmp_path / "other"
    )
    # The smallest of the space has more than the lower of two budgets.
    monkeypatch.setattr(study, "macs", dict(small=1, large=10**12).__getitem__)
    monkeypatch.setattr(real_study, "MAX_DRAWS", 5)
    with pytest.raises(ValueError, match="found 0 networks of 'light' under 1 "):
        study.draw("light", ["small", "large"], 1)
    with pytest.raises(
        ValueError, match=r"--search-seeds: found \[-1\], expected 0 or"
    ):
        real_clips.main(
            [str(tmp_path), "--search-seeds", "-1", "--work-dir", str(tmp_path / "w")]
        )
    with pytest.raises(ValueError, match=r"found 'mine\.json', expected NAME=FILE"):
        real_clips.read_genotypes(["mine.json"])
