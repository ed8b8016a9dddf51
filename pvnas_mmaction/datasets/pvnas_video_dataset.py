"""A VideoDataset that says what is wrong with a list, and lives with a bad video."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from errno import EDQUOT, ENOSPC
from functools import cache
from typing import Any

import numpy as np
from mmaction.datasets import VideoDataset
from mmaction.registry import DATASETS
from mmengine.logging import print_log

from ..space.checks import wrong
from .load_video import with_cache, with_exact_frames
from .video_frames import check_backend
from .video_list import find_faults, read_video_list, resolve


@DATASETS.register_module()
class PVNASVideoDataset(VideoDataset):
    """Videos with class ids, from a list of ``path class_id`` lines.

    The list is checked when it is loaded: all videos have to be there, and the first
    frame of each is read (in a training list of over 4000, of an even sample). In
    training, a video that fails before there are ``imgs`` is logged, once in each
    process, and replaced by another one, chosen by (index, attempt) alone. In
    validation and testing it is an error: an accuracy over fewer clips is another
    number.

    Args:
        ann_file: The list, see :func:`read_video_list`.
        pipeline: Transforms. Our own reader takes the place of MMAction2's.
        data_prefix: ``dict(video=FOLDER)`` that the paths are relative to. Default:
            the current folder.
        num_classes: Number of classes; class ids are in [0, num_classes). Default
            None: they are not checked against an upper bound.
        test_mode: Whether a bad video is an error. Default False.
        max_refetch: How many replacements are tried for one clip. Default 20.
        cache: Folder where the frames of all videos are kept, resized as the pipeline
            does it: 90 kB for one of 128x228. Default None: each access decodes.
        backend: What decodes, without ``cache``, see :class:`VideoFrames`.
        **kwargs: As for ``VideoDataset``, without ``multi_class``.

    Raises:
        FileNotFoundError: There is no such list.
        ValueError: The list is empty or malformed, or videos cannot be read.
    """

    def __init__(
        self,
        ann_file: str,
        pipeline: list,
        data_prefix: dict | None = None,
        num_classes: int | None = None,
        test_mode: bool = False,
        max_refetch: int = 20,
        cache: str | None = None,
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        self._field = f"{'val/test' if test_mode else 'train'}_dataloader.dataset"
        check_backend(f"{self._field}.backend", backend)
        pipeline = with_exact_frames(pipeline, backend)
        if cache is not None:
            pipeline = with_cache(pipeline, cache)
        self._parts: list[np.ndarray] = []
        self._lengths: dict[str, int] = {}  # frames by file, where known
        super().__init__(
            str(ann_file),  # the command line makes a number of a name of digits
            pipeline,
            data_prefix=dict(video=str((data_prefix or {}).get("video") or "")),
            num_classes=num_classes,
            test_mode=test_mode,
            max_refetch=max_refetch,
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        settings = self.delimiter, self.num_classes
        clips = read_video_list(self.ann_file, self._field, *settings)
        folder = self.data_prefix["video"]
        data_list = [dict(filename=os.path.join(folder, p), label=i) for p, i in clips]
        self._check_videos([data["filename"] for data in data_list])
        self._check_repeats(data_list)
        self._check_classes({data["label"] for data in data_list})
        return data_list

    def _check_videos(self, paths: list[str]) -> None:
        faults = find_faults(paths, whole=self.test_mode)
        if not faults:
            return
        total, hint = len(set(paths)), "they will be skipped"
        if len(faults) == total:
            hint = (
                f"set {self._field}.data_prefix.video to the folder that the list's "
                f"paths start from; it is {self.data_prefix['video']!r}"
            )
        elif self.test_mode:
            hint = "supply them, or take their lines out of the list"
        some = "; ".join(f"{path} ({why})" for path, why in [*faults.items()][:3])
        got = f"{len(faults)} of {total} that cannot be read: {some}"
        error = wrong(f"{self.ann_file} in {self._field}", "every video", got, hint)
        if self.test_mode or len(faults) == total:
            raise error
        _warn(str(error))

    def _check_repeats(self, data_list: list[dict]) -> None:
        """A search trains on one half of a list and is judged on the other."""
        counts = Counter(resolve(data["filename"] for data in data_list))
        if repeated := [file for file, number in counts.items() if number > 1]:
            _warn(
                f"{self.ann_file} in {self._field}: expected each video once, got "
                f"{len(repeated)} of {len(counts)} more than once, such as "
                f"{', '.join(repeated[:3])}; take out lines"
            )

    def _check_classes(self, found: set[int]) -> None:
        lacking = set(range(self.num_classes or 0)) - found
        if lacking:
            _warn(
                f"{self._field}.num_classes: expected clips of all {self.num_classes} "
                f"classes in {self.ann_file}, got none of {len(lacking)} of them, such "
                f"as class id {min(lacking)}"
            )

    def keep_apart(self, parts: Sequence[Sequence[int]]) -> None:
        """Replace a bad video only by one of its own part, of disjoint index lists."""
        self._parts = [np.asarray(part) for part in parts]

    def _replacement(self, idx: int, attempt: int) -> int:
        choices = next((part for part in self._parts if idx in part), range(len(self)))
        others = [choice for choice in choices if choice != idx]
        if not others:
            return idx
        return int(np.random.default_rng((idx, attempt)).choice(others))

    def __getitem__(self, idx: int) -> dict:
        """The clip ``idx`` after the pipeline; in training, another one if it's bad.
        OSError: a bad video in test mode, or too many in training."""
        if self.test_mode:
            return super().__getitem__(idx)
        idx = int(idx) % len(self)
        for attempt in range(self.max_refetch + 1):
            chosen = self._replacement(idx, attempt) if attempt else idx
            data = self.prepare_data(chosen)
            if data is not None:
                return data
        raise OSError(
            f"{self.ann_file}: expected clips to train on, got none in "
            f"{self.max_refetch + 1} tries; replace those of the warnings above"
        )

    def prepare_data(self, idx: int) -> Any:
        """The clip ``idx`` after the pipeline, or None for a bad video in training."""
        data = self.get_data_info(idx)
        path = data["filename"]
        data["video_length"] = self._lengths.get(path, 0)
        has_images = False
        for transform in self.pipeline.transforms:
            try:
                data = transform(data)
            except Exception as error:
                full = getattr(error, "errno", None) in (ENOSPC, EDQUOT)  # the cache
                if has_images or full or isinstance(error, ImportError | MemoryError):
                    raise
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                text = f"{path}: expected a video, got {reason}"
                if self.test_mode:
                    hint = f"replace it, or take its line out of {self.ann_file}"
                    raise OSError(f"{text}; {hint}") from error
                _warn(f"{text}; it is skipped")
                return None
            if data is None:
                return None
            has_images = has_images or "imgs" in data
            if "video_length" in data:
                self._lengths[path] = data["video_length"]
        return data


@cache
def _warn(text: str) -> None:
    print_log(text, "current", logging.WARNING)
