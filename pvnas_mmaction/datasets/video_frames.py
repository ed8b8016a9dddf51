# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The frames of a video as a player shows them."""

import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from .video_backends import BACKENDS, Backend, PyAV, check_backend


class VideoFrames:
    """Frames of a video by number, in the order of presentation.

    Frame i is the i-th one that ``ffmpeg`` shows: edit lists and rotation are applied,
    and packets that cannot be decoded are left out.

    Args:
        file: Path of a video, or a stream of its bytes.
        length: Number of frames by an earlier reader of the same file: spares the
            count. Default 0: unknown.
        num_threads: Decoding threads. Default 1.
        backend: What reads: ``"pyav"``, ``"torchcodec"`` or ``"decord"``; files that
            these would misread are left to PyAV. Default ``"auto"``: PyAV.

    Raises:
        OSError: There is no such file.
        ImportError: The backend is not installed.
        ValueError: The file holds no frame that can be decoded, or there is no such
            backend.
    """

    def __init__(
        self,
        file: str | BinaryIO,
        length: int = 0,
        num_threads: int = 1,
        backend: str = "auto",
    ) -> None:
        if isinstance(file, str):
            file = os.path.abspath(file)  # a name may hold a colon
            if not os.path.isfile(file):
                raise FileNotFoundError("no file")
        check_backend("backend", backend)
        self._backend: Backend
        self._backend = self._pyav = PyAV(file, num_threads)
        self._length = length or self._pyav.count()
        if backend not in ("auto", "pyav"):
            self._backend = BACKENDS[backend](file, num_threads, self._length)

    def __len__(self) -> int:
        return self._length

    @property
    def fps(self) -> float:
        """Mean frames per second by the container; 0 where it names none."""
        return self._pyav.fps

    def read(self, indices: Sequence[int]) -> list[np.ndarray]:
        """Frames (H, W, 3), uint8, red first, in the order that is asked for."""
        numbers = {int(i) for i in indices}
        if min(numbers) < 0 or max(numbers) >= len(self):
            raise IndexError(f"frames {sorted(numbers)}: there are {len(self)} only")
        try:
            images = self._backend.read(numbers)
        except ValueError:
            if self._backend is self._pyav:
                raise
            self._backend = self._pyav
            images = self._pyav.read(numbers)
        return [images[int(i)] for i in indices]

    def __iter__(self) -> Iterator[np.ndarray]:
        """All frames, in order, by PyAV."""
        yield from self._pyav
