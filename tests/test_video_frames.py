"""Frame i is the i-th frame that a player shows, whatever the file."""

import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from pvnas_mmaction.apis import onnx_predict
from pvnas_mmaction.datasets import VideoFrames, video_frames

LENGTH = 60
BITS = 6


def picture(number: int, width: int, height: int) -> np.ndarray:
    """A frame (height, width, 3) that carries its number as vertical bars, bright or
    dark; their colours change every four rows."""
    bits = number >> (np.arange(width) * BITS // width) & 1
    row = np.where(bits[:, None], (240, 190, 140), (110, 60, 10)).astype(np.uint8)
    return np.stack([row[:, :: 1 if y // 4 % 2 else -1] for y in range(height)])


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
) -> None:
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
            frame = av.VideoFrame.from_ndarray(picture(number, *size))
            frame = frame.reformat(format=pix_fmt)
            frame.pts, frame.time_base = time, Fraction(1, 600)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def remux(source: Path, path: Path, first: int = 0, **options: str) -> None:
    """Frames from ``first`` on without re-encoding, as ``ffmpeg -ss -c copy`` cuts:
    from the key frame before, at negative times up to the cut; ``first`` below 0 puts
    all off."""
    with av.open(str(source)) as old, av.open(str(path), "w", options=options) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        step = int(1 / (stream.average_rate * stream.time_base))
        packets = [packet for packet in old.demux(stream) if packet.size]
        start = min(packet.pts for packet in packets)
        keys = [i for i, p in enumerate(packets) if p.is_keyframe]
        before = [i for i in keys if packets[i].pts - start <= first * step]
        begin = max(before, default=0)
        for packet in packets[begin:]:
            packet.pts -= start + first * step
            packet.dts -= start + first * step
            packet.stream = copy
            new.mux(packet)


def turn(source: Path, path: Path, a: float, b: float, c: float, d: float) -> None:
    """Write a display matrix (a, b, c, d) into the track header of an mp4 file."""
    data = bytearray(source.read_bytes())
    place = data.find(b"tkhd") + 44
    matrix = [round(value * 2**16) for value in (a, b, 0, c, d, 0, 0, 0)]
    data[place : place + 36] = struct.pack(">9i", *matrix, 1 << 30)
    path.write_bytes(data)


def with_cover(source: Path, path: Path) -> None:
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


def with_other(source: Path, path: Path, size: tuple, empty: bool = False) -> None:
    """With another video as its first stream, or with one that holds nothing."""
    first = path.with_suffix(".first.mkv")
    encode(first, size=size, length=30)
    with (
        av.open(str(first)) as one,
        av.open(str(source)) as other,
        av.open(str(path), "w") as new,
    ):
        copies = []
        for container in (one, other):
            copies.append(new.add_stream_from_template(container.streams.video[0]))
            copies[-1].disposition = av.stream.Disposition(0)
        for container, copy in zip((one, other), copies, strict=True):
            for packet in container.demux(video=0):
                if packet.size and not (empty and copy.index == 0):
                    packet.stream = copy
                    new.mux(packet)


def damage(source: Path, path: Path, first: int = 30, last: int | None = None) -> None:
    """Zeros in place of the frames from ``first`` to ``last``; the container stays
    whole."""
    with av.open(str(source)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(source.read_bytes())
    for position, size in packets[first:last]:
        data[position : position + size] = bytes(size)
    path.write_bytes(data)


def change_size(source: Path, path: Path) -> None:
    """Smaller frames from the middle on: each JPEG picture has a size of its own."""
    small = path.with_suffix(".avi")
    encode(small, **{**ENCODED["mjpeg.avi"], "size": (48, 36)})
    with (
        av.open(str(source)) as first,
        av.open(str(small)) as second,
        av.open(str(path), "w") as new,
    ):
        stream = new.add_stream_from_template(first.streams.video[0])
        for packet in [*first.demux(video=0)][:30] + [*second.demux(video=0)][30:60]:
            packet.stream = stream
            new.mux(packet)


def behind(source: Path, path: Path) -> None:
    """What is left of a transport stream when its start is cut off."""
    data = source.read_bytes()
    path.write_bytes(data[int(len(data) // 188 * 0.4) * 188 :])


def twice(source: Path, path: Path) -> None:
    """A file and once more the same: its times jump back."""
    path.write_bytes(source.read_bytes() * 2)


OPEN = {"x264-params": "open-gop=1:keyint=20:bframes=3:b-adapt=0"}
REFRESH = {"x264-params": "intra-refresh=1:keyint=20"}
HEVC = {"x265-params": "log-level=none:keyint=20:bframes=3:open-gop=1:pools=1"}
UNEVEN = [20 * i + 5 * (i % 3) for i in range(20)] + [60 * i for i in range(20, 60)]
FINE = dict(b_frames=2, qmax="3")

ENCODED = {
    "h264.mp4": dict(b_frames=2),
    "h264.avi": dict(b_frames=2),
    "h264.flv": dict(b_frames=2),
    "open_groups.mp4": OPEN,
    "open_groups.mkv": OPEN,
    "open_groups.ts": OPEN,
    "intra_refresh.mp4": REFRESH,
    "one_key_frame.mp4": dict(gop=250),
    "fixed_groups.mp4": dict(sc_threshold="0"),
    "ten_bits.mp4": dict(pix_fmt="yuv420p10le"),
    "gray.mp4": dict(pix_fmt="gray"),
    "hevc.mp4": dict(codec="libx265", **HEVC),
    "hevc_ten_bits.mkv": dict(codec="libx265", pix_fmt="yuv420p10le", **HEVC),
    "mpeg4.avi": dict(codec="mpeg4", **FINE),
    "mpeg4.mp4": dict(codec="mpeg4", **FINE),
    "mpeg4.mkv": dict(codec="mpeg4", qmax="3"),
    "vp8.webm": dict(codec="libvpx", b="1M", deadline="realtime"),
    "vp9_hidden_frames.webm": {"codec": "libvpx-vp9", "auto-alt-ref": "1"},
    "av1.mp4": dict(codec="libsvtav1", preset="10", qp="10"),
    "mjpeg.avi": dict(codec="mjpeg", pix_fmt="yuvj420p", qmax="3"),
    "mpeg2.ts": dict(codec="mpeg2video", sc_threshold="1000000", qmax="3"),
    "mpeg2.mpg": dict(codec="mpeg2video", **FINE),
    "wmv2.wmv": dict(codec="wmv2", qmax="3"),
    "gif.gif": dict(codec="gif", pix_fmt="gray"),
    "uneven_times.mp4": dict(times=UNEVEN),
    "uneven_times.mkv": dict(times=UNEVEN, b_frames=2),
    "odd_sizes.mp4": dict(pix_fmt="yuv444p", size=(95, 71)),
    "16_pixels.mp4": dict(size=(16, 16), crf="8"),
    "24_pixels.mp4": dict(size=(24, 24), crf="8"),
    "48_pixels.mp4": dict(size=(48, 48)),
    "72_pixels.mp4": dict(size=(72, 72)),
    "one_frame.mp4": dict(length=1),
    "interlaced.mp4": {"x264-params": "tff=1"},
    "interlaced.ts": dict(codec="mpeg2video", flags="+ilme+ildct", qmax="3"),
    "b_pyramid.mkv": {"x264-params": "bframes=5:b-adapt=0:b-pyramid=normal"},
    "full_range.mp4": dict(color_range="pc"),
    "bt709.mp4": dict(colorspace="bt709"),
    "bt2020.mkv": dict(pix_fmt="yuv420p10le", colorspace="bt2020nc"),
    "yuv_422.mov": dict(codec="prores_ks", pix_fmt="yuv422p10le"),
    "alpha.webm": {"codec": "libvpx-vp9", "pix_fmt": "yuva420p", "auto-alt-ref": "0"},
    "rgb.nut": dict(codec="libx264rgb", pix_fmt="rgb24"),
    "raw.avi": dict(codec="rawvideo", pix_fmt="bgr24"),
    "png.mov": dict(codec="png", pix_fmt="rgb24"),
    "apng.apng": dict(codec="apng", pix_fmt="rgb24"),
}
# A cut holds the frames from the key frame on; in mp4, an edit list hides the first.
ALL = range(LENGTH)
WITHOUT_25 = [i for i in ALL if i != 25]
EMPTY = dict(size=(192, 144), empty=True)
TILT = dict(a=3**0.5 / 2, b=0.5, c=-0.5, d=3**0.5 / 2)
MADE = {
    "fragments.mp4": ("h264.mp4", remux, dict(movflags="frag_keyframe"), ALL),
    "cut.mp4": ("h264.mp4", remux, dict(first=33), range(33, LENGTH)),
    "cut_one_key.mp4": ("one_key_frame.mp4", remux, dict(first=25), range(25, LENGTH)),
    "cut_open.mp4": ("open_groups.mp4", remux, dict(first=47), range(47, LENGTH)),
    "cut.mkv": ("fixed_groups.mp4", remux, dict(first=33), range(20, LENGTH)),
    "cut.ts": ("mpeg2.ts", behind, {}, range(40, LENGTH)),
    "put_off.mp4": ("h264.mp4", remux, dict(first=-30), ALL),
    "joined.ts": ("mpeg2.ts", twice, {}, [*ALL, *ALL]),
    "smaller_first.ts": ("mpeg2.ts", with_other, dict(size=(48, 36)), ALL),
    "smaller_first.mkv": ("h264.mp4", with_other, dict(size=(48, 36)), ALL),
    "empty_first.mkv": ("h264.mp4", with_other, EMPTY, ALL),
    "one_fault.avi": ("mjpeg.avi", damage, dict(first=25, last=26), WITHOUT_25),
    "damaged.mkv": ("mpeg4.mkv", damage, {}, range(30)),
    "two_sizes.mkv": ("mjpeg.avi", change_size, {}, ALL),
    "cover.mp4": ("h264.mp4", with_cover, {}, ALL),
    "quarter_turn.mp4": ("h264.mp4", turn, dict(a=0, b=1, c=-1, d=0), ALL),
    "half_turn.mp4": ("h264.mp4", turn, dict(a=-1, b=0, c=0, d=-1), ALL),
    "turn_back.mp4": ("h264.mp4", turn, dict(a=0, b=-1, c=1, d=0), ALL),
    "mirrored.mp4": ("h264.mp4", turn, dict(a=-1, b=0, c=0, d=1), ALL),
    "tilted.mp4": ("h264.mp4", turn, TILT, ALL),
}
TILT_BACK = cv2.getRotationMatrix2D((47.5, 35.5), 30, 1)
UPRIGHT = {
    "quarter_turn.mp4": np.rot90,
    "half_turn.mp4": lambda frame: frame[::-1, ::-1],
    "turn_back.mp4": lambda frame: np.rot90(frame, -1),
    "mirrored.mp4": lambda frame: frame[:, ::-1],
    "tilted.mp4": lambda frame: cv2.warpAffine(frame, TILT_BACK, (96, 72))[30:42],
}
KINDS = [*ENCODED, *MADE]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory):
    """What gives the path of a kind; each file is made once."""
    folder = tmp_path_factory.mktemp("zoo")

    def path_of(kind: str) -> str:
        path = folder / kind
        if kind in ENCODED and not path.exists():
            encode(path, **ENCODED[kind])
        elif not path.exists():
            source, function, options, _ = MADE[kind]
            function(Path(path_of(source)), path, **options)
        return str(path)

    return path_of


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_is_the_one_presented(zoo, kind: str) -> None:
    video = VideoFrames(zoo(kind))
    frames = video.read(range(len(video)))
    upright = [UPRIGHT[kind](f) for f in frames] if kind in UPRIGHT else frames
    encoded = range(ENCODED.get(kind, {}).get("length", LENGTH))
    assert numbers(upright) == list(MADE[kind][3] if kind in MADE else encoded)
    # Predictions see the same.
    assert onnx_predict.count_frames(zoo(kind))[0] == len(frames)
    shown = dict(onnx_predict.read_frames(zoo(kind), set(range(len(frames)))))
    assert np.array_equal([*shown.values()], frames)
    # Later reads know the length.
    generator = np.random.default_rng(0)
    for count in (1, 2, 5):
        chosen = generator.integers(0, len(frames), count)
        again = VideoFrames(zoo(kind), len(video)).read(chosen)
        assert np.array_equal(again, [frames[i] for i in chosen])


@pytest.mark.parametrize("backend", ["torchcodec", "decord"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_backend_gives_the_same_frames(zoo, kind: str, backend: str) -> None:
    pytest.importorskip(backend)
    exact, video = VideoFrames(zoo(kind)), VideoFrames(zoo(kind), backend=backend)
    assert len(video) == len(exact)
    chosen = np.random.default_rng(0).permutation(len(exact))[:12]
    expected = np.asarray(exact.read(chosen), int)
    assert np.abs(expected - video.read(chosen)).mean((1, 2, 3)).max() < 1
    known = VideoFrames(zoo(kind), len(video), backend=backend).read(chosen[:1])
    assert np.abs(expected[0] - known[0]).mean() < 1


def test_which_backend_reads(zoo) -> None:
    pytest.importorskip("decord")
    for kind, reads in {"h264.mp4": True, "cut.mp4": False, "gif.gif": False}.items():
        video = VideoFrames(zoo(kind), backend="decord")
        video.read([0])
        assert (video._other is not None) == reads


def test_unknown_or_missing_backend_is_refused(
    zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="backend: expected one of auto, pyav"):
        VideoFrames(zoo("h264.mp4"), backend="dekord")
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    with pytest.raises(ImportError, match="backend='torchcodec': pip install"):
        VideoFrames(zoo("h264.mp4"), backend="torchcodec")


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_those_of_ffmpeg(zoo, kind: str) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs the ffmpeg program")
    video = VideoFrames(zoo(kind))
    ours = np.stack(video.read(range(len(video))))
    command = ["ffmpeg", "-v", "error", "-i", zoo(kind), "-fps_mode", "passthrough"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:"]
    raw = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).stdout
    theirs = np.frombuffer(raw, np.uint8).reshape(-1, *ours.shape[1:])
    assert len(theirs) == len(ours)
    assert np.abs(ours.astype(int) - theirs).mean((1, 2, 3)).max() < 1


def test_long_video_is_not_kept_in_memory(zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_frames, "KEEP_BYTES", 10_000)
    for kind in ("h264.mp4", "open_groups.ts", "mpeg4.avi"):
        video = VideoFrames(zoo(kind))
        assert not video._kept
        assert numbers(video.read([39, 7, 20])) == [39, 7, 20]


def test_a_file_without_frames_says_why(zoo, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    codec = Path(zoo("b_pyramid.mkv")).read_bytes().replace(b"V_MPEG4", b"V_MPEG9", 1)
    (tmp_path / "codec.mkv").write_bytes(codec)
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        container.add_stream("pcm_s16le", rate=8000)
        container.start_encoding()
    none = "no video that FFmpeg can decode"
    reasons = {"bad.mp4": "Invalid data found", "codec.mkv": none, "sound.wav": none}
    for name, reason in reasons.items():
        with pytest.raises(ValueError, match=reason):
            VideoFrames(str(tmp_path / name))


def test_a_name_with_a_colon(zoo, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(zoo("h264.mp4"), "camera:20.mp4")
    assert numbers(VideoFrames("camera:20.mp4").read([20])) == [20]
