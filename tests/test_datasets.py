# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Lists with faults, videos that cannot be read, and how both are reported."""

from __future__ import annotations

import copy
import logging
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from mmaction.datasets import VideoDataset
from mmaction.registry import DATASETS
from mmaction.utils import register_all_modules
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from pvnas_mmaction.apis.errors import error_line, is_user_error
from pvnas_mmaction.datasets import (
    PVNASVideoDataset,
    SkippedClipsHook,
    skipped_clips_hook,
)

PIPELINE = [
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


def build(folder: Path, ann_file: str = "train.txt", **kwargs) -> PVNASVideoDataset:
    config = dict(
        type="PVNASVideoDataset",
        ann_file=str(folder / ann_file),
        data_prefix=dict(video=str(folder)),
        num_classes=8,
        pipeline=PIPELINE,
    )
    return DATASETS.build({**config, **kwargs})


# -- good input ----------------------------------------------------------------------


@pytest.mark.parametrize("kwargs", [{}, dict(indices=5), dict(start_index=0)])
def test_good_list_gives_what_video_dataset_gives(folder: Path, kwargs: dict) -> None:
    ours = build(folder, test_mode=True, **kwargs)
    theirs = build(folder, test_mode=True, type="VideoDataset", **kwargs)
    assert type(theirs) is VideoDataset
    assert len(ours) == len(theirs) > 0
    for i in range(min(5, len(ours))):
        assert ours.get_data_info(i) == theirs.get_data_info(i)
        np.random.seed(i)
        mine = ours[i]
        np.random.seed(i)
        reference = theirs[i]
        torch.testing.assert_close(mine["inputs"], reference["inputs"])
        assert mine["data_samples"].gt_label == reference["data_samples"].gt_label


def test_multi_class_and_delimiter(folder: Path) -> None:
    (folder / "list.csv").write_text("train/00000.mp4,1,4\ntrain/00001.mp4,0\n")
    kwargs = dict(multi_class=True, delimiter=",")
    ours = build(folder, "list.csv", **kwargs)
    theirs = build(folder, "list.csv", type="VideoDataset", **kwargs)
    for i in range(2):
        label = theirs.get_data_info(i)["label"]
        torch.testing.assert_close(ours.get_data_info(i)["label"], label)


def test_path_with_spaces_blank_lines_and_byte_order_mark(folder: Path) -> None:
    shutil.copy(folder / "train/00000.mp4", folder / "two words.mp4")
    text = "\ufefftwo words.mp4 3\r\n\r\n  train/00001.mp4   1  \r\n\r\n"
    (folder / "list.txt").write_text(text, encoding="utf-8", newline="")
    dataset = build(folder, "list.txt")
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    names = [str(Path(d["filename"]).relative_to(folder)) for d in infos]
    assert names == ["two words.mp4", "train/00001.mp4"]
    assert [d["label"] for d in infos] == [3, 1]
    assert dataset[0]["inputs"].shape == (1, 3, 4, 32, 32)


def test_names_with_unusual_separators(folder: Path) -> None:
    names = ["line\u2028separator.mp4", "next\x85line.mp4", "'quoted'.mp4"]
    for name in names:
        shutil.copy(folder / "train/00000.mp4", folder / name)
    # The last line has no end.
    text = "\n".join(f"{name} {label}" for label, name in enumerate(names))
    (folder / "list.txt").write_text(text, encoding="utf-8")
    ours = build(folder, "list.txt")
    theirs = build(folder, "list.txt", type="VideoDataset")
    assert len(ours) == len(theirs) == 3
    for i in range(3):
        assert ours.get_data_info(i) == theirs.get_data_info(i)


@pytest.mark.parametrize("num_frames", [1, 2, 3])
@pytest.mark.parametrize("test_mode", [False, True])
def test_a_video_may_be_shorter_than_the_clip(
    folder: Path, log: list[str], num_frames: int, test_mode: bool
) -> None:
    write_video(folder / "train/00000.mp4", num_frames)
    dataset = build(folder, test_mode=test_mode)
    assert dataset[0]["inputs"].shape == (1, 3, 4, 32, 32)
    assert log == []


# -- faults of the list --------------------------------------------------------------


def test_missing_list(folder: Path) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"ann_file: no such file: .*nowhere\.txt .*Set train_dataloader\.dataset",
    ):
        build(folder, "nowhere.txt")
    with pytest.raises(FileNotFoundError, match=r"Set val/test_dataloader\.dataset"):
        build(folder, "nowhere.txt", test_mode=True)


