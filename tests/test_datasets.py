"""Lists with faults, videos that cannot be read, and how both are reported."""

import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock, patch

import numpy as np
import pytest
import torch
from mmaction.datasets import VideoDataset
from mmaction.registry import DATASETS
from mmaction.utils import register_all_modules
from mmengine.config import Config
from mmengine.logging import MMLogger
from test_video_frames import damage, encode, remux

from pvnas_mmaction.apis.config_checks import warn_of_shared_clips
from pvnas_mmaction.datasets import (
    PVNASVideoDataset,
    VideoFrames,
    video_list,
)

PIPELINE = [  # as configs for MMAction2 have it
    dict(type="DecordInit"),
    dict(type="SampleFrames", clip_len=4, frame_interval=1, num_clips=1),
    dict(type="DecordDecode"),
    dict(type="FormatShape", input_format="NCTHW"),
    dict(type="PackActionInputs"),
]


@pytest.fixture(autouse=True)
def scope() -> None:
    register_all_modules(init_default_scope=True)


@pytest.fixture
def folder(motion_clips: Path, tmp_path: Path) -> Path:
    """A copy of the motion clips that a test may spoil."""
    return Path(shutil.copytree(motion_clips, tmp_path / "clips"))


@pytest.fixture
def log() -> Iterator[list[str]]:
    """Messages of level WARNING and above of the current mmengine logger."""
    messages: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "deprecated" not in record.getMessage():  # mmengine's own
                messages.append(record.getMessage())

    logger, handler = MMLogger.get_current_instance(), Collect(logging.WARNING)
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def build(folder: Path, name: str = "train.txt", **kwargs) -> PVNASVideoDataset:
    config = dict(type="PVNASVideoDataset", num_classes=8, pipeline=PIPELINE)
    config.update(ann_file=str(folder / name), data_prefix=dict(video=str(folder)))
    return DATASETS.build({**config, **kwargs})


# -- good input ----------------------------------------------------------------------


def test_good_list_gives_what_video_dataset_gives(folder: Path) -> None:
    ours = build(folder, test_mode=True)
    theirs = build(folder, test_mode=True, type="VideoDataset")
    assert type(theirs) is VideoDataset
    assert len(ours) == len(theirs) > 0
    for i in range(5):
        assert ours.get_data_info(i) == theirs.get_data_info(i)
        np.random.seed(i)
        mine = ours[i]
        np.random.seed(i)
        reference = theirs[i]
        torch.testing.assert_close(mine["inputs"], reference["inputs"])
        assert mine["data_samples"].gt_label == reference["data_samples"].gt_label


def test_unusual_names_lines_and_lengths(folder: Path, log: list[str]) -> None:
    names = ["two words.mp4", "line\u2028separator.mp4", "next\x85line.mp4", "'q'.mp4"]
    for name in names:
        shutil.copy(folder / "train/00000.mp4", folder / name)
    lines = [f"  {name} \t {label} " for label, name in enumerate(names)]
    text = "\ufeff" + "\r\n\r\n".join(lines)  # the last line has no end
    (folder / "list.txt").write_text(text, encoding="utf-8", newline="")
    dataset = build(folder, "list.txt")
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    assert [str(Path(d["filename"]).relative_to(folder)) for d in infos] == names
    assert [d["label"] for d in infos] == [0, 1, 2, 3]
    assert dataset[0]["inputs"].shape == (1, 3, 4, 32, 32)
    # A video may be shorter than the clip.
    log.clear()
    for length in (1, 3):
        encode(folder / f"train/0000{length}.mp4", length=length, size=(32, 32))
    dataset = build(folder)
    assert dataset[1]["inputs"].shape == dataset[3]["inputs"].shape == (1, 3, 4, 32, 32)
    assert not log


# -- faults of the list --------------------------------------------------------------

