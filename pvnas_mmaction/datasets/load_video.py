"""The transforms that open a video and decode its sampled frames."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmaction.datasets.transforms import DecordDecode, DecordInit, Resize
from mmaction.registry import TRANSFORMS

from ..space.checks import wrong
from ..space.genotype import replacing
from .video_frames import VideoFrames
from .video_list import video_file


@TRANSFORMS.register_module()
class PVNASVideoInit(DecordInit):
    """Open a video and count the frames that it presents, unless ``video_length`` says
    it; adds ``video_reader``, ``total_frames``, ``avg_fps`` and ``video_length``.

    Args:
        cache: Folder where the resized frames of a file are kept. Default None: none.
        resize: Arguments of ``Resize``, for ``cache``.
        backend: What decodes without ``cache``, see :class:`VideoFrames`.
        **kwargs: As for ``DecordInit``.
    """

    def __init__(
        self,
        cache: str | None = None,
        resize: Mapping | None = None,
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if self.io_backend != "disk":
            field = "dataset.pipeline[0].io_backend"
            raise wrong(field, "'disk'", repr(self.io_backend))
        self.backend = backend
        self.cache, self.resize = cache, Resize(**resize) if resize else None

    def transform(self, results: dict) -> dict:
        file = video_file(results["filename"])
        known = results.get("video_length", 0)
        if self.cache is None:
            video = VideoFrames(file, known, self.num_threads, self.backend)
        else:
            video = CachedFrames(file, self.cache, self.resize)
        results["video_reader"] = video
        results["video_length"] = len(video)
        results["total_frames"] = len(video)
        results["avg_fps"] = video.fps
        return results


class CachedFrames(VideoFrames):
    """A video of which all frames were decoded and resized once, into a file."""

    def __init__(self, file: str, folder: str, resize: Resize) -> None:
        self.file, self.num_threads = file, 1
        state = os.stat(file)
        facts = [file, state.st_size, state.st_mtime_ns, str(resize)]
        name = hashlib.sha256(repr(facts).encode()).hexdigest()[:24]
        path = Path(folder, f"{name}.npy")
        if not path.is_file():
            images = []
            for image in VideoFrames(file):
                frame = dict(imgs=[image], img_shape=image.shape[:2])
                images += resize(frame)["imgs"]
            with replacing(path) as part, part.open("wb") as stream:
                np.save(stream, np.stack(images))
        self._frames = np.load(path, mmap_mode="r")
        self._length = len(self._frames)

    def read(self, indices: Sequence[int]) -> list[np.ndarray]:
        """Frames (H, W, 3), uint8, red first, in the order that is asked for."""
        return [np.array(self._frames[index]) for index in indices]


@TRANSFORMS.register_module()
class PVNASVideoDecode(DecordDecode):
    """As ``DecordDecode``, for a video that :class:`PVNASVideoInit` opened."""

    def __init__(self) -> None:
        super().__init__(mode="accurate")

    def _decord_load_frames(
        self, container: VideoFrames, frame_inds: np.ndarray
    ) -> list[np.ndarray]:
        return container.read(frame_inds.tolist())


def with_exact_frames(pipeline: list, backend: str) -> list:
    """The pipeline with our reader in place of MMAction2's video readers."""
    return [_exchange(t, backend) if isinstance(t, Mapping) else t for t in pipeline]


def with_cache(pipeline: list, folder: str) -> list:
    """The pipeline, which starts with our reader, with the ``Resize`` that follows the
    decoding done once for each file, into ``folder``."""
    kinds = [str(transform["type"]).removeprefix("mmaction.") for transform in pipeline]
    place = kinds.index("PVNASVideoDecode") + 1
    if kinds[place : place + 1] != ["Resize"]:
        expected = "a Resize right after the decoding, for the cache"
        raise wrong("dataset.pipeline", expected, str(kinds))
    first, *rest = pipeline
    resize = {**rest.pop(place - 1)}
    del resize["type"]
    return [{**first, "cache": folder, "resize": resize}, *rest]


def _exchange(transform: Mapping, backend: str) -> Mapping:
    kind = getattr(transform["type"], "__name__", transform["type"])
    match kind.removeprefix("mmaction."):
        case "DecordInit" | "PyAVInit" | "OpenCVInit" | "PVNASVideoInit":
            return {"backend": backend, **transform, "type": "PVNASVideoInit"}
        case "DecordDecode" | "PyAVDecode" | "OpenCVDecode":
            return {"type": "PVNASVideoDecode"}
    return transform
