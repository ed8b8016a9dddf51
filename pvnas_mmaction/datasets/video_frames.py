"""The frames of a video as a player shows them.

What a container says of its frames is often wrong: a cut without re-encoding holds
frames that are not presented, a packet may hold no picture or two, and the count in a
header is an estimate. So PyAV decodes the whole file to count, every read decodes from
the first frame on, and the stream and the filters are those that ``ffmpeg`` takes.
"""

import importlib
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from mmengine.logging import print_log

from ..space.checks import wrong
from .presented_frames import decode, opened, show

# Frames of the counting pass are kept up to this size: most clips are decoded once.
KEEP_BYTES = 2**28


def torchcodec(file: str, num_threads: int, length: int) -> Iterator[np.ndarray]:
    """TorchCodec, which needs FFmpeg's libraries."""
    from torchcodec.decoders import VideoDecoder

    settings = dict(dimension_order="NHWC", num_ffmpeg_threads=num_threads)
    decoder = VideoDecoder(file, **settings)
    if len(decoder) != length:
        raise ValueError(f"expected {length} frames, got {len(decoder)}")
    for number in range(length):
        yield decoder[number].numpy()


def decord(file: str, num_threads: int, length: int) -> Iterator[np.ndarray]:
    """decord, which mixes up some widths."""
    from decord import VideoReader

    reader = VideoReader(file, num_threads=num_threads)
    if len(reader) != length or reader[0].shape[2] != 3:
        raise ValueError(f"expected {length} frames, got {len(reader)}")
    reader.seek(0)
    for _ in range(length):
        yield reader.next().asnumpy()


# A function takes a file, a number of threads, and the number of frames that it has to
# find, and gives all frames in order; whatever it raises, PyAV reads the file.
BACKENDS = dict(torchcodec=torchcodec, decord=decord)


def check_backend(field: str, name: object) -> None:
    """ValueError unless there is such a backend, ImportError unless installed."""
    names = ("auto", "pyav", *BACKENDS)
    if name not in names:
        raise wrong(field, f"one of {', '.join(names)}", repr(name))
    if name in BACKENDS:
        try:
            importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            first = str(error).strip().splitlines()[0]
            text = f"{field}={name!r}: pip install {name} ({first})"
            raise ImportError(text) from error


class VideoFrames:
    """Frames of a video by number, in the order of presentation.

    Frame i is the i-th one that ``ffmpeg`` shows: edit lists and rotation are applied,
    and packets that cannot be decoded are left out.

    Args:
        file: Path of a video.
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
        file: str,
        length: int = 0,
        num_threads: int = 1,
        backend: str = "auto",
    ) -> None:
        file = os.path.abspath(file)  # a name may hold a colon
        if not os.path.isfile(file):
            raise FileNotFoundError(f"no file {file}")
        check_backend("backend", backend)
        self.file, self.num_threads = file, num_threads
        self._other = BACKENDS.get(backend)
        self._kept: list[av.VideoFrame] = []
        self._length = length or self._count()

    def __len__(self) -> int:
        return self._length

    @property
    def fps(self) -> float:
        """Mean frames per second by the container; 0 where it names none."""
        with suppress(ValueError), opened(self.file) as (_, stream):
            return float(stream.average_rate or 0)
        return 0.0

    def read(self, indices: Sequence[int]) -> list[np.ndarray]:
        """Frames (H, W, 3), uint8, red first, in the order that is asked for."""
        numbers = {int(i) for i in indices}
        if self._other is not None:
            try:
                self._check_plain()  # first: there are cuts that decord hangs on
                # From the first one on: where they seek, they may miss frames.
                frames = self._other(self.file, self.num_threads, len(self))
                images = _chosen(numbers, frames)
            except Exception:  # those of the libraries have no common class
                self._other = None
        if self._other is None:
            images = self._read(numbers)
        return [images[int(i)] for i in indices]

    def __iter__(self) -> Iterator[np.ndarray]:
        """All frames, in order, by PyAV."""
        with opened(self.file, self.num_threads) as source:
            yield from show(decode(*source))

    def _count(self) -> int:
        length, size = 0, 0
        faults: list[av.FFmpegError] = []
        with opened(self.file, self.num_threads) as source:
            for frame in decode(*source, faults):
                length += 1
                size += sum(plane.buffer_size for plane in frame.planes)
                if size <= KEEP_BYTES:
                    self._kept.append(frame)
        if size > KEEP_BYTES:
            self._kept = []
        if faults:
            text = f"{self.file}: expected a whole video, got {length} frames and a "
            text += f"fault ({faults[0].strerror}); these frames are used"
            print_log(text, "current", logging.WARNING)
        return length

    def _read(self, numbers: Collection[int]) -> dict[int, np.ndarray]:
        wanted = sorted({0, *numbers})  # the first frame says how large all are
        with opened(self.file, self.num_threads) as source:
            found: Any = self._kept or _chosen(wanted, decode(*source))
            return dict(zip(wanted, show(found[i] for i in wanted), strict=True))

    def _check_plain(self) -> None:
        """ValueError unless each packet is one frame, of common colours, that is
        presented as it is, at a time of its own."""
        with opened(self.file) as (container, stream):
            packets = [*container.demux(stream)]
            first = next(f for packet in packets for f in packet.decode())
            whole = [packet for packet in packets if packet.size]
            if not (
                {"mp4", "matroska"} & set(container.format.name.split(","))
                and len(container.streams.video) == 1
                and len({packet.pts for packet in whole}) == len(whole) == len(self)
                and not any(packet.is_discard for packet in whole)
                and first.format.name == "yuv420p"
                and not (first.interlaced_frame or first.width % 2 or first.height % 2)
                and first.side_data.get(SideDataType.DISPLAYMATRIX) is None
            ):
                raise ValueError("not a plain file")


def _chosen(numbers: Collection[int], frames: Iterable[Any]) -> dict[int, Any]:
    numbered = zip(range(max(numbers) + 1), frames, strict=False)
    found = {i: frame for i, frame in numbered if i in numbers}
    if len(found) < len(set(numbers)):
        raise ValueError("fewer frames than before")
    return found