LIST = "a list of lines 'path class_id'"
CLIP = "train/00001.mp4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, rf"train_dataloader\.dataset\.ann_file: expected {LIST}, got '.*list"),
        ("", rf"ann_file: expected {LIST}, got .*list\.txt, which is empty"),
        (b"\xff\xfe\x00", rf"ann_file: expected {LIST}, got .*list\.txt: 'utf-8'"),
        (f"{CLIP} 0\n\n{CLIP} cat", r"list\.txt:3: expected 'path class_id', got"),
        (f"{CLIP} 8", ":1: expected class ids from 0 to .*8 classes.*, got 8; .* 9 or"),
        (f"{CLIP} -1", "dataset.ann_file: .*:1: expected .* got -1; correct the line$"),
    ],
)
def test_a_list_with_a_fault(folder: Path, text: str | None, message: str) -> None:
    if text is not None:
        data = text if isinstance(text, bytes) else text.encode()
        (folder / "list.txt").write_bytes(data)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build(folder, "list.txt")


# -- clips on both sides ---------------------------------------------------------------


def test_one_file_under_several_names(folder: Path, log: list[str]) -> None:
    lines = (folder / "train.txt").read_text().splitlines()
    path, label = lines[3].rsplit(" ", 1)
    (folder / "link").symlink_to(folder / "train")
    (folder / "other.mp4").symlink_to(folder / path)
    names = [f"./{path}", f"link/{Path(path).name}", "other.mp4", f"train/../{path}"]
    more = [f"{name} {label}" for name in names]
    more += [f"./{lines[4]}", lines[5][:-1] + "7"]
    (folder / "train.txt").write_text("\n".join(lines + more))
    dataset = build(folder)
    assert len(dataset) == 32 + len(more)
    [message] = log
    names = ", ".join(f"{folder}/train/0000{i}.mp4" for i in (3, 4, 5))
    assert f"once, got 3 of 32 more than once, such as {names}; take" in message


def test_lists_that_share_clips(folder: Path, log: list[str]) -> None:
    lines = (folder / "train.txt").read_text().splitlines()
    shared = "".join(f"./{line}\n" for line in lines[:5])
    (folder / "mixed.txt").write_text((folder / "val.txt").read_text() + shared)

    def dataset(name: str) -> dict:
        prefix = dict(video=str(folder))
        config = dict(type="PVNASVideoDataset", data_prefix=prefix, pipeline=[])
        return dict(config, ann_file=str(folder / name))

    def warnings_of(**datasets: dict) -> list[str]:
        log.clear()
        loaders = {f"{k}_dataloader": dict(dataset=v) for k, v in datasets.items()}
        warn_of_shared_clips(Config(loaders))
        return list(log)

    train, mixed = dataset("train.txt"), dataset("mixed.txt")
    wrapped = dict(type="RepeatDataset", times=2, dataset=train)
    twice = dict(type="ConcatDataset", datasets=[train, wrapped])
    [message] = warnings_of(train=train, val=mixed, test=mixed)
    assert message == (
        "val_dataloader.dataset.ann_file: expected other clips than in "
        "train_dataloader.dataset, got 5 of 21 that are in both, such as "
        f"{folder}/train/00000.mp4, {folder}/train/00001.mp4, "
        f"{folder}/train/00002.mp4; take them out of one list"
    )
    [message] = warnings_of(train=wrapped, test=mixed)
    assert message.startswith("test_dataloader.dataset.ann_file: expected other clips")
    [message] = warnings_of(train=twice, val=dataset("none.txt"))
    assert "dataset.datasets[1].dataset.ann_file: expected other clips" in message
    assert warnings_of(train=train, val=dataset("val.txt")) == []


