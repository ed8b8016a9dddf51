# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Frame i is the i-th frame that a player shows, whatever the file."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from pvnas_mmaction.datasets import VideoFrames, video_frames

LENGTH = 60
BITS = 6


def picture(number: int, width: int, height: int) -> np.ndarray:
    """A gray frame (height, width) that carries its number as vertical bars."""
    bits = number >> (np.arange(width) * BITS // width) & 1
    return np.tile(np.where(bits, 210, 40).astype(np.uint8), (height, 1))


def numbers(frames: Sequence[np.ndarray]) -> list[int]:
    """The numbers that frames (H, W, 3) carry."""
    found = []
    for frame in frames:
        place = np.arange(frame.shape[1]) * BITS // frame.shape[1]
        bits = [frame[:, place == bit].mean() > 125 for bit in range(BITS)]
        found.append(sum(2**bit for bit in range(BITS) if bits[bit]))
    return found


def encode(
    path: Path,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (96, 72),
    length: int = LENGTH,
    times: Sequence[int] | None = None,
    gop: int = 20,
    b_frames: int = 0,
    **options: str,
) -> Path:
    """Write a video of numbered frames, at ``times`` in 1/600 s (default: 30 fps)."""
    times = [20 * i for i in range(length)] if times is None else times
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.gop_size = gop
        if b_frames:
            stream.max_b_frames = b_frames
        if len({b - a for a, b in pairwise(times)}) > 1:
            stream.codec_context.time_base = Fraction(1, 600)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="gray")
            frame = frame.reformat(format=pix_fmt)
            frame.pts, frame.time_base = time, Fraction(1, 600)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def remux(source: Path, path: Path, first: int = 0, **options: str) -> Path:
    """Frames from ``first`` on without re-encoding, as ``ffmpeg -ss -c copy`` cuts:
    from the key frame before, at negative times up to the cut."""
    with av.open(str(source)) as old, av.open(str(path), "w", options=options) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        step = int(1 / (stream.average_rate * stream.time_base))
        packets = [packet for packet in old.demux(stream) if packet.size]
        start = min(packet.pts for packet in packets)
        keys = [i for i, p in enumerate(packets) if p.is_keyframe]
        begin = max(i for i in keys if packets[i].pts - start <= first * step)
        for packet in packets[begin:]:
            packet.pts -= start + first * step
            packet.dts -= start + first * step
            packet.stream = copy
            new.mux(packet)
    return path


