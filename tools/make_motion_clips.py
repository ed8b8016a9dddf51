#!/usr/bin/env python
# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Render the motion clips: small mp4 files that only motion tells apart.

A clip shows a few textured shapes on a still, textured background. All shapes
of a clip do the same thing, and that is the class: move left, right, up or
down, rotate clockwise or counter-clockwise, grow, or shrink.

No frame tells the class, by construction. Position lives on a torus (a shape
that leaves on one side enters on the other), orientation on a circle, and size
on a circle too: a shape that grows past the largest size fades out and comes
back as a small one, fading in. The starting point on each of the three circles
is uniform, so the frame at any time has one and the same distribution for every
class, and a class played backwards is its opposite. Every video frame is
intra-coded at a constant quantizer, so that compression adds no temporal cue.

The output is what MMAction2's ``VideoDataset`` reads::

    OUT/train.txt OUT/val.txt    "train/00000.mp4 0", one line per clip
    OUT/classes.txt              class names, line number = class id
    OUT/train/*.mp4 OUT/val/*.mp4
    OUT/manifest.json            the parameters; written when all is complete

Clip i of a split depends on the seed, the split, i and the options of the
picture only; not on how many clips are rendered, nor by how many workers.

Example::

    python tools/make_motion_clips.py --out data/motion --num-train 512 --num-val 256
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

CLASSES = (
    "move_left",
    "move_right",
    "move_up",
    "move_down",
    "rotate_clockwise",
    "rotate_counterclockwise",
    "grow",
    "shrink",
)
SPLITS = ("train", "val")
CODECS = {
    "h264": ("libx264", {"qp": "14", "preset": "veryfast", "threads": "1"}),
    "mpeg4": ("mpeg4", {"qmin": "2", "qmax": "2", "threads": "1"}),
}
FRAMES_PER_SECOND = 12
RENDERER_VERSION = 1  # raise it when the same parameters give other pixels
FADE = 0.2  # share of the size circle in which a shape fades in, and out
NUM_WAVES = 5


@dataclass(frozen=True)
class Picture:
    """What the pixels of a clip depend on, besides seed, split and index.

    Args:
        size: Side of the square frame in pixels, even.
        frames: Number of frames of a clip.
        speed_range: Slowest and fastest motion, as a share of the frame side
            per frame (0.02 is 2 pixels per frame at 100 pixels).
        noise: Standard deviation of the noise of each frame, as a share of the
            full intensity range.
        min_contrast: Lowest texture contrast, in [0, 1].
        clutter: Contrast of the background relative to that of the shapes.
        objects: Number of moving shapes.
        distractors: Number of shapes that stand still.
        radius_range: Smallest and largest radius of a shape, as a share of the frame
            side: the circle of sizes.
        turn_speed: Speed of rotations, as a multiple of ``speed_range`` at the outline.
            What lies within a shape moves slower the nearer it is to the centre.
        growth_speed: Speed of growing and shrinking, likewise. At 1, radii of 0.12 to
            0.4 and 0.065 of the side per frame, a shape runs through the circle of
            sizes in four frames.
    """

    size: int = 40
    frames: int = 16
    speed_range: tuple[float, float] = (0.015, 0.035)
    noise: float = 0.02
    min_contrast: float = 0.5
    clutter: float = 0.4
    objects: int = 4
    distractors: int = 0
    radius_range: tuple[float, float] = (0.12, 0.30)
    turn_speed: float = 1.0
    growth_speed: float = 1.0


class Texture:
    """A random sum of plane waves in colour.

    Args:
        rng: Source of randomness.
        frequencies: Lowest and highest frequency in cycles per unit length.
        contrast: Amplitude, in [0, 1].
    """

    def __init__(
        self,
        rng: np.random.Generator,
        frequencies: tuple[float, float],
        contrast: float,
    ) -> None:
        angle = rng.uniform(0, 2 * np.pi, NUM_WAVES)
        frequency = np.exp(rng.uniform(*np.log(frequencies), NUM_WAVES))
        self.wave_x = 2 * np.pi * frequency * np.cos(angle)
        self.wave_y = 2 * np.pi * frequency * np.sin(angle)
        self.phase = rng.uniform(0, 2 * np.pi, NUM_WAVES)
        self.base = rng.uniform(0.25, 0.75, 3)
        # Brightness above all: motion is then seen in one channel, as in real video.
        brightness = rng.normal(size=(NUM_WAVES, 1))
        amplitude = brightness + 0.3 * rng.normal(size=(NUM_WAVES, 3))
        # The waves share one budget, so that `contrast` is the deviation's scale.
        self.amplitude = 0.45 * contrast * amplitude / np.linalg.norm(amplitude)

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Colours (..., 3) at the coordinates x, y (...)."""
        argument = x[..., None] * self.wave_x + y[..., None] * self.wave_y + self.phase
        return self.base + np.cos(argument) @ (self.amplitude * np.sqrt(2))


class Shape:
    """A textured outline with a random state on the three circles.

    Args:
        rng: Source of randomness.
        picture: Options of the picture.
        size_phase: Starting place on the circle of sizes, in [0, 1).
    """

    def __init__(
        self, rng: np.random.Generator, picture: Picture, size_phase: float
    ) -> None:
        self.radius_range = picture.radius_range
        self.center = rng.uniform(0, 1, 2)
        self.angle = rng.uniform(0, 2 * np.pi)
        self.size_phase = size_phase
        self.corners = int(rng.integers(3, 7))
        self.roundness = rng.uniform(0, 1)
        self.stretch = np.exp(rng.uniform(-0.3, 0.3))
        contrast = rng.uniform(picture.min_contrast, 1)
        self.texture = Texture(rng, (0.35, 0.9), contrast)

    def paint(
        self, image: np.ndarray, shift: np.ndarray, turn: float, scaling: float
    ) -> np.ndarray:
        """Paint the shape, moved on its circles, over an image (H, W, 3)."""
        side = image.shape[0]
        size_phase = (self.size_phase + scaling) % 1
        smallest, largest = self.radius_range
        radius = smallest * (largest / smallest) ** size_phase
        opacity = np.clip(min(size_phase, 1 - size_phase) / FADE, 0, 1)
        pixels = (np.arange(side) + 0.5) / side
        center = self.center + shift
        dx = (pixels - center[0] + 0.5) % 1 - 0.5
        dy = (pixels - center[1] + 0.5) % 1 - 0.5
        reach = radius * max(self.stretch, 1 / self.stretch) + 1.5 / side
        near = dx**2 + dy[:, None] ** 2 < reach**2
        rows, columns = np.nonzero(near)
        dx, dy = dx[columns] / radius, dy[rows] / radius
        cos, sin = np.cos(self.angle + turn), np.sin(self.angle + turn)
        x = (cos * dx + sin * dy) * self.stretch
        y = (cos * dy - sin * dx) / self.stretch
        # Outline in polar form: between a regular polygon and a circle.
        sector = 2 * np.pi / self.corners
        theta = np.arctan2(y, x) % sector - sector / 2
        polygon = np.cos(sector / 2) / np.cos(theta)
        outline = polygon + self.roundness * (1 - polygon)
        inside = (outline - np.hypot(x, y)) * radius * side
        mask = opacity * np.clip(inside / 1.5 + 0.5, 0, 1)[:, None]
        image = image.copy()
        below = image[rows, columns]
        image[rows, columns] = below + mask * (self.texture(x, y) - below)
        return image


def render_clip(seed: int, split: str, index: int, picture: Picture) -> np.ndarray:
    """Render one clip.

    Args:
        seed: Seed of the whole set.
        split: ``train`` or ``val``.
        index: Number of the clip in its split; its class is ``index % 8``.
        picture: Options of the picture.

    Returns:
        Frames (T, H, W, 3), uint8, RGB.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    name = CLASSES[index % len(CLASSES)]
    side = picture.size

    pixels = (np.arange(side) + 0.5) / side
    contrast = picture.clutter * rng.uniform(picture.min_contrast, 1)
    background = Texture(rng, (0.7, 4.0), contrast)
    scene = background(*np.meshgrid(pixels, pixels))
    for _ in range(picture.distractors):
        still = Shape(rng, picture, rng.uniform())
        scene = still.paint(scene, np.zeros(2), 0.0, 0.0)
    # Evenly spaced on the circle of sizes: some shape is always fully visible.
    first_phase = rng.uniform()
    shapes = [
        Shape(rng, picture, first_phase + k / picture.objects)
        for k in range(picture.objects)
    ]

    speed = rng.uniform(*picture.speed_range)
    direction = {
        "move_left": (-1, 0),
        "move_right": (1, 0),
        "move_up": (0, -1),
        "move_down": (0, 1),
    }.get(name, (0, 0))
    # At a turn_speed and a growth_speed of 1 all classes move the outline of a shape of
    # medium radius by about as many pixels.
    smallest, largest = picture.radius_range
    radius = np.sqrt(smallest * largest)
    turning = {"rotate_clockwise": 1, "rotate_counterclockwise": -1}.get(name, 0)
    turning *= picture.turn_speed
    scaling = {"grow": 1, "shrink": -1}.get(name, 0) / np.log(largest / smallest)
    scaling *= picture.growth_speed
    clip = np.empty((picture.frames, side, side, 3), np.uint8)
    for t in range(picture.frames):
        image = scene
        for shape in shapes:
            image = shape.paint(
                image,
                np.array(direction) * speed * t,
                turning * speed / radius * t,
                scaling * speed / radius * t,
            )
        image = image + rng.normal(0, picture.noise, image.shape)
        clip[t] = np.clip(np.rint(image * 255), 0, 255)
    return clip


def write_video(path: Path, clip: np.ndarray, codec: str) -> None:
    """Encode frames (T, H, W, 3) as an mp4 file, atomically.

    Args:
        path: File to write.
        clip: Frames, uint8, RGB.
        codec: A key of ``CODECS``.
    """
    import av

    encoder, options = CODECS[codec]
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with av.open(str(unfinished), "w", format="mp4") as container:
            stream = container.add_stream(
                encoder, rate=FRAMES_PER_SECOND, options=options
            )
            stream.height, stream.width = clip.shape[1:3]
            stream.pix_fmt = "yuv420p"
            stream.gop_size = 1
            stream.codec_context.max_b_frames = 0
            for image in clip:
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def render_file(
    clip: tuple[str, int], out: Path, seed: int, picture: Picture, codec: str
) -> None:
    """Render clip (split, index) and write it below ``out``."""
    split, index = clip
    frames = render_clip(seed, split, index, picture)
    write_video(out / clip_name(split, index), frames, codec)


def clip_name(split: str, index: int) -> str:
    """Path of a clip relative to the output folder."""
    return f"{split}/{index:05d}.mp4"


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def claim(out: Path, manifest: dict) -> None:
    """Make the output folder, or check that it holds this very render.

    An unfinished render has ``manifest.partial.json`` in place of
    ``manifest.json``; it is taken up where it stopped.

    Raises:
        ValueError: The folder holds something else.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in ("manifest.json", "manifest.partial.json"):
        path = out / name
        if not path.exists():
            continue
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: not a manifest of this tool ({error})") from None
        if found == manifest:
            return
        differences = ", ".join(
            f"{k}: found {found.get(k)}, asked for {manifest.get(k)}"
            for k in sorted({*manifest, *found})
            if found.get(k) != manifest.get(k)
        )
        raise ValueError(
            f"{out} holds a different render ({differences}). "
            "Give another --out, or delete that folder."
        )
    if any(out.iterdir()):
        raise ValueError(
            f"{out} is not empty and has no manifest.json, so it was not made by "
            "this tool. Give another --out, or empty that folder."
        )
    write_text(out / "manifest.partial.json", json.dumps(manifest, indent=2) + "\n")


def make_motion_clips(
    out: Path,
    num_clips: dict[str, int],
    seed: int,
    picture: Picture,
    codec: str,
    workers: int,
) -> int:
    """Render the splits, write the lists and, last of all, the manifest.

    Args:
        out: Output folder.
        num_clips: Number of clips of each split.
        seed: Seed of the set.
        picture: Options of the picture.
        codec: A key of ``CODECS``.
        workers: Number of processes.

    Returns:
        Number of clips rendered now; those already there are kept.

    Raises:
        ValueError: The folder holds something else.
    """
    from tqdm import tqdm

    manifest = dict(
        renderer=RENDERER_VERSION, seed=seed, codec=codec, classes=list(CLASSES)
    )
    manifest.update({f"num_{split}": num_clips[split] for split in SPLITS})
    manifest.update(json.loads(json.dumps(asdict(picture))))
    if picture.growth_speed == 1:
        del manifest["growth_speed"]  # as in manifests from before there was one
    claim(out, manifest)

    clips = [(split, i) for split in SPLITS for i in range(num_clips[split])]
    todo = [clip for clip in clips if not (out / clip_name(*clip)).exists()]
    for split in SPLITS:
        (out / split).mkdir(exist_ok=True)
        lines = (
            f"{clip_name(split, i)} {i % len(CLASSES)}\n"
            for i in range(num_clips[split])
        )
        write_text(out / f"{split}.txt", "".join(lines))
    write_text(out / "classes.txt", "\n".join(CLASSES) + "\n")

    render = partial(render_file, out=out, seed=seed, picture=picture, codec=codec)
    bar = partial(
        tqdm,
        total=len(todo),
        desc="rendering",
        unit="clip",
        disable=not sys.stderr.isatty(),
    )
    workers = min(workers, len(todo))
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            try:
                for _ in bar(pool.map(render, todo, chunksize=8)):
                    pass
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    else:
        for clip in bar(todo):
            render(clip)
    for leftover in out.glob("*/*.tmp"):  # of a process that was killed
        leftover.unlink(missing_ok=True)
    if (out / "manifest.partial.json").exists():
        os.replace(out / "manifest.partial.json", out / "manifest.json")
    return len(todo)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; a wrong value ends the program with status 2."""
    default = Picture()
    parser = argparse.ArgumentParser(
        description="Render the motion clips (8 classes that only motion tells apart) "
        "as mp4 files with MMAction2 annotation lists.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="output folder")
    add("--num-train", type=int, default=512, help="training clips, all classes")
    add("--num-val", type=int, default=256, help="validation clips, all classes")
    add("--size", type=int, default=default.size, help="frame side in pixels, even")
    add("--frames", type=int, default=default.frames, help="frames per clip")
    add("--seed", type=int, default=0, help="same seed, same pixels")
    add("--codec", choices=sorted(CODECS), default="h264", help="video codec")
    add(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        help="processes; the result does not depend on it",
    )
    difficulty = parser.add_argument_group("difficulty")
    add = difficulty.add_argument
    add(
        "--speed-range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        default=default.speed_range,
        help="motion per frame as a share of the frame side",
    )
    add(
        "--noise",
        type=float,
        default=default.noise,
        help="standard deviation of the noise, as a share of the intensity range",
    )
    add(
        "--min-contrast",
        type=float,
        default=default.min_contrast,
        help="lowest texture contrast, 0 to 1",
    )
    add(
        "--clutter",
        type=float,
        default=default.clutter,
        help="contrast of the background relative to the shapes, 0 to 1",
    )
    add("--objects", type=int, default=default.objects, help="moving shapes")
    add("--distractors", type=int, default=default.distractors, help="still shapes")
    add(
        "--radius-range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        default=default.radius_range,
        help="radius of a shape as a share of the frame side",
    )
    add(
        "--turn-speed",
        type=float,
        default=default.turn_speed,
        help="speed of rotations as a multiple of that of translations",
    )
    add(
        "--growth-speed",
        type=float,
        default=default.growth_speed,
        help="speed of growing and shrinking as a multiple of that of translations",
    )
    args = parser.parse_args(argv)

    smallest, largest = args.radius_range
    low, high = args.speed_range
    rules = (
        ("--num-train", args.num_train, args.num_train >= len(CLASSES), ">= 8"),
        ("--num-val", args.num_val, args.num_val >= len(CLASSES), ">= 8"),
        ("--size", args.size, args.size >= 16 and args.size % 2 == 0, "even, >= 16"),
        ("--frames", args.frames, args.frames >= 2, ">= 2"),
        ("--seed", args.seed, args.seed >= 0, ">= 0"),
        ("--workers", args.workers, args.workers >= 1, ">= 1"),
        (
            "--speed-range",
            f"{low} {high}",
            0 < low <= high <= 0.25,
            "0 < LOW <= HIGH <= 0.25",
        ),
        ("--noise", args.noise, 0 <= args.noise <= 1, "0 to 1"),
        ("--min-contrast", args.min_contrast, 0 <= args.min_contrast <= 1, "0 to 1"),
        ("--clutter", args.clutter, 0 <= args.clutter <= 1, "0 to 1"),
        ("--objects", args.objects, args.objects >= 1, ">= 1"),
        ("--distractors", args.distractors, args.distractors >= 0, ">= 0"),
        (
            "--radius-range",
            f"{smallest} {largest}",
            0.02 <= smallest < largest <= 0.4,
            "0.02 <= LOW < HIGH <= 0.4",
        ),
        ("--turn-speed", args.turn_speed, 0 < args.turn_speed <= 4, "above 0, to 4"),
        (
            "--growth-speed",
            args.growth_speed,
            0 < args.growth_speed <= 4,
            "above 0, to 4",
        ),
    )
    for option, found, valid, expected in rules:
        if not valid:
            parser.error(f"{option}: expected {expected}, found {found}")
    if args.out.exists() and not args.out.is_dir():
        parser.error(f"--out: {args.out} is not a folder")
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = parse_args(argv)
    picture = Picture(
        size=args.size,
        frames=args.frames,
        speed_range=tuple(args.speed_range),
        noise=args.noise,
        min_contrast=args.min_contrast,
        clutter=args.clutter,
        objects=args.objects,
        distractors=args.distractors,
        radius_range=tuple(args.radius_range),
        turn_speed=args.turn_speed,
        growth_speed=args.growth_speed,
    )
    num_clips = dict(train=args.num_train, val=args.num_val)
    try:
        rendered = make_motion_clips(
            args.out, num_clips, args.seed, picture, args.codec, args.workers
        )
    except (ValueError, OSError, BrokenProcessPool) as error:
        print(f"make_motion_clips: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("make_motion_clips: stopped; run it again to go on", file=sys.stderr)
        return 130
    total = sum(num_clips.values())
    print(f"{args.out}: {total} clips, {rendered} rendered now")
    return 0


if __name__ == "__main__":
    sys.exit(main())
