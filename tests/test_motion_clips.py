"""The motion clips: what moves, what does not tell the class, and the files."""

import json
from pathlib import Path

import numpy as np
import pytest
from tool_processes import load_tool

from benchmarks.ground_truth import load
from pvnas_mmaction.datasets import VideoFrames

tool = load_tool("make_motion_clips")
SMALL = ["--num-train", "16", "--num-val", "8", "--frames", "4"]


def make(out: Path, *options: str) -> None:
    """Run the tool in this process."""
    tool.main(["--out", str(out), *SMALL, "--workers", "1", *options])


def decode_all(out: Path) -> dict[str, np.ndarray]:
    videos = {str(p.relative_to(out)): VideoFrames(str(p)) for p in out.rglob("*.mp4")}
    return {name: np.stack(v.read(range(len(v)))) for name, v in videos.items()}


# -- what moves --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "axis", "shift"), [(0, 2, -1), (1, 2, 1), (2, 1, -1), (3, 1, 1)]
)
def test_translation_shifts_the_picture(label, axis, shift, monkeypatch) -> None:
    # One pixel per frame over an even background: frame t is frame 0, rolled.
    monkeypatch.setattr(tool, "SPEEDS", (1 / 40, 1 / 40))
    clip = tool.render_clip(3, "train", label + 8, 40, 6, 0.0).astype(int)
    for t in range(6):
        expected = np.roll(clip[0], shift * t, axis - 1)
        # The rounding of a coordinate may move a value by one level.
        assert np.abs(clip[t] - expected).max() <= 1
    assert np.abs(clip[1] - clip[0]).max() > 20


# -- the files -----------------------------------------------------------------------


def test_files_and_lists(tmp_path: Path) -> None:
    out = tmp_path / "clips"
    make(out, "--num-train", "19")
    assert (out / "classes.txt").read_text().splitlines() == list(tool.CLASSES)
    for split, count in (("train", 19), ("val", 8)):
        rows = [line.split() for line in (out / f"{split}.txt").open()]
        counts = np.bincount([int(label) for _, label in rows], minlength=8)
        assert len(rows) == count
        assert counts.max() - counts.min() <= 1
        assert all((out / path).is_file() for path, _ in rows)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["num_train"] == 19
    # The table's clips can be made.
    table = load().settings["clips"]
    counts = {key: manifest[key] for key in ("num_train", "num_val", "frames", "noise")}
    assert {**manifest, **table} == {**manifest, **{k: table[k] for k in counts}}
    lists = ["train.txt", "val.txt", "classes.txt", "manifest.json"]
    assert {p.name for p in out.iterdir()} == {"train", "val", *lists}


def test_same_seed_same_pixels(tmp_path: Path) -> None:
    make(tmp_path / "one")
    more = ["--num-train", "24", "--num-val", "16", "--workers", "2"]
    make(tmp_path / "more", *more)
    make(tmp_path / "other", "--seed", "1")
    one, more, other = (decode_all(tmp_path / n) for n in ("one", "more", "other"))
    assert (len(one), len(more)) == (24, 40)
    for name, frames in one.items():
        np.testing.assert_array_equal(frames, more[name])
        assert (frames != other[name]).any()
    assert (one["train/00000.mp4"] != one["val/00000.mp4"]).any()
    assert (one["train/00000.mp4"] != one["train/00008.mp4"]).any()


def test_a_second_call_renders_only_what_is_missing(tmp_path: Path, capsys) -> None:
    out = tmp_path / "clips"
    make(out)
    before = decode_all(out)
    make(out)
    assert "24 clips, 0 rendered now" in capsys.readouterr().out
    (out / "train" / "00003.mp4").unlink()
    # As a killed run leaves it.
    (out / "val" / "00001.123.tmp").write_bytes(b"half")
    make(out)
    assert "24 clips, 1 rendered now" in capsys.readouterr().out
    assert not list(out.rglob("*.tmp"))
    after = decode_all(out)
    assert all((before[name] == after[name]).all() for name in before)
    # Another render is not overwritten, nor are other files.
    message = "expected a render with noise=0.1, got noise=0.06; give"
    with pytest.raises(ValueError, match=message):
        make(out, "--noise", "0.1")
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="expected an empty folder, got files"):
        make(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "mine"
