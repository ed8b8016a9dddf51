"""The frames that ``ffmpeg`` shows, by PyAV and numpy alone: :mod:`..apis.onnx_predict`
loads this file in a process without this package."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from math import atan2, degrees

import av
import numpy as np
from av.container import InputContainer
from av.filter import Graph
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.stream import VideoStream


@contextmanager
def opened(
    path: str, num_threads: int = 1
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A file and its stream, decoded by some threads; ValueError for faults."""
    try:
        with av.open(path, metadata_errors="replace") as container:
            stream = best_stream(container)
            stream.codec_context.thread_count = num_threads
            yield container, stream
    except av.FFmpegError as error:
        raise ValueError(error.strerror or str(error)) from error


def best_stream(container: InputContainer) -> VideoStream:
    """The stream that ``ffmpeg`` takes; ValueError where there is none."""

    def rank(stream: VideoStream) -> int:
        if Disposition.attached_pic in stream.disposition:
            return 1
        default = Disposition.default in stream.disposition
        score = stream.width * stream.height + 5_000_000 * default
        # Not pix_fmt: PyAV 17 crashes where a stream has none.
        return score + 100_000_000 * (stream.format is not None)  # it holds packets

    streams = [stream for stream in container.streams.video if stream.codec_context]
    if not streams:
        raise ValueError("no video that FFmpeg can decode")
    return max(streams, key=rank)


def decode(
    container: InputContainer,
    stream: VideoStream,
    faults: list[av.FFmpegError] | None = None,
) -> Iterator[av.VideoFrame]:
    """Frames in the order of presentation; passes over faults, as ``ffmpeg`` does.
    ValueError where there is none."""
    faults, found = [] if faults is None else faults, False

    def packets() -> Iterator[av.Packet | None]:
        try:
            yield from container.demux(stream)
        except av.FFmpegError as error:
            faults.append(error)
            yield None  # empties the decoder

    for packet in packets():
        try:
            frames = stream.decode(packet)
        except av.FFmpegError as error:
            faults.append(error)
        else:
            found = found or bool(frames)
            yield from frames
    if not found:
        raise ValueError(faults[0].strerror if faults else "no frames")


def show(frames: Iterable[av.VideoFrame]) -> Iterator[np.ndarray]:
    """Upright RGB pictures (H, W, 3), uint8, as ``ffmpeg``, of the first one's size."""
    size, last = (), None
    for frame in frames:
        matrix = frame.side_data.get(SideDataType.DISPLAYMATRIX)
        turns = [] if matrix is None else _turns(np.frombuffer(matrix, np.int32))
        shape = frame.width, frame.height, frame.format.name, turns
        if shape != last:
            graph, last = Graph(), shape
            graph.threads = 1  # a pool that is freed in a forked worker waits for ever
            source = graph.add_buffer(template=frame, time_base=Fraction(1))
            filters = [*turns, ("scale", ":".join(map(str, size))), ("format", "rgb24")]
            nodes = [graph.add(*filter) for filter in [*filters, ("buffersink",)]]
            graph.link_nodes(source, *nodes).configure()
        graph.push(frame)
        image = graph.pull().to_ndarray()
        size = image.shape[1::-1]
        yield image


def _turns(matrix: np.ndarray) -> list[tuple[str, ...]]:
    """The filters that ``ffmpeg`` turns and mirrors by, of a 3 x 3 display matrix."""
    # Where the picture's axes, right and down, point on the display.
    a, b, c, d = matrix[[0, 1, 3, 4]].tolist()
    if (angle := round(degrees(atan2(b, a)))) % 90:
        return [("rotate", f"{angle}*PI/180")]
    filters = []
    if abs(b) > abs(a):
        filters, a, d = [("transpose", "cclock_flip")], c, b
    return filters + [("hflip",)] * (a < 0) + [("vflip",)] * (d < 0)