def turn(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Write a display matrix (a, b, c, d) into the track header of an mp4 file."""
    data = bytearray(path.read_bytes())
    place = data.find(b"tkhd") + 44
    matrix = [value << 16 for value in (a, b, 0, c, d, 0, 0, 0)]
    data[place : place + 36] = struct.pack(">9i", *matrix, 1 << 30)
    path.write_bytes(data)
    return path


def with_cover(source: Path, path: Path) -> Path:
    """With a picture as another video stream, and a title in Latin-1."""
    cover = av.VideoFrame.from_ndarray(np.zeros((300, 300, 3), np.uint8))
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        picture = new.add_stream("mjpeg", rate=1)
        picture.width = picture.height = 300
        picture.pix_fmt = "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        copy = new.add_stream_from_template(old.streams.video[0])
        new.metadata["title"] = "QQQ"
        new.mux(picture.encode(cover.reformat(format="yuvj420p")) + picture.encode())
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = copy
                new.mux(packet)
    path.write_bytes(path.read_bytes().replace(b"QQQ", b"\xe9t\xe9"))
    return path


def damage(path: Path) -> Path:
    """Zeros in place of the frames from 30 on."""
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for position, size in packets[30:]:
        data[position : position + size] = bytes(size)
    path.write_bytes(data)
    return path


def behind(path: Path, source: Path, share: float) -> Path:
    """What is left of a transport stream when its start is cut off."""
    data = source.read_bytes()
    path.write_bytes(data[int(len(data) // 188 * share) * 188 :])
    return path


OPEN = {"x264-params": "open-gop=1:keyint=20:bframes=3:b-adapt=0"}
HEVC = {"x265-params": "log-level=none:keyint=20:bframes=3:open-gop=1:pools=1"}
UNEVEN = [20 * i + 5 * (i % 3) for i in range(20)] + [60 * i for i in range(20, 60)]

# Kind: what makes the file in a folder, and the numbers of the frames that it shows.
KINDS = {
    "h264 mp4": (lambda d: encode(d / "a.mp4", b_frames=3), None),
    "h264 avi": (lambda d: encode(d / "a.avi", b_frames=2), None),
    "h264 mkv, open groups": (lambda d: encode(d / "a.mkv", **OPEN), None),
    "h264 ts, open groups": (lambda d: encode(d / "a.ts", **OPEN), None),
    "h264 flv": (lambda d: encode(d / "a.flv", b_frames=2), None),
    "h264, intra refresh": (
        lambda d: encode(d / "a.mp4", **{"x264-params": "intra-refresh=1:keyint=20"}),
        None,
    ),
    "h264, 10 bit": (lambda d: encode(d / "a.mp4", pix_fmt="yuv420p10le"), None),
    "h264, gray": (lambda d: encode(d / "a.mp4", pix_fmt="gray"), None),
    "h264, fragments": (
        lambda d: remux(encode(d / "a.mp4"), d / "b.mp4", movflags="frag_keyframe"),
        None,
    ),
    "hevc mp4": (lambda d: encode(d / "a.mp4", "libx265", **HEVC), None),
    "hevc mkv, 10 bit": (
        lambda d: encode(d / "a.mkv", "libx265", "yuv420p10le", **HEVC),
        None,
    ),
    "mpeg4 avi": (lambda d: encode(d / "a.avi", "mpeg4", b_frames=2, qmax="3"), None),
    "mpeg4 mp4": (lambda d: encode(d / "a.mp4", "mpeg4", b_frames=2, qmax="3"), None),
    "vp8 webm": (lambda d: encode(d / "a.webm", "libvpx", b="1M"), None),
    "vp9 webm, hidden frames": (
        lambda d: encode(
            d / "a.webm", "libvpx-vp9", **{"auto-alt-ref": "1", "cpu-used": "8"}
        ),
        None,
    ),
    "av1 mp4": (lambda d: encode(d / "a.mp4", "libsvtav1", preset="10", qp="10"), None),
    "mjpeg avi": (lambda d: encode(d / "a.avi", "mjpeg", "yuvj420p", qmax="3"), None),
    "mpeg2 ts": (
        lambda d: encode(d / "a.ts", "mpeg2video", b_frames=2, qmax="3"),
        None,
    ),
    "mpeg2 mpg": (
        lambda d: encode(d / "a.mpg", "mpeg2video", b_frames=2, qmax="3"),
        None,
    ),
    "wmv": (lambda d: encode(d / "a.wmv", "wmv2", qmax="3"), None),
    "gif": (lambda d: encode(d / "a.gif", "gif", "gray"), None),
    "uneven times, mp4": (lambda d: encode(d / "a.mp4", times=UNEVEN), None),
    "uneven times, mkv": (
        lambda d: encode(d / "a.mkv", times=UNEVEN, b_frames=2),
        None,
    ),
    "odd sizes": (lambda d: encode(d / "a.mp4", "libx264", "yuv444p", (95, 71)), None),
    **{
        f"{side} pixels wide": (
            lambda d, side=side: encode(d / "a.mp4", size=(side, side), crf="8"),
            None,
        )
        for side in (16, 24, 48, 72)
    },
    "turned by a quarter": (lambda d: turn(encode(d / "a.mp4"), 0, 1, -1, 0), None),
    "turned by half": (lambda d: turn(encode(d / "a.mp4"), -1, 0, 0, -1), None),
    "turned back": (lambda d: turn(encode(d / "a.mp4"), 0, -1, 1, 0), None),
    "mirrored": (lambda d: turn(encode(d / "a.mp4"), -1, 0, 0, 1), None),
    "with a cover": (lambda d: with_cover(encode(d / "a.mp4"), d / "b.mp4"), None),
    "damaged at the end": (
        lambda d: damage(encode(d / "a.mkv", "mpeg4", qmax="3")),
        range(30),
    ),
    "one frame": (lambda d: encode(d / "a.mp4", length=1), [0]),
    # A cut keeps the frames from the key frame on; an edit list hides them in mp4.
    "cut in mp4": (
        lambda d: remux(encode(d / "a.mp4", b_frames=2), d / "b.mp4", 33),
        range(33, 60),
    ),
    "cut in mp4, one key frame": (
        lambda d: remux(encode(d / "a.mp4", gop=250), d / "b.mp4", 25),
        range(25, 60),
    ),
    "cut in mp4, open groups": (
        lambda d: remux(encode(d / "a.mp4", **OPEN), d / "b.mp4", 47),
        range(47, 60),
    ),
    "cut in mkv": (
        lambda d: remux(encode(d / "a.mp4", sc_threshold="0"), d / "b.mkv", 33),
        range(20, 60),
    ),
    "ts from amidst a group": (
        lambda d: behind(
            d / "b.ts",
            encode(d / "a.ts", "mpeg2video", sc_threshold="1000000", qmax="3"),
            0.4,
        ),
        range(40, 60),
    ),
}

UPRIGHT = {
    "turned by a quarter": lambda frame: np.rot90(frame, 1),
    "turned by half": lambda frame: np.rot90(frame, 2),
    "turned back": lambda frame: np.rot90(frame, 3),
    "mirrored": lambda frame: frame[:, ::-1],
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory):
    """What gives the file of a kind; each is made once."""
    made: dict[str, Path] = {}

    def file_of(kind: str) -> Path:
        if kind not in made:
            made[kind] = KINDS[kind][0](tmp_path_factory.mktemp("kind"))
        return made[kind]

    return file_of


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_is_the_one_presented(zoo, kind: str) -> None:
    path, expected = str(zoo(kind)), KINDS[kind][1]
    video = VideoFrames(path)
    frames = video.read(range(len(video)))
    if "turned" in kind or "mirrored" in kind:
        assert numbers([UPRIGHT[kind](f) for f in frames]) == list(range(LENGTH))
        assert numbers(frames) != list(range(LENGTH))
        return
    assert numbers(frames) == list(range(LENGTH) if expected is None else expected)
    # Later reads know the length, and may jump to key frames.
    generator = np.random.default_rng(0)
    for count in (1, 2, 5):
        chosen = generator.integers(0, len(frames), count)
        again = VideoFrames(path, video.length).read(chosen)
        assert all(
            np.array_equal(a, frames[i]) for a, i in zip(again, chosen, strict=True)
        )


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_those_of_ffmpeg(zoo, kind: str) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs the ffmpeg program")
    path = str(zoo(kind))
    video = VideoFrames(path)
    ours = np.stack(video.read(range(len(video))))
    command = ["ffmpeg", "-v", "error", "-i", path, "-vsync", "passthrough"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:"]
    raw = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).stdout
    theirs = np.frombuffer(raw, np.uint8).reshape(-1, *ours.shape[1:])
    assert len(theirs) == len(ours)
    assert np.abs(ours.astype(int) - theirs).mean((1, 2, 3)).max() < 4


@pytest.mark.parametrize(
    "kind", ["h264 mp4", "uneven times, mkv", "cut in mp4", "turned by a quarter"]
)
def test_backends_give_the_same_frames(zoo, kind: str) -> None:
    videos = [VideoFrames(str(zoo(kind)), backend=b) for b in ("pyav", "opencv")]
    ours, theirs = (np.stack(v.read(range(len(v)))).astype(int) for v in videos)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).mean((1, 2, 3)).max() < 4
    assert videos[0].fps == pytest.approx(videos[1].fps, rel=0.1)


def test_where_a_backend_fails_the_next_one_reads(
    zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(zoo("h264 mp4"))
    monkeypatch.setattr(av, "open", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        VideoFrames(path)

    def fail(*args, **kwargs):
        raise av.error.InvalidDataError(1, "bad atom")

    monkeypatch.setattr(av, "open", fail)
    video = VideoFrames(path)
    assert numbers(video.read([3, 59, 3])) == [3, 59, 3]
    assert numbers(VideoFrames(path, video.length).read([58])) == [58]
    (bad := zoo("one frame").with_name("bad.mp4")).write_bytes(b"no video")
    with pytest.raises(ValueError, match="pyav: bad atom; opencv: no frames"):
        VideoFrames(str(bad))


def test_long_video_is_not_kept_in_memory(zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_frames, "KEEP_BYTES", 10_000)
    for kind in ("h264 mp4", "h264 ts, open groups", "cut in mkv", "mpeg4 avi"):
        video = VideoFrames(str(zoo(kind)))
        assert not video._readers[0][1]._kept
        assert numbers(video.read([39, 7, 20])) in ([39, 7, 20], [59, 27, 40])


def test_later_reads_jump_to_key_frames(zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(zoo("hevc mp4"))
    length = VideoFrames(path).length
    decoded = []
    decode = video_frames._decode

    def counted(*args):
        for frame in decode(*args):
            decoded.append(frame)
            yield frame

    monkeypatch.setattr(video_frames, "_decode", counted)
    assert numbers(VideoFrames(path, length).read([1, 42])) == [1, 42]
    assert length == LENGTH
    # Key frames are 0, 20 and 40; leading frames drop out.
    assert len(decoded) <= 8
