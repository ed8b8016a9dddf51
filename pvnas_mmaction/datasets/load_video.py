# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The transforms that open a video and decode its sampled frames."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from mmaction.datasets.transforms import DecordDecode, DecordInit
from mmaction.registry import TRANSFORMS
from mmengine.fileio import FileClient

from .video_frames import VideoFrames
from .video_list import video_file


@TRANSFORMS.register_module()
class PVNASVideoInit(DecordInit):
    """Open a video and count the frames that it presents.

    It takes ``filename``, and ``video_length`` where a former call counted them; it
    adds ``video_reader``, ``total_frames``, ``avg_fps`` and ``video_length``.

    Args are those of ``DecordInit``: ``io_backend``, ``num_threads``, and what the file
    client takes.
    """

    def transform(self, results: dict) -> dict:
        """Add the reader and the number of frames."""
        file = video_file(results["filename"])
        if self.io_backend != "disk":
            client = self.file_client or FileClient(self.io_backend, **self.kwargs)
            self.file_client = client
            file = io.BytesIO(client.get(file))
        known = results.get("video_length", 0)
        video = VideoFrames(file, known, self.num_threads)
        results["video_reader"] = video
        results["video_length"] = video.length
        results["total_frames"] = len(video)
        results["avg_fps"] = video.fps
        return results


@TRANSFORMS.register_module()
class PVNASVideoDecode(DecordDecode):
    """Decode the frames ``frame_inds`` of a video that :class:`PVNASVideoInit` opened.

    It adds what ``DecordDecode`` adds: ``imgs``, ``original_shape``, ``img_shape``.
    """

    def __init__(self) -> None:
        super().__init__(mode="accurate")

    def _decord_load_frames(
        self, container: VideoFrames, frame_inds: np.ndarray
    ) -> list[np.ndarray]:
        return container.read(frame_inds.tolist())


def with_exact_frames(pipeline: list) -> list:
    """The pipeline with our reader in place of MMAction2's video readers.

    One that asks for inexact frames (``mode="efficient"``) stays as it is.
    """
    dicts = [transform for transform in pipeline if isinstance(transform, Mapping)]
    if any(transform.get("mode") == "efficient" for transform in dicts):
        return pipeline
    return [_exchange(t) if isinstance(t, Mapping) else t for t in pipeline]


def _exchange(transform: Mapping) -> Mapping:
    kind = getattr(transform["type"], "__name__", transform["type"])
    match kind.removeprefix("mmaction."):
        case "DecordInit" | "PyAVInit" | "OpenCVInit" | "PVNASVideoInit":
            return {**transform, "type": "PVNASVideoInit"}
        case "DecordDecode" | "PyAVDecode" | "OpenCVDecode":
            return {"type": "PVNASVideoDecode"}
    return transform
