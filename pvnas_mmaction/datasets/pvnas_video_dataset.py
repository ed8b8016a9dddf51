# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""A VideoDataset that says what is wrong with a list, and lives with a bad video."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmaction.datasets import VideoDataset
from mmaction.datasets.transforms import CenterCrop
from mmaction.registry import DATASETS
from mmengine.logging import print_log

from .video_list import ListFormat, find_missing, read_video_list


class _SharedCounts:
    """A number per clip that processes, and deep copies of a data set, share."""

    def __init__(self, length: int) -> None:
        self.tensor = torch.zeros(length, dtype=torch.int32).share_memory_()

    def __deepcopy__(self, memo: dict) -> _SharedCounts:
        return self


def _field(test_mode: bool) -> str:
    return f"{'val/test' if test_mode else 'train'}_dataloader.dataset"


@DATASETS.register_module()
class PVNASVideoDataset(VideoDataset):
    """Videos with class ids, from a list of ``path class_id`` lines.

    It reads what :class:`mmaction.datasets.VideoDataset` reads, and differs where
    something is wrong. The list is checked when it is loaded. In training, a video
    that cannot be read is logged once, counted in :attr:`failures` (which all workers
    of a loader share; :class:`SkippedClipsHook` reports it) and replaced by another
    one, chosen by (index, attempt) alone. In validation and testing it is an error,
    since an accuracy over fewer clips is another number.

    A video cannot be read when the pipeline fails before it has ``imgs``. A failure of
    a later transform is a fault of the config, and is raised as it is. (A few broken
    container headers make decord end the whole process; no Python code can catch that.)

    Args:
        ann_file: The list, see :func:`read_video_list`.
        pipeline: Transforms.
        data_prefix: ``dict(video=FOLDER)`` that the paths are relative to. Default:
            the current folder.
        num_classes: Number of classes; class ids are in [0, num_classes). Default
            None: they are not checked against an upper bound.
        test_mode: Whether a bad video is an error. Default False.
        max_refetch: How many replacements are tried for one clip. Default 20.
        **kwargs: As for ``VideoDataset``.

    Raises:
        FileNotFoundError: There is no such list.
        ValueError: The list is empty, a line of it is malformed, a class id is outside
            the range, the videos are not there, ``data_prefix`` is no dict, or
            ``multi_class`` lacks ``num_classes``.
    """

    def __init__(
        self,
        ann_file: str,
        pipeline: list,
        data_prefix: dict | None = None,
        num_classes: int | None = None,
        test_mode: bool = False,
        max_refetch: int = 20,
        **kwargs: Any,
    ) -> None:
        self._counts = _SharedCounts(0)
        self._parts: list[np.ndarray] = []
        if isinstance(data_prefix, str):
            raise ValueError(
                f"{_field(test_mode)}.data_prefix: found {data_prefix!r}, expected "
                f"dict(video={data_prefix!r})"
            )
        super().__init__(
            ann_file,
            pipeline,
            data_prefix=dict(video="") if data_prefix is None else data_prefix,
            num_classes=num_classes,
            test_mode=test_mode,
            max_refetch=max_refetch,
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        """Read and check the list; one dict with filename and label per line."""
        field = _field(self.test_mode)
        if self.multi_class and self.num_classes is None:
            raise ValueError(
                f"{field}.num_classes: found None, expected the number of "
                "classes, which multi_class needs"
            )
        form = ListFormat(
            field=field,
            delimiter=self.delimiter,
            multi_class=self.multi_class,
            num_classes=self.num_classes,
        )
        data_list = [
            dict(
                filename=os.path.join(self.data_prefix["video"] or "", path),
                label=class_ids if self.multi_class else class_ids[0],
            )
            for path, class_ids in read_video_list(self.ann_file, form)
        ]
        self._check_videos([data["filename"] for data in data_list], form.field)
        self._check_repeats(data_list)
        self._counts = _SharedCounts(len(data_list))
        return data_list

    def _check_videos(self, paths: list[str], field: str) -> None:
        missing, looked_for = find_missing(paths)
        if not missing:
            return
        found = (
            f"{self.ann_file}: {len(missing)} of {looked_for} videos looked for are "
            f"missing, the first: {missing[0]}"
        )
        if len(missing) == looked_for:
            raise ValueError(
                f"data_prefix: {found}. Set {field}.data_prefix=dict(video=FOLDER) to "
                "the folder that the paths of the list are relative to; it is "
                f"{self.data_prefix['video']!r}."
            )
        if self.test_mode:
            raise ValueError(
                f"{found}. Validation and testing need every video: supply it, or "
                "take its line out of the list."
            )
        print_log(f"{found}. They will be skipped.", "current", logging.WARNING)

    def _check_repeats(self, data_list: list[dict]) -> None:
        """Warn of videos that are listed twice: what trains on one half of a list and
        is judged on the other may see a clip in both."""
        labels: dict[str, list] = {}
        for data in data_list:
            labels.setdefault(data["filename"], []).append(data["label"])
        repeated = {name: found for name, found in labels.items() if len(found) > 1}
        if not repeated:
            return
        differ = [
            n for n, found in repeated.items() if any(c != found[0] for c in found)
        ]
        text = f"{self.ann_file}: {len(repeated)} video(s) are listed more than once"
        if differ:
            text += f", {len(differ)} of them with different class ids"
        print_log(
            f"{text}, the first: {next(iter(differ or repeated))}",
            "current",
            logging.WARNING,
        )

    def _copy_without_annotation(self, memo: dict | None = None) -> PVNASVideoDataset:
        other = super()._copy_without_annotation({} if memo is None else memo)
        other._counts = _SharedCounts(len(self.failures))
        return other

    @property
    def failures(self) -> torch.Tensor:
        """How often each clip could not be read, (len(self),) or longer, int32."""
        return self._counts.tensor

    def keep_apart(self, parts: Sequence[Sequence[int]]) -> None:
        """Replace a bad video only by one of its own part.

        Args:
            parts: Disjoint index lists, such as the two halves of a search. An index
                in none of them may be replaced by any.
        """
        self._parts = [np.asarray(part) for part in parts]

    def _replacement(self, idx: int, attempt: int) -> int:
        everything = np.arange(len(self))
        choices = next((part for part in self._parts if idx in part), everything)
        others = choices[choices != idx]
        if len(others) == 0:
            return idx
        return int(np.random.default_rng((idx, attempt)).choice(others))

    def __getitem__(self, idx: int) -> dict:
        """The clip ``idx`` after the pipeline; in training, another one if it's bad.

        Raises:
            OSError: A bad video in test mode, or too many in training.
        """
        if self.test_mode:
            return super().__getitem__(idx)
        idx = int(idx) % len(self)
        for attempt in range(self.max_refetch + 1):
            chosen = self._replacement(idx, attempt) if attempt else idx
            data = self.prepare_data(chosen)
            if data is not None:
                return data
        bad = int((self.failures > 0).sum())
        raise OSError(
            f"{self.ann_file}: {self.max_refetch + 1} clips in a row gave nothing to "
            f"train on ({bad} of {len(self)} videos could not be read so far; see the "
            "warnings above). Check data_prefix and the videos, or raise max_refetch."
        )

    def prepare_data(self, idx: int) -> Any:
        """The clip ``idx`` after the pipeline, or None for a bad video in training."""
        data = self.get_data_info(idx)
        path = data["filename"]
        has_images = False
        for number, transform in enumerate(self.pipeline.transforms):
            self._check_crop(number, transform, data.get("img_shape"))
            try:
                data = transform(data)
            except (ImportError, MemoryError):
                raise
            except Exception as error:
                if has_images:
                    raise
                text = " ".join(str(error).split())[:200]
                reason = f"{type(error).__name__}: {text}"
                if self.test_mode:
                    raise OSError(
                        f"{path}: this video cannot be read ({reason}). Validation and "
                        f"testing need every video of {self.ann_file}: replace it, or "
                        "take its line out of the list."
                    ) from error
                self._count_failure(idx, path, reason)
                return None
            if data is None:
                return None
            has_images = has_images or "imgs" in data
        return data

    def _check_crop(
        self, number: int, transform: Any, shape: tuple[int, int] | None
    ) -> None:
        """MMAction2's ``CenterCrop`` cuts a strip where frames are smaller than it."""
        if not isinstance(transform, CenterCrop) or shape is None:
            return
        (height, width), (crop_width, crop_height) = shape, transform.crop_size
        if crop_height > height or crop_width > width:
            raise ValueError(
                f"{_field(self.test_mode)}.pipeline.{number}.crop_size: found "
                f"{crop_height}x{crop_width}, expected no more than the frames' "
                f"{height}x{width}; raise the Resize before it"
            )

    def _count_failure(self, idx: int, path: str, reason: str) -> None:
        self.failures[idx] += 1
        if self.failures[idx] == 1:
            print_log(
                f"{path}: this video cannot be read and is skipped ({reason})",
                "current",
                logging.WARNING,
            )
