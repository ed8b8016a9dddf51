# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The frames of a video as a player shows them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

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
        backend: What reads first: ``"pyav"``, ``"torchcodec"``, ``"decord"`` or
            ``"opencv"``. Where it fails on a file, PyAV and then OpenCV read it.
            Default ``"auto"``: PyAV.

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
        if isinstance(file, str) and not os.path.isfile(file):
            raise FileNotFoundError("no file")
        check_backend("backend", backend)
        first = "pyav" if backend == "auto" else backend
        names = dict.fromkeys([first, "pyav", "opencv"])
        self._backends = [BACKENDS[name](file, num_threads) for name in names]
        self._file = file
        self._length = length or self._try(lambda backend: backend.count())

    def _try(self, method: Callable[[Backend], Any]) -> Any:
        """What the first backend gives that can read the file; it stays the first."""
        faults = []
        for backend in self._backends:
            try:
                found = method(backend)
            except ValueError as fault:
                faults.append(fault)
            else:
                self._backends = self._backends[len(faults) :]
                return found
        raise faults[0]

    def __len__(self) -> int:
        return self._length

    @property
    def fps(self) -> float:
        """Mean frames per second by the container; 0 where it names none."""
        return PyAV(self._file, 1).fps

    def read(self, indices: Sequence[int]) -> list[np.ndarray]:
        """Frames (H, W, 3), uint8, red first, in the order that is asked for."""
        numbers = {int(i) for i in indices}
        if min(numbers) < 0 or max(numbers) >= len(self):
            raise IndexError(f"frames {sorted(numbers)}: there are {len(self)} only")
        images = self._try(lambda backend: backend.read(numbers))
        return [images[int(i)] for i in indices]

    def __iter__(self) -> Iterator[np.ndarray]:
        """All frames, in order."""
        yield from self._backends[0]
