# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The frames of a video as a player shows them.

What a container says of its frames is often wrong: a cut without re-encoding holds
frames that are not presented, a packet may hold no picture or two, and the count in a
header is an estimate. So the frames of a file are counted once, by decoding it whole.
Where that shows that every packet is one frame, in the order of the time stamps, later
reads jump to the key frame before what they need; otherwise they start at the first.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, dropwhile
from typing import Any, BinaryIO

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import PictureType
from av.video.stream import VideoStream
from mmengine.logging import print_log

# Frames of the counting pass are kept up to this size: most clips are decoded once.
KEEP_BYTES = 2**28
# A seek costs about as much as decoding this many small frames.
SEEK_GAIN = 16


class VideoFrames:
    """Frames of a video by number, in the order of presentation.

    Frame i is the i-th one that ``ffmpeg`` shows: edit lists and rotation are applied,
    and packets that cannot be decoded are left out. PyAV reads; where it fails OpenCV
    does, from the first frame on.

    Args:
        file: Path of a video, or a stream of its bytes.
        length: :attr:`length` of an earlier reader of the same file: spares the count.
            Default 0: unknown.
        num_threads: Decoding threads. Default 1.

    Attributes:
        length: Number of frames; negative where each read has to start at the first.

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
            self.length = length or self._count()
        except ValueError:
            self.length = -sum(1 for _ in self._by_opencv())
            if self.length == 0:
                raise

    def __len__(self) -> int:
        return abs(self.length)

    @property
    def fps(self) -> float:
        """Mean frames per second by the container; 0 where it names none."""
        with suppress(ValueError), self._open() as (_, stream):
            return float(stream.average_rate or 0)
        return 0.0

    def read(self, indices: Sequence[int]) -> list[np.ndarray]:
        """Frames (H, W, 3), uint8, red first, in the order that is asked for."""
        numbers = sorted({int(i) for i in indices})
        if numbers[0] < 0 or numbers[-1] >= len(self):
            raise IndexError(f"frames {numbers}: there are {len(self)} only")
        try:
            images = self._by_pyav(numbers)
        except ValueError:
            images = _chosen(numbers, self._by_opencv())
            if len(images) < len(numbers):
                raise
        return [images[int(i)] for i in indices]

    def __iter__(self) -> Iterator[np.ndarray]:
        """All frames, in order."""
        try:
            with self._open() as (container, stream):
                frames = _decode(container, stream)
                first = next(frames)
                for frame in chain([first], frames):
                    yield _to_array(frame, first.width, first.height)
        except ValueError:
            yield from self._by_opencv()

    def _by_opencv(self) -> Iterator[np.ndarray]:
        if isinstance(self._file, str):
            capture = cv2.VideoCapture(self._file)
            while (frame := capture.read())[0]:
                yield cv2.cvtColor(frame[1], cv2.COLOR_BGR2RGB)

    def _by_pyav(self, numbers: list[int]) -> dict[int, np.ndarray]:
        found: dict[int, av.VideoFrame] = {}
        wanted = {0, *numbers}  # the first frame says how large all are
        if self._kept:
            found = {i: self._kept[i] for i in wanted}
        elif self.length > 0:
            with suppress(ValueError), self._open() as (container, stream):
                found = _seek(container, stream, numbers)
        if len(found) < len(numbers):
            with self._open() as (container, stream):
                found = _chosen(wanted, _decode(container, stream))
        size = found.get(0, found[numbers[0]])
        return {i: _to_array(found[i], size.width, size.height) for i in numbers}

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
        packets: list[tuple[int | None, bool]] = []
        times, intra, sizes, size = [], set(), set(), 0
        with self._open() as (container, stream):
            # After a seek AVI counts by its index, which knows of lost packets.
            is_avi = container.format.name == "avi"
            for frame in _decode(container, stream, packets):
                times.append(frame.pts)
                sizes.add((frame.width, frame.height))
                if frame.key_frame and frame.pict_type == PictureType.I:
                    intra.add(frame.pts)
                size += sum(plane.buffer_size for plane in frame.planes)
                if size <= KEEP_BYTES:
                    self._kept.append(frame)
        if size > KEEP_BYTES:
            self._kept = []
        by_time = {time for time, _ in packets}
        can_seek = (
            not is_avi
            and len(sizes) == 1
            and None not in by_time
            and len(by_time) == len(packets)
            and sorted(by_time) == times
            and all(time in intra for time, is_key in packets if is_key)
        )
        return len(times) if can_seek else -len(times)


def _chosen(numbers: Collection[int], frames: Iterator[Any]) -> dict[int, Any]:
    numbered = zip(range(max(numbers) + 1), frames, strict=False)
    return {i: frame for i, frame in numbered if i in numbers}


def _decode(
    container: InputContainer,
    stream: VideoStream,
    packets: list[tuple[int | None, bool]] | None = None,
) -> Iterator[av.VideoFrame]:
    """Frames in the order of presentation; passes over faults, as ``ffmpeg`` does, but
    ValueError where there is no frame at all.

    ``packets`` takes time and key-frame flag of each packet; no time for one that is
    not presented. With it, faults are logged.
    """
    faults: list[av.FFmpegError] = []
    num_frames = 0
    for packet in _demux(container, stream, faults):
        if packets is not None and packet and packet.size:
            time = None if packet.is_discard else packet.pts
            packets.append((time, packet.is_keyframe))
        try:
            frames = stream.decode(packet)
        except av.FFmpegError as error:
            faults.append(error)
            continue
        num_frames += len(frames)
        yield from frames
    if num_frames == 0:
        raise ValueError(faults[0].strerror if faults else "no frames")
    if faults and packets is not None:
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


def _seek(
    container: InputContainer, stream: VideoStream, numbers: list[int]
) -> dict[int, av.VideoFrame]:
    """Frames read from the key frames before them; not all where a seek goes astray."""
    packets = sorted((p.pts, p.is_keyframe) for p in container.demux(stream) if p.size)
    keys = [i for i, (_, is_key) in enumerate(packets) if is_key]
    groups: list[tuple[int, list[int]]] = []
    for number in numbers:
        start = max((key for key in keys if key <= number), default=0)
        if groups and start - groups[-1][1][-1] <= SEEK_GAIN:
            groups[-1][1].append(number)
        else:
            groups.append((start, [number]))
    found: dict[int, av.VideoFrame] = {}
    for start, wanted in groups:
        begin = packets[start][0]
        container.seek(begin, stream=stream)
        frames = dropwhile(lambda f: f.pts < begin, _decode(container, stream))  # noqa: B023
        for i, frame in zip(range(start, wanted[-1] + 1), frames, strict=False):
            if frame.pts != packets[i][0]:
                return {}
            if i in wanted:
                found[i] = frame
    return found


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
