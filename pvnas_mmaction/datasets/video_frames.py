# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The frames of a video as a player shows them.

What a container says of its frames is often wrong: a cut without re-encoding holds
frames that are not presented, a packet may hold no picture or two, and the count in a
header is an estimate. So the frames of a file are counted once, by decoding it whole,
and every read decodes from the first frame on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.stream import VideoStream
from mmengine.logging import print_log

# Frames of the counting pass are kept up to this size: most clips are decoded once.
KEEP_BYTES = 2**28


class VideoFrames:
    """Frames of a video by number, in the order of presentation.

    Frame i is the i-th one that ``ffmpeg`` shows: edit lists and rotation are applied,
    and packets that cannot be decoded are left out. PyAV reads; where it fails OpenCV
    does.

    Args:
        file: Path of a video, or a stream of its bytes.
        length: Number of frames by an earlier reader of the same file: spares the
            count. Default 0: unknown.
        num_threads: Decoding threads. Default 1.

    Raises:
        OSError: There is no such file.
        ValueError: It holds no frame that can be decoded.
    """

    def __init__(
        self, file: str | BinaryIO, length: int = 0, num_threads: int = 1
    ) -> None:
        if isinstance(file, str) and not os.path.isfile(file):
            raise FileNotFoundError("no file")
        self._file, self._num_threads = file, num_threads
        self._kept: list[av.VideoFrame] = []
        try:
            self._length = length or self._count()
        except ValueError:
            self._length = sum(1 for _ in self._by_opencv())
            if self._length == 0:
                raise

    def __len__(self) -> int:
        return self._length

    @property
    def fps(self) -> float:
        """Mean frames per second by the container; 0 where it names none."""
        with suppress(ValueError), self._open() as (_, stream):
            return float(stream.average_rate or 0)
        return 0.0

    def read(self, indices: Sequence[int]) -> list[np.ndarray]:
        """Frames (H, W, 3), uint8, red first, in the order that is asked for."""
        numbers = {int(i) for i in indices}
        if min(numbers) < 0 or max(numbers) >= len(self):
            raise IndexError(f"frames {sorted(numbers)}: there are {len(self)} only")
        try:
            images = self._by_pyav(numbers)
        except ValueError:
            images = _chosen(numbers, self._by_opencv())
            if len(images) < len(numbers):
                raise
        return [images[int(i)] for i in indices]

    def __iter__(self) -> Iterator[np.ndarray]:
        """All frames, in order."""
        size: tuple[int, int] | None = None
        try:
            with self._open() as (container, stream):
                for frame in _decode(container, stream):
                    size = size or (frame.width, frame.height)
                    yield _to_array(frame, *size)
        except ValueError:
            yield from self._by_opencv()

    def _by_opencv(self) -> Iterator[np.ndarray]:
        if isinstance(self._file, str):
            capture = cv2.VideoCapture(self._file)
            while (frame := capture.read())[0]:
                yield cv2.cvtColor(frame[1], cv2.COLOR_BGR2RGB)

    def _by_pyav(self, numbers: set[int]) -> dict[int, np.ndarray]:
        wanted = {0, *numbers}  # the first frame says how large all are
        if self._kept:
            found = {i: self._kept[i] for i in wanted}
        else:
            with self._open() as (container, stream):
                found = _chosen(wanted, _decode(container, stream))
        if len(found) < len(wanted):
            raise ValueError("fewer frames than before")
        return {i: _to_array(found[i], found[0].width, found[0].height) for i in found}

    @contextmanager
    def _open(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        if not isinstance(self._file, str):
            self._file.seek(0)
        try:
            with av.open(self._file, metadata_errors="replace") as container:
                stream = container.streams.best("video")
                if stream is None:
                    raise ValueError("no video stream")
                stream.codec_context.thread_count = self._num_threads
                yield container, stream
        except av.FFmpegError as error:
            raise ValueError(error.strerror or str(error)) from error

    def _count(self) -> int:
        length, size = 0, 0
        with self._open() as (container, stream):
            for frame in _decode(container, stream, log=True):
                length += 1
                size += sum(plane.buffer_size for plane in frame.planes)
                if size <= KEEP_BYTES:
                    self._kept.append(frame)
        if size > KEEP_BYTES:
            self._kept = []
        return length


def _chosen(numbers: Collection[int], frames: Iterator[Any]) -> dict[int, Any]:
    numbered = zip(range(max(numbers) + 1), frames, strict=False)
    return {i: frame for i, frame in numbered if i in numbers}


def _decode(
    container: InputContainer, stream: VideoStream, log: bool = False
) -> Iterator[av.VideoFrame]:
    """Frames in the order of presentation; passes over faults, as ``ffmpeg`` does, but
    ValueError where there is no frame at all."""
    faults: list[av.FFmpegError] = []
    num_frames = 0
    for packet in _demux(container, stream, faults):
        try:
            frames = stream.decode(packet)
        except av.FFmpegError as error:
            faults.append(error)
            continue
        num_frames += len(frames)
        yield from frames
    if num_frames == 0:
        raise ValueError(faults[0].strerror if faults else "no frames")
    if faults and log:
        print_log(
            f"{container.name}: expected a whole video, got {num_frames} frames and a "
            f"fault ({faults[0].strerror}); these frames are used",
            "current",
            logging.WARNING,
        )


def _demux(
    container: InputContainer, stream: VideoStream, faults: list[av.FFmpegError]
) -> Iterator[av.Packet | None]:
    """Packets to the end or to a fault of the file; None empties the decoder."""
    try:
        yield from container.demux(stream)
    except av.FFmpegError as error:
        faults.append(error)
        yield None


def _to_array(frame: av.VideoFrame, width: int, height: int) -> np.ndarray:
    """The upright RGB picture, of the size that a video starts with."""
    # One thread: a pool that is freed in a forked worker waits for ever.
    rgb = frame.reformat(width=width, height=height, format="rgb24", threads=1)
    image = rgb.to_ndarray()
    matrix = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    if matrix is None:
        return np.ascontiguousarray(image)
    # Where the picture's axes, right and down, point on the display.
    a, b, c, d = np.frombuffer(matrix, np.int32)[[0, 1, 3, 4]].tolist()
    if abs(b) > abs(a):
        image, a, d = image.swapaxes(0, 1), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
