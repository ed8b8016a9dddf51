# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Real clips: folds and views."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from real_lists import FOUR_FOLDS, numbered_clips, write_lists

from benchmarks.real_data import Fold, RealClips, Split, read_folds


def test_folds_by_hand(tmp_path):
    names, labels, folds = read_folds(write_lists(tmp_path))
    assert names == ["push", "pull"]
    assert labels == {"c.mp4": 0, "d.mp4": 1, "e.mp4": 1, "a.mp4": 0, "b.mp4": 1}
    # Rows: c, d, e, a, b. What the next fold tests on is held out of the training part.
    assert folds == [
        Fold(Split(train=(0, 1, 2), val=(3, 4)), (Split(train=(2,), val=(0, 1)),)),
        Fold(Split(train=(3, 4, 2), val=(0, 1)), (Split(train=(2,), val=(3, 4)),)),
    ]


def test_each_other_fold_is_held_out_in_turn_the_next_one_first(tmp_path):
    _, labels, folds = read_folds(write_lists(tmp_path, **FOUR_FOLDS))
    path = {row: name[0] for row, name in enumerate(labels)}
    spelt = [
        ["".join(map(path.get, part)) for split in fold.inner for part in split]
        for fold in folds
    ]
    assert spelt == [
        ["rs", "q", "qs", "r", "qr", "s"],
        ["ps", "r", "pr", "s", "rs", "p"],
        ["pq", "s", "qs", "p", "ps", "q"],
        ["qr", "p", "pr", "q", "pq", "r"],
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(fold1_val="c.mp4 0\n"), "fold 1: found 'c.mp4' in both lists"),
        (dict(fold1_val="a.mp4 2\n"), "line 1: found 'a.mp4 2', expected a path and"),
        (dict(fold1_val="a.mp4\n"), "line 1: found 'a.mp4', expected a path and a cl"),
        (dict(fold2_train="a.mp4 1\n"), "found class 1 for 'a.mp4', expected 0"),
        (dict(fold2_val="f.mp4 0\n"), "fold 1: found 0 training clips that fold 2 "),
    ],
)
def test_wrong_lists_are_told(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_folds(write_lists(tmp_path, **changes))


def test_one_fold_is_too_few(tmp_path):
    write_lists(tmp_path)
    (tmp_path / "fold2_train.txt").unlink()
    with pytest.raises(FileNotFoundError, match="found 1 folds, expected fold1_train"):
        read_folds(tmp_path)


def test_the_tennis_folds_share_no_clip(tennis7):
    names, labels, folds = read_folds(tennis7)
    assert (len(names), len(labels), len(folds)) == (7, 295, 4)
    tested = [row for fold in folds for row in fold.whole.val]
    assert sorted(tested) == list(range(295))
    for fold in folds:
        assert not set(fold.whole.train) & set(fold.whole.val)
        for split in fold.inner:
            assert sorted(split.train + split.val) == sorted(fold.whole.train)
        held_out = [row for split in fold.inner for row in split.val]
        assert sorted(held_out) == sorted(fold.whole.train)


def test_the_view_to_test_on_is_the_middle():
    view = numbered_clips().views([0])
    assert view.shape == (1, 3, 2, 4, 4)
    # Frames 1 and 4 of the halves 0 to 2 and 3 to 5, columns 2 to 5.
    for position, frame in enumerate((1, 4)):
        rows = view[0, :, position].reshape(-1, 4)
        assert (rows == 10 * frame + torch.arange(2.0, 6.0)).all()


def test_training_views_draw_one_frame_of_each_part_and_follow_from_the_seed():
    clips = numbered_clips()
    seen = []
    for seed in range(40):
        view = clips.views([0], [seed])
        assert torch.equal(view, clips.views([0], [seed]))
        # Columns go up: no view is mirrored. Frames are ten apart.
        assert (view.diff(dim=-1) >= 0).all()
        start = clips._times(np.random.default_rng(seed))
        seen.append(tuple(start))
    assert {first for first, _ in seen} == {0, 1, 2}
    assert {second for _, second in seen} == {3, 4, 5}


def test_crops_keep_area_and_ratio():
    frames = torch.zeros(1, 2, 100, 120, 3, dtype=torch.uint8)
    clips = RealClips(frames, torch.tensor([0]), 2, 16)
    for seed in range(200):
        top, left, height, width = clips._box(np.random.default_rng(seed))
        assert 0 <= top <= 100 - height and 0 <= left <= 120 - width
        # What is cut at the border is lost, and a side is rounded.
        assert height * width <= 1.02 * 100 * 120
        if height < 100 and width < 120:
            assert height * width >= 0.38 * 100 * 120
            assert 0.73 <= width / height <= 1.36


def test_a_still_frame_of_some_clip_is_mixed_into_training_views_alone():
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (3, 6, 8, 8, 3), generator=generator).byte()
    labels = torch.arange(3)
    plain = RealClips(frames, labels, 2, 8)
    mixed = RealClips(frames, labels, 2, 8, background_mixing=0.5).select([0, 1, 2])
    assert torch.equal(mixed.views([0, 1, 2]), plain.views([0, 1, 2]))
    partners, shares = set(), []
    for seed in range(40):
        view, before = mixed.views([0], [seed])[0], plain.views([0], [seed])[0]
        assert torch.equal(view, mixed.views([0], [seed])[0])
        draws = np.random.default_rng(seed)
        plain._times(draws)
        top, left, height, width = plain._box(draws)
        other, time = int(draws.integers(3)), int(draws.integers(6))
        share = draws.uniform(0, 0.5)
        picture = frames[other, time, top : top + height, left : left + width]
        still = torch.nn.functional.interpolate(
            picture.permute(2, 0, 1)[None].float(),
            (8, 8),
            mode="bilinear",
            antialias=True,
        )[0]
        expected = (1 - share) * before + share * still[:, None]
        torch.testing.assert_close(view, expected.float())
        partners.add(other)
        shares.append(share)
    assert partners == {0, 1, 2}
    assert 0 <= min(shares) < 0.1 and 0.4 < max(shares) <= 0.5


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_is_none_is_told(share):
    frames = torch.zeros(1, 4, 8, 8, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"background_mixing: found {share}, expected"):
        RealClips(frames, torch.tensor([0]), 2, 8, share)


def test_too_few_stored_frames_are_told():
    frames = torch.zeros(1, 4, 8, 8, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="stored_frames: found 4, expected 8 or more"):
        RealClips(frames, torch.tensor([0]), 8, 8)