@pytest.mark.parametrize("text", ["", "\n\n  \n"])
def test_empty_list(folder: Path, text: str) -> None:
    (folder / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=r"list\.txt is empty, expected lines 'path"):
        build(folder, "list.txt")


def test_list_is_not_text(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"00000\.mp4: expected UTF-8 text"):
        build(folder, "train/00000.mp4")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train/00001.mp4", r"expected 'path class_id', found 'train/00001\.mp4'"),
        ("train/00001.mp4 cat", r"expected 'path class_id', found 'train/00001\.mp4 c"),
        ("train/00001.mp4 1.5", r"expected 'path class_id', found .*1\.5'"),
        ("train/00001.mp4,1", r"expected 'path class_id', found .*mp4,1'"),
        ("3", r"expected 'path class_id', found '3'"),
        (
            "train/00001.mp4 8",
            r"found class id 8, expected one in \[0, 8\): ids count from 0.*at least 9",
        ),
        ("train/00001.mp4 -1", r"found class id -1, expected >= 0"),
    ],
)
def test_malformed_line(folder: Path, line: str, message: str) -> None:
    (folder / "list.txt").write_text(f"train/00000.mp4 0\n\n{line}\n")
    with pytest.raises(ValueError, match=rf"list\.txt:3: {message}"):
        build(folder, "list.txt")


def test_without_num_classes_any_class_id_goes(folder: Path) -> None:
    (folder / "list.txt").write_text("train/00000.mp4 1000\n")
    dataset = build(folder, "list.txt", num_classes=None)
    assert dataset.get_data_info(0)["label"] == 1000


def test_multi_class_needs_num_classes(folder: Path) -> None:
    message = r"train_dataloader\.dataset\.num_classes: found None, expected the number"
    with pytest.raises(ValueError, match=message):
        build(folder, multi_class=True, num_classes=None)


def test_all_videos_missing(folder: Path) -> None:
    message = (
        r"data_prefix: .*train\.txt: 32 of 32 videos looked for are missing, the "
        r"first: wrong/train/00000\.mp4\. Set train_dataloader\.dataset\.data_prefix"
    )
    with pytest.raises(ValueError, match=message):
        build(folder, data_prefix=dict(video="wrong"))


@pytest.mark.parametrize(("test_mode", "loader"), [(0, "train"), (1, "val/test")])
def test_a_prefix_is_a_dict(folder: Path, test_mode: bool, loader: str) -> None:
    message = (
        rf"{loader}_dataloader\.dataset\.data_prefix: found 'clips', expected "
        r"dict\(video='clips'\)"
    )
    with pytest.raises(ValueError, match=message):
        build(folder, data_prefix="clips", test_mode=test_mode)


def test_some_videos_missing(folder: Path, log: list[str]) -> None:
    for name in ("00002", "00005"):
        (folder / f"train/{name}.mp4").unlink()
    message = r"2 of 32 videos looked for are missing, the first: .*train/00002\.mp4"
    with pytest.raises(ValueError, match=message):
        build(folder, test_mode=True)
    dataset = build(folder)
    assert len(log) == 1
    assert re.search(message + r"\. They will be skipped", log[0])
    assert dataset[2]["inputs"].shape == (1, 3, 4, 32, 32)
    assert "train/00002.mp4: this video cannot be read and is skipped" in log[1]


@pytest.mark.parametrize(
    ("added", "told"),
    [("", "1 video(s) are listed more than once, the"), ("9", "1 of them with diff")],
)
def test_videos_listed_twice(
    folder: Path, log: list[str], added: str, told: str
) -> None:
    path, label = (folder / "train.txt").read_text().splitlines()[3].rsplit(" ", 1)
    other = str((int(label) + 1) % 8) if added else label
    with (folder / "train.txt").open("a") as stream:
        stream.write(f"{path} {other}\n")
    dataset = build(folder)
    assert len(dataset) == 33
    [message] = log
    assert told in message and message.endswith(f"the first: {folder}/{path}")


# -- videos that cannot be read --------------------------------------------------------


