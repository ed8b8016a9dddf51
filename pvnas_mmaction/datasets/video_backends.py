# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The libraries that decode videos, one class each.

What a container says of its frames is often wrong: a cut without re-encoding holds
frames that are not presented, a packet may hold no picture or two, and the count in a
header is an estimate. PyAV decodes the whole file to count, every read decodes from the
first frame on, and the stream and the filters are those that ``ffmpeg`` takes. The
others read plain files only, see :meth:`PyAV.check_plain`; elsewhere, PyAV does.
"""

import importlib
import logging
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.stream import VideoStream
from mmengine.logging import print_log

from ..space.checks import wrong
from .presented_frames import best_stream, decode, show

# Frames of the counting pass are kept up to this size: most clips are decoded once.
KEEP_BYTES = 2**28


class Backend:
    """Frames (H, W, 3) of a file, uint8, red first, all of the size of the first one.

    A new backend is a subclass with an iterator, and an entry in :data:`BACKENDS`.

    Args:
        file: Path of a video, or a stream of its bytes.
        num_threads: Decoding threads.
        length: Number of frames. Default 0: unknown.
    """

    def __init__(self, file: str | BinaryIO, num_threads: int, length: int = 0) -> None:
        self.file, self.num_threads, self.length = file, num_threads, length
        self._kept: list[av.VideoFrame] = []

    def __iter__(self) -> Iterator[np.ndarray]:
        """All frames, in order."""
        raise NotImplementedError

    def read(self, numbers: Collection[int]) -> dict[int, np.ndarray]:
        """Frames by number; ValueError unless all are there."""
        try:
            # From the first one on: where they seek, they may miss frames.
            return _chosen(numbers, self)
        except Exception as error:  # those of the libraries have no common class
            raise ValueError(str(error)) from error


class PyAV(Backend):
    """PyAV, which shows the frames that ``ffmpeg`` does."""

    @property
    def fps(self) -> float:
        """Mean frames per second by the container; 0 where it names none."""
        with suppress(ValueError), self._open() as (_, stream):
            return float(stream.average_rate or 0)
        return 0.0

    def __iter__(self) -> Iterator[np.ndarray]:
        """All frames, in order."""
        with self._open() as (container, stream):
            yield from show(_decode(container, stream))

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
        wanted = sorted({0, *numbers})  # the first frame says how large all are
        with self._open() as opened:
            found: Any = self._kept or _chosen(wanted, _decode(*opened))
            return dict(zip(wanted, show(found[i] for i in wanted), strict=True))

    def check_plain(self, length: int) -> None:
        """ValueError unless each of ``length`` packets is one frame, of common colours,
        that is presented as it is, at a time of its own."""
        with self._open() as (container, stream):
            packets = [*container.demux(stream)]
            first = next(f for packet in packets for f in packet.decode())
            whole = [packet for packet in packets if packet.size]
            if not (
                {"mp4", "matroska"} & set(container.format.name.split(","))
                and len(container.streams.video) == 1
                and len({packet.pts for packet in whole}) == len(whole) == length
                and not any(packet.is_discard for packet in whole)
                and first.format.name == "yuv420p"
                and not (first.interlaced_frame or first.width % 2 or first.height % 2)
                and first.side_data.get(SideDataType.DISPLAYMATRIX) is None
            ):
                raise ValueError("not a plain file")

    @contextmanager
    def _open(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        if not isinstance(self.file, str):
            self.file.seek(0)
        try:
            with av.open(self.file, metadata_errors="replace") as container:
                stream = best_stream(container)
                stream.codec_context.thread_count = self.num_threads
                yield container, stream
        except av.FFmpegError as error:
            raise ValueError(error.strerror or str(error)) from error


class TorchCodec(Backend):
    """TorchCodec (``pip install torchcodec``), which needs FFmpeg's libraries."""

    @cached_property
    def _decoder(self) -> Any:
        from torchcodec.decoders import VideoDecoder

        PyAV(self.file, 1).check_plain(self.length)
        if not isinstance(self.file, str):
            self.file.seek(0)
        settings = dict(dimension_order="NHWC", num_ffmpeg_threads=self.num_threads)
        decoder = VideoDecoder(self.file, **settings)
        if len(decoder) != self.length:
            raise ValueError(f"expected {self.length} frames, got {len(decoder)}")
        return decoder

    def __iter__(self) -> Iterator[np.ndarray]:
        """All frames, in order."""
        for number in range(self.length):
            yield self._decoder[number].numpy()


class Decord(Backend):
    """decord (``pip install decord``)."""

    @cached_property
    def _reader(self) -> Any:
        from decord import VideoReader

        if not isinstance(self.file, str):
            raise ValueError("bytes in memory")
        # Before decord opens it, as there are cuts from which it does not come back.
        PyAV(self.file, 1).check_plain(self.length)
        reader = VideoReader(self.file, num_threads=self.num_threads)
        shape = reader[0].shape
        if len(reader) != self.length or shape[2] != 3:  # it mixes up some widths
            text = f"expected {self.length} frames, got {len(reader)} {shape}"
            raise ValueError(text)
        return reader

    def __iter__(self) -> Iterator[np.ndarray]:
        """All frames, in order."""
        self._reader.seek(0)
        for _ in range(self.length):
            yield self._reader.next().asnumpy()


BACKENDS = dict(pyav=PyAV, torchcodec=TorchCodec, decord=Decord)


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
    """Frames in the order of presentation; ValueError where there is none."""
    faults: list[av.FFmpegError] = []
    number = 0
    for frame in decode(container, stream, faults):
        number += 1
        yield frame
    if number == 0:
        raise ValueError(faults[0].strerror if faults else "no frames")
    if faults and log:
        print_log(
            f"{container.name}: expected a whole video, got {number} frames and a "
            f"fault ({faults[0].strerror}); these frames are used",
            "current",
            logging.WARNING,
        )
