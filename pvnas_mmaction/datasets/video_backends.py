# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The libraries that decode videos, one class each.

What a container says of its frames is often wrong: a cut without re-encoding holds
frames that are not presented, a packet may hold no picture or two, and the count in a
header is an estimate. PyAV decodes the whole file to count, and every read decodes from
the first frame on. The others are believed where they agree with what is presented, and
raise ValueError elsewhere.

=============  =====================================================================
backend        is not believed, so that another one reads
=============  =====================================================================
``pyav``       where FFmpeg cannot open the file
``torchcodec`` all but mp4, mov, mkv and webm; edit lists
``decord``     the same; widths that it mixes up, bytes in memory
``opencv``     where it finds no frame; it applies no edit list
=============  =====================================================================
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, BinaryIO

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.stream import VideoStream
from mmengine.logging import print_log

from ..space.checks import wrong

# Frames of the counting pass are kept up to this size: most clips are decoded once.
KEEP_BYTES = 2**28


class Backend:
    """Frames (H, W, 3) of a file, uint8, red first, all of the size of the first one.

    A new backend is a subclass with an iterator, and an entry in :data:`BACKENDS`.

    Args:
        file: Path of a video, or a stream of its bytes.
        num_threads: Decoding threads.
    """

    def __init__(self, file: str | BinaryIO, num_threads: int) -> None:
        self.file, self.num_threads = file, num_threads

    def __iter__(self) -> Iterator[np.ndarray]:
        """All frames, in order."""
        raise NotImplementedError

    def count(self) -> int:
        """Number of frames; ValueError where the file cannot be read."""
        if count := sum(1 for _ in self):
            return count
        raise ValueError("no frames")

    def read(self, numbers: Collection[int]) -> dict[int, np.ndarray]:
        """Frames by number; ValueError unless all are there."""
        return _chosen(numbers, self)


class OpenCV(Backend):
    """OpenCV's own FFmpeg."""

    def __iter__(self) -> Iterator[np.ndarray]:
        """All frames, in order."""
        if isinstance(self.file, str):
            capture = cv2.VideoCapture(self.file)
            while (frame := capture.read())[0]:
                yield cv2.cvtColor(frame[1], cv2.COLOR_BGR2RGB)


