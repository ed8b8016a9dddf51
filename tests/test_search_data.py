"""The halves of the training list, and batches that follow from (seed, number)."""

import random
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from searching import ToyClips, batch_indices
from torch.utils.data import DataLoader

from pvnas_mmaction.engine.search_data import (
    SearchData,
    SeededDataset,
    StepSampler,
    split_by_class,
)

TOY = dict(type="ToyClips", length=8)


@pytest.mark.parametrize("share", [0.5, 0.3, 0.9])
def test_split_keeps_the_share_in_every_class(share):
    labels = random.Random(0).choices(range(5), weights=[1, 2, 4, 20, 50], k=300)
    weights, alphas = split_by_class(labels, share, seed=7)
    assert sorted(weights + alphas) == list(range(300))
    for label, size in Counter(labels).items():
        count = sum(labels[i] == label for i in alphas)
        assert abs(count - share * size) <= 0.5
    assert (weights, alphas) == split_by_class(labels, share, seed=7)
    assert (weights, alphas) != split_by_class(labels, share, seed=8)


def test_split_keeps_clips_of_one_file_together():
    labels = [0, 0, 1, 1] * 6
    files = [f"{i % 16}.mp4" for i in range(24)]  # eight are there twice
    weights, alphas = split_by_class(labels, 0.5, 0, files)
    assert sorted(weights + alphas) == list(range(24))
    assert not {files[i] for i in weights} & {files[i] for i in alphas}
    plain = split_by_class(labels, 0.5, 0)
    assert plain == split_by_class(labels, 0.5, 0, [str(i) for i in range(24)])


def test_split_errors():
    for labels, share, message in (
        ([0, 0], "half", r"alpha_share: expected a number in \(0, 1\), got 'half'"),
        ([0, 0], 0.0, r"a number in \(0, 1\), got 0.0"),
        ([0, 1, 2], 0.5, "expected two clips or more of one class, got 3 clips"),
    ):
        with pytest.raises(ValueError, match=message):
            split_by_class(labels, share, seed=0)


def test_a_batch_does_not_depend_on_what_was_drawn_before():
    indices = range(100, 123)
    straight = StepSampler(indices, 4, seed=3)
    assert straight.batches_per_epoch == 5
    straight.num_batches = 17
    keys = list(straight)
    assert len(keys) == 17 * 4
    batches = [keys[i : i + 4] for i in range(0, len(keys), 4)]
    other = StepSampler(indices, 4, seed=3)
    for number in (16, 0, 9, 4, 5):
        assert other.batch(number) == batches[number]
    other.start, other.num_batches = 7, 6
    assert list(other) == [key for batch in batches[7:13] for key in batch]


def random_states() -> list:
    states = random.getstate(), repr(np.random.get_state())
    return [*states, torch.get_rng_state().tolist()]


def test_augmentation_follows_the_key_alone():
    dataset = SeededDataset(ToyClips(6))

    def draw(key):
        return dataset[key]["inputs"]

    first = draw((3, 10))
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random_states()
    assert torch.equal(draw((3, 10)), first)
    assert not torch.equal(draw((3, 11)), first)
    assert random_states() == before
    with pytest.raises(IndexError, match="out of bounds"):
        dataset[99, 0]
    assert random_states() == before


def make_data(seed: int = 0, **changes) -> SearchData:
    init_default_scope("mmaction")
    config = dict(batch_size=4, num_workers=0, dataset=dict(type="ToyClips", length=24))
    config["sampler"] = dict(type="DefaultSampler", shuffle=True)
    data = SearchData({**config, **changes}, alpha_share=0.5)
    data.set_up(Runner, seed)
    return data


def batches_of(loader: DataLoader, count: int) -> list[tuple[list[int], torch.Tensor]]:
    loader.sampler.num_batches = count
    return [
        (batch_indices(batch), torch.stack(batch["inputs"]))
        for batch in islice(loader, count)
    ]


def test_loaders_read_their_halves_and_workers_change_nothing():
    single, workers = make_data(), make_data(num_workers=2, persistent_workers=True)
    halves = {"weights": single.weights_half, "alpha": single.alpha_half}
    assert sorted(halves["weights"] + halves["alpha"]) == list(range(24))
    for name, half in halves.items():
        loaders = [getattr(data, f"{name}_loader") for data in (single, workers)]
        assert len(loaders[0]) == 3
        torch.manual_seed(0)
        ours = batches_of(loaders[0], 6)
        torch.manual_seed(1)
        theirs = batches_of(loaders[1], 6)
        for (indices, clips), (same, equal) in zip(ours, theirs, strict=True):
            assert indices == same
            assert torch.equal(clips, equal)
        # Two epochs: each has the whole half, in another order.
        epochs = [ours[:3], ours[3:]]
        first, second = ([i for ids, _ in epoch for i in ids] for epoch in epochs)
        assert sorted(first) == sorted(second) == half
        assert first != second


def test_calibration_is_the_same_each_time_and_from_the_weights_half():
    data = make_data()
    first = list(data.calibration(4))
    next(iter(data.weights_loader))
    others = (data.calibration(4), make_data().calibration(4))
    for batch, *again in zip(first, *others, strict=True):
        assert set(batch_indices(batch)) <= set(data.weights_half)
        for same in again:
            assert batch_indices(batch) == batch_indices(same)
            assert all(map(torch.equal, batch["inputs"], same["inputs"]))
    assert len(list(data.calibration(2))) == 2
    data.set_up(Runner, 1)
    other = next(data.calibration(4))
    assert batch_indices(other) != batch_indices(first[0])


def test_class_ids_that_are_refused(tmp_path):
    init_default_scope("mmaction")
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{index}.mp4 3\n" for index in range(3)))
    dataset = dict(type="VideoDataset", ann_file=str(path), pipeline=[])
    message = "expected two classes or more, got class id 3 alone"
    with pytest.raises(ValueError, match=message):
        SearchData(dict(batch_size=1, dataset=dataset), 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(dataset=dict(TOY, multi_class=True)), "clip 0: expected one class id"),
        (dict(dataset=dict(type="RepeatDataset", times=3, dataset=TOY)), "got Repeat"),
        (dict(batch_size=13), "batch_size: expected 12 or less .*, got 13 on each"),
    ],
)
def test_wrong_loaders(changes, message, monkeypatch):
    monkeypatch.setattr(ToyClips, "full_init", lambda self: None, raising=False)
    with pytest.raises(ValueError, match=message):
        make_data(**changes)