def write_video(path: Path, num_frames: int, **options: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        container.start_encoding()
        for i in range(num_frames):
            image = np.ascontiguousarray(np.roll(noise, i, 0))
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncate_behind_index(path: Path) -> None:
    write_video(path, 20, movflags="faststart")
    data = path.read_bytes()
    assert data.find(b"moov") < data.find(b"mdat")
    path.write_bytes(data[: len(data) * 2 // 3])


def sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        silence = np.zeros((1, 16000), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def garble(path: Path) -> None:
    """Zeros in place of the coded frames; the container stays whole."""
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for position, size in packets:
        data[position : position + size] = bytes(size)
    path.write_bytes(data)


SPOIL: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("this is no video\n" * 100),
    "truncated": truncate,
    "truncated behind the index": truncate_behind_index,
    "no frames": lambda path: write_video(path, 0),
    "sound only": sound_only,
    "garbled": garble,
}


@pytest.mark.parametrize("fault", SPOIL)
def test_bad_video_in_training_is_skipped(
    folder: Path, log: list[str], fault: str
) -> None:
    dataset = build(folder)
    SPOIL[fault](folder / "train/00003.mp4")
    first, second = dataset[3], dataset[3]
    assert first["inputs"].shape == (1, 3, 4, 32, 32)
    assert dataset.failures.nonzero().flatten().tolist() == [3]
    assert dataset.failures[3] == 2
    # The same replacement each time, and one warning only.
    assert first["data_samples"].gt_label == second["data_samples"].gt_label
    assert len(log) == 1
    assert "train/00003.mp4: this video cannot be read and is skipped" in log[0]


@pytest.mark.parametrize("fault", SPOIL)
def test_bad_video_in_testing_is_an_error(folder: Path, fault: str) -> None:
    dataset = build(folder, "val.txt", test_mode=True)
    SPOIL[fault](folder / "val/00003.mp4")
    assert dataset[2]["inputs"].shape == (1, 3, 4, 32, 32)
    with pytest.raises(OSError, match=r"val/00003\.mp4: this video cannot be rea"):
        dataset[3]


@pytest.mark.parametrize("test_mode", [False, True])
def test_crop_larger_than_the_frames_is_an_error(folder: Path, test_mode: bool) -> None:
    """MMAction2's transform would cut a strip of any height and say nothing."""

    def with_crop(size: int) -> PVNASVideoDataset:
        crop = dict(type="CenterCrop", crop_size=size)
        pipeline = [*PIPELINE[:3], crop, *PIPELINE[3:]]
        return build(folder, pipeline=pipeline, test_mode=test_mode)

    assert with_crop(32)[0]["inputs"].shape[-2:] == (32, 32)
    with pytest.raises(
        ValueError,
        match=r"dataset.pipeline.3.crop_size: found 33x33, expected no more than the "
        "frames' 32x32",
    ):
        with_crop(33)[0]


def test_bad_video_in_testing_is_told_in_one_line(folder: Path) -> None:
    dataset = build(folder, "val.txt", test_mode=True)
    truncate(folder / "val/00003.mp4")
    loader = DataLoader(dataset, 4, num_workers=1, collate_fn=pseudo_collate)
    with pytest.raises(OSError, match="Original Traceback") as info:
        list(loader)
    assert is_user_error(info.value)
    start = f"{folder}/val/00003.mp4: this video cannot be read"
    assert error_line(info.value).startswith(start)


def test_replacement_depends_on_index_and_attempt_only(folder: Path) -> None:
    dataset = build(folder)
    drawn = []
    for seed in (0, 1):
        np.random.seed(seed)
        drawn.append([dataset._replacement(i, a) for i in range(32) for a in (1, 2)])
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 16
    assert all(drawn[0][2 * i] != i for i in range(32))


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


def test_no_replacement_is_found(folder: Path) -> None:
    dataset = build(folder, max_refetch=6)
    for path in (folder / "train").iterdir():
        truncate(path)
    with pytest.raises(OSError, match=r"train\.txt: 7 clips in a row gave"):
        dataset[0]
    loader = DataLoader(dataset, 4, num_workers=2, collate_fn=pseudo_collate)
    with pytest.raises(OSError, match=r"train\.txt: 7 clips in a row gave"):
        list(loader)


def test_a_fault_of_the_config_is_not_a_bad_video(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crop = dict(type="CenterCrop", crop_size=(4, 5, 6))
    dataset = build(folder, pipeline=[*PIPELINE[:3], crop, *PIPELINE[3:]])
    with pytest.raises(ValueError, match="unpack"):
        dataset[0]
    dataset = build(folder)
    monkeypatch.setitem(__import__("sys").modules, "decord", None)
    with pytest.raises(ImportError, match="pip install decord"):
        dataset[0]
    assert not dataset.failures.any()


def test_subset_counts_for_itself(folder: Path) -> None:
    dataset = build(folder)
    truncate(folder / "train/00004.mp4")
    subset = dataset.get_subset([4, 5, 6])
    assert len(subset) == 3
    subset[0]
    assert subset.failures.nonzero().flatten().tolist() == [0]
    assert not dataset.failures.any()
    assert subset.get_data_info(0)["filename"].endswith("train/00004.mp4")


def test_deep_copies_count_together(folder: Path) -> None:
    # mmengine copies a data set that is handed to it inside a loader's config.
    dataset = build(folder)
    truncate(folder / "train/00004.mp4")
    copy.deepcopy(dataset)[4]
    assert dataset.failures.nonzero().flatten().tolist() == [4]


def test_pickled_dataset_is_whole(folder: Path) -> None:
    dataset = build(folder)
    other = pickle.loads(pickle.dumps(dataset))
    assert other.get_data_info(3) == dataset.get_data_info(3)


@pytest.mark.parametrize(("start_method", "num_workers"), [("fork", 2), ("spawn", 1)])
def test_workers_share_the_count(
    folder: Path, start_method: str, num_workers: int
) -> None:
    dataset = build(folder)
    for name in ("00000", "00010", "00031"):
        truncate(folder / f"train/{name}.mp4")
    loader = DataLoader(
        dataset,
        batch_size=4,
        num_workers=num_workers,
        collate_fn=pseudo_collate,
        multiprocessing_context=start_method,
    )
    samples = [sample for batch in loader for sample in batch["data_samples"]]
    assert len(samples) == 32
    expected = torch.zeros(32, dtype=torch.int32)
    for index in (0, 10, 31):
        expected[index] += 1
        attempt = 1
        while (other := dataset._replacement(index, attempt)) in (0, 10, 31):
            expected[other] += 1
            attempt += 1
    torch.testing.assert_close(dataset.failures, expected)


# -- the report ------------------------------------------------------------------------


class Mean(BaseModel):
    """The smallest thing that a Runner trains."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, inputs: list, data_samples: list, mode: str = "loss") -> dict:
        assert len(inputs) == len(data_samples) == 8
        return dict(loss=(self.weight - 1) ** 2)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("wrapped", [False, True])
def test_hook_reports_each_epoch(
    folder: Path, tmp_path: Path, num_workers: int, wrapped: bool
) -> None:
    dataset = build(folder)
    truncate(folder / "train/00009.mp4")
    if wrapped:
        config = dict(type="RepeatDataset", dataset=dataset, times=2)
        dataset = DATASETS.build(config)
    runner = Runner(
        model=Mean(),
        work_dir=str(tmp_path / "work"),
        train_dataloader=dict(
            batch_size=8,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            dataset=dataset,
            sampler=dict(type="DefaultSampler", shuffle=True),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=3),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        custom_hooks=[dict(type="SkippedClipsHook")],
        default_scope="mmaction",
        experiment_name=f"skipped_{num_workers}_{wrapped}",
    )
    runner.train()
    (log_file,) = (tmp_path / "work").glob("*/*.log")
    text = log_file.read_text()
    times = 2 if wrapped else 1
    for epoch in (1, 2, 3):
        report = (
            rf"Epoch {epoch}: clips skipped: {times}; videos of .*train\.txt that "
            r"cannot be read: 1\n  .*/train/00009\.mp4\n"
        )
        assert len(re.findall(report, text)) == 1
    assert len(re.findall(r"this video cannot be read and is skipped", text)) == 1


def test_hook_sums_over_processes_and_cuts_a_long_report(
    folder: Path, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = build(folder)
    # As if a second process had met the same faults.
    monkeypatch.setattr(skipped_clips_hook, "all_reduce", lambda counts: counts.mul_(2))
    runner = SimpleNamespace(
        train_loop=SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset)),
        logger=MMLogger.get_current_instance(),
        epoch=4,
    )
    hook = SkippedClipsHook(max_paths=2)
    dataset.failures[[1, 2, 5]] += 1
    hook.after_train_epoch(runner)
    dataset.failures[5] += 3
    runner.epoch = 5
    hook.after_train_epoch(runner)
    head = f"videos of {folder}/train.txt that cannot be read:"
    assert log == [
        f"Epoch 5: clips skipped: 6; {head} 3\n  {folder}/train/00001.mp4\n"
        f"  {folder}/train/00002.mp4\n  and 1 more",
        f"Epoch 6: clips skipped: 6; {head} 1\n  {folder}/train/00005.mp4",
    ]


def test_hook_says_nothing_of_good_videos(folder: Path, tmp_path: Path) -> None:
    runner = Runner(
        model=Mean(),
        work_dir=str(tmp_path / "work"),
        train_dataloader=dict(
            batch_size=8,
            num_workers=0,
            dataset=build(folder),
            sampler=dict(type="DefaultSampler", shuffle=True),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        custom_hooks=[dict(type="SkippedClipsHook")],
        default_scope="mmaction",
        experiment_name="good",
    )
    runner.train()
    (log_file,) = (tmp_path / "work").glob("*/*.log")
    assert "clips skipped" not in log_file.read_text()