class PyAV(Backend):
    """PyAV, which shows the frames that ``ffmpeg`` does."""

    def __init__(self, file: str | BinaryIO, num_threads: int) -> None:
        super().__init__(file, num_threads)
        self._kept: list[av.VideoFrame] = []

    @property
    def fps(self) -> float:
        """Mean frames per second by the container; 0 where it names none."""
        with suppress(ValueError), self._open() as (_, stream):
            return float(stream.average_rate or 0)
        return 0.0

    def __iter__(self) -> Iterator[np.ndarray]:
        """All frames, in order."""
        size: tuple[int, int] | None = None
        with self._open() as (container, stream):
            for frame in _decode(container, stream):
                size = size or (frame.width, frame.height)
                yield _to_array(frame, *size)

    def count(self) -> int:
        """Number of frames, by decoding them all."""
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

    def read(self, numbers: Collection[int]) -> dict[int, np.ndarray]:
        """Frames by number; ValueError unless all are there."""
        wanted = {0, *numbers}  # the first frame says how large all are
        if self._kept:
            found = {i: self._kept[i] for i in wanted}
        else:
            with self._open() as (container, stream):
                found = _chosen(wanted, _decode(container, stream))
        return {i: _to_array(found[i], found[0].width, found[0].height) for i in found}

    def count_packets(self) -> int:
        """Number of packets, if each is one frame, presented at a time of its own; else
        ValueError."""
        with self._open() as (container, stream):
            packets = [packet for packet in container.demux(stream) if packet.size]
            indexed = {"mp4", "matroska"} & set(container.format.name.split(","))
            if not indexed or any(packet.is_discard for packet in packets):
                raise ValueError("a file without an index, or with an edit list")
            if len({packet.pts for packet in packets}) < len(packets):
                raise ValueError("frames without a time of their own")
        return len(packets)

    @contextmanager
    def _open(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        if not isinstance(self.file, str):
            self.file.seek(0)
        try:
            with av.open(self.file, metadata_errors="replace") as container:
                stream = container.streams.best("video")
                if stream is None:
                    raise ValueError("no video stream")
                stream.codec_context.thread_count = self.num_threads
                yield container, stream
        except av.FFmpegError as error:
            raise ValueError(error.strerror or str(error)) from error


class TorchCodec(Backend):
    """TorchCodec (``pip install torchcodec``), which needs FFmpeg's libraries."""

    @cached_property
    def _decoder(self) -> Any:
        from torchcodec.decoders import VideoDecoder

        count = PyAV(self.file, 1).count_packets()
        if not isinstance(self.file, str):
            self.file.seek(0)
        settings = dict(dimension_order="NHWC", num_ffmpeg_threads=self.num_threads)
        with _faults_as_value_error():
            decoder = VideoDecoder(self.file, **settings)
            decoder.get_frame_at(count - 1)
        if len(decoder) != count:
            raise ValueError(f"expected {count} frames, got {len(decoder)}")
        return decoder

    def __iter__(self) -> Iterator[np.ndarray]:
        """All frames, in order."""
        for number in range(self.count()):
            yield self.read([number])[number]

    def count(self) -> int:
        """Number of frames."""
        return len(self._decoder)

    def read(self, numbers: Collection[int]) -> dict[int, np.ndarray]:
        """Frames by number."""
        decoder = self._decoder
        with _faults_as_value_error():
            frames = decoder.get_frames_at(sorted(numbers)).data.numpy()
        return dict(zip(sorted(numbers), frames, strict=True))


class Decord(Backend):
    """decord (``pip install decord``), read from the first frame on: it may miss frames
    where it seeks."""

    @cached_property
    def _reader(self) -> Any:
        from decord import VideoReader

        if not isinstance(self.file, str):
            raise ValueError("bytes in memory")
        # Before decord opens it, as there are cuts from which it does not come back.
        count = PyAV(self.file, 1).count_packets()
        with _faults_as_value_error():
            reader = VideoReader(self.file, num_threads=self.num_threads)
            shape = reader[0].shape
        if len(reader) != count or shape[2] != 3:
            raise ValueError(f"expected {count} frames, got {len(reader)} {shape}")
        return reader

    def __iter__(self) -> Iterator[np.ndarray]:
        """All frames, in order."""
        reader = self._reader
        with _faults_as_value_error():
            reader.seek(0)
            for _ in range(len(reader)):
                yield reader.next().asnumpy()

    def count(self) -> int:
        """Number of frames."""
        return len(self._reader)


@contextmanager
def _faults_as_value_error() -> Iterator[None]:
    """What a library raises where it cannot read a file: each has its own kind."""
    try:
        yield
    except Exception as error:
        raise ValueError(str(error)) from error


BACKENDS = dict(pyav=PyAV, torchcodec=TorchCodec, decord=Decord, opencv=OpenCV)


def check_backend(field: str, name: object) -> None:
    """Raise ValueError unless there is a backend of this name, ImportError unless it is
    installed."""
    names = ("auto", *BACKENDS)
    if name not in names:
        raise wrong(field, f"one of {', '.join(names)}", repr(name))
    if name in ("torchcodec", "decord"):
        try:
            importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            first = str(error).strip().splitlines()[0]
            text = f"{field}={name!r}: pip install {name} ({first})"
            raise ImportError(text) from error


def _chosen(numbers: Collection[int], frames: Iterable[Any]) -> dict[int, Any]:
    numbered = zip(range(max(numbers) + 1), frames, strict=False)
    found = {i: frame for i, frame in numbered if i in numbers}
    if len(found) < len(set(numbers)):
        raise ValueError("fewer frames than before")
    return found


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