def test_a_list_to_validate_is_opened_whole(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(video_list, "MAX_OPENED", 1)
    (folder / "val" / "00001.mp4").write_bytes(b"")
    build(folder, "val.txt")
    with pytest.raises(ValueError, match="1 of 16 that cannot be read"):
        build(folder, "val.txt", test_mode=True)


# -- videos that cannot be read --------------------------------------------------------


def truncate(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


SPOIL: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "truncated": truncate,
    "garbled": lambda path: damage(path, path, 0),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("fault", SPOIL)
def test_a_bad_video_is_found_at_the_start(folder, log, fault):
    """Even where it is the last one of its list."""
    SPOIL[fault](folder / "val/00015.mp4")
    message = (
        r"val\.txt in val/test_dataloader\.dataset: expected every video, got 1 of 16 "
        r"that cannot be read: .*val/00015\.mp4 \(.+\); supply them"
    )
    with pytest.raises(ValueError, match=message):
        build(folder, "val.txt", test_mode=True)
    dataset = build(folder, "val.txt")
    [message] = log
    assert "got 1 of 16 that cannot be read" in message
    assert message.endswith("they will be skipped")
    assert dataset[15]["inputs"].shape == (1, 3, 4, 32, 32)


def test_a_video_that_goes_bad_later(folder: Path, log: list[str]) -> None:
    dataset = build(folder, max_refetch=6)
    judged = build(folder, test_mode=True)
    truncate(folder / "train/00003.mp4")
    first, second = dataset[3], dataset[3]
    assert first["inputs"].shape == (1, 3, 4, 32, 32)
    # The same replacement each time, and one warning only.
    assert first["data_samples"].gt_label == second["data_samples"].gt_label
    assert len(log) == 1
    assert "train/00003.mp4: expected a video, got" in log[0]
    assert judged[2]["inputs"].shape == (1, 3, 4, 32, 32)
    with pytest.raises(OSError, match=r"train/00003\.mp4: expected a video, got"):
        judged[3]
    full = OSError(errno.ENOSPC, "no space left", "cache")
    step, failing = judged.pipeline.transforms[0], Mock(side_effect=full)
    disk = patch.object(step, "transform", failing)
    with disk, pytest.raises(OSError, match="Errno 28"):  # no fault of a video
        judged[4]
    for path in (folder / "train").iterdir():
        truncate(path)
    with pytest.raises(OSError, match=r"train\.txt: expected clips .* none in 7 tr"):
        dataset[0]


def test_truncated_video_is_read_as_far_as_it_goes(folder: Path, log: list) -> None:
    path = folder / "val/00003.mp4"
    encode(path.with_name("whole.mp4"), length=20, size=(32, 32), gop=1)
    remux(path.with_name("whole.mp4"), path, movflags="faststart")
    truncate(path, 0.8)
    dataset = build(folder, "val.txt", test_mode=True)
    for _ in range(2):
        assert dataset[3]["inputs"].shape == (1, 3, 4, 32, 32)
    assert 0 < dataset._lengths[str(path)] < 20
    [message] = log
    assert message.startswith(f"{path}: expected a whole video, got ")


def test_replacement_stays_in_its_part(folder: Path) -> None:
    dataset = build(folder)
    parts = [list(range(0, 32, 2)), [1, 3, 5]]
    dataset.keep_apart(parts)
    for index in (*range(0, 32, 2), 1, 3, 5):
        drawn = {dataset._replacement(index, attempt) for attempt in range(1, 30)}
        assert drawn <= set(parts[index % 2]) - {index}
    alone = build(folder)
    alone.keep_apart([[7]])
    assert alone._replacement(7, 1) == 7


def test_a_wrong_prefix(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"32 of 32 .*no such file"):
        build(folder, data_prefix=dict(video="wrong"))


def test_cache_gives_the_same_frames_without_decoding(folder, tmp_path, monkeypatch):
    resize = [
        dict(type="Resize", scale=(-1, 24)),
        dict(type="CenterCrop", crop_size=24),
    ]
    read, sample, decode, *rest = PIPELINE
    pipeline = [read, {**sample, "test_mode": True}, decode, *resize, *rest]
    settings = dict(pipeline=pipeline, test_mode=True)
    plain = build(folder, "val.txt", **settings)
    cached = build(folder, "val.txt", **settings, cache=str(tmp_path / "cache"))
    expected = [plain[i]["inputs"] for i in range(4)]
    assert expected[0].shape[-2:] == (24, 24)
    assert all(torch.equal(cached[i]["inputs"], expected[i]) for i in range(4))
    assert len(list((tmp_path / "cache").iterdir())) == 4
    other = build(folder, "val.txt", **settings, backend="decord")
    difference = (other[0]["inputs"].int() - expected[0]).abs().float().mean()
    assert 0 <= difference < 4 and other[0]["inputs"].shape == expected[0].shape
    with pytest.raises(ValueError, match="backend: expected one of auto, pyav"):
        build(folder, "val.txt", **settings, backend="PyAV")
    monkeypatch.setattr(VideoFrames, "_read", None)
    assert all(torch.equal(cached[i]["inputs"], expected[i]) for i in range(4))
