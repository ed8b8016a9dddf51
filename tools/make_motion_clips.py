#!/usr/bin/env python
"""Render motion clips: small mp4 files of 8 classes that only motion tells apart.

    %(prog)s --out data/motion_clips
    %(prog)s --out data/motion_clips --num-train 64 --num-val 16

A clip shows a few textured shapes, all of which move left, right, up or down, rotate
clockwise or counter-clockwise, grow, or shrink. No frame tells which: position lives on
a torus, orientation and size on a circle (a shape that grows past the largest size
fades out and comes back as a small one), where each starts is uniform, and every frame
is intra-coded.

OUT gets MMAction2's lists train.txt and val.txt, classes.txt, the clips, and
manifest.json with the parameters. Clip i of a split depends on the seed, the split, i,
--size, --frames and --noise only. After a stop the same command continues.
"""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from tqdm.contrib.concurrent import process_map

from pvnas_mmaction.apis import cli
from pvnas_mmaction.space.checks import reading, wrong

# What each class does: to the right, downwards, clockwise, growing.
MOTIONS = dict(
    move_left=(-1, 0, 0, 0),
    move_right=(1, 0, 0, 0),
    move_up=(0, -1, 0, 0),
    move_down=(0, 1, 0, 0),
    rotate_clockwise=(0, 0, 1, 0),
    rotate_counterclockwise=(0, 0, -1, 0),
    grow=(0, 0, 0, 1),
    shrink=(0, 0, 0, -1),
)
CLASSES = tuple(MOTIONS)
SPLITS = ("train", "val")
ENCODER = {"qp": "14", "preset": "veryfast", "threads": "1"}
FRAMES_PER_SECOND = 12
RENDERER_VERSION = 1  # raise it when the same parameters give other pixels
FADE = 0.2  # share of the size circle in which a shape fades in, and out
NUM_WAVES = 5
NUM_SHAPES = 4
RADII = 0.12, 0.4  # of shapes in sides of the frame: the circle of sizes
SPEEDS = 0.06, 0.07  # slowest and fastest motion per frame, in sides
TURN_SPEED = 2.0  # speed of the outline in rotations, next to that in other classes
MIN_CONTRAST = 0.5  # of a texture; the highest is 1


def random_texture(
    rng: np.random.Generator, low: float, high: float, contrast: float
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Colours (..., 3) of x, y (...): plane waves of ``low`` to ``high`` cycles."""
    angle = rng.uniform(0, 2 * np.pi, NUM_WAVES)
    frequency = np.exp(rng.uniform(*np.log((low, high)), NUM_WAVES))
    wave_x = 2 * np.pi * frequency * np.cos(angle)
    wave_y = 2 * np.pi * frequency * np.sin(angle)
    phase = rng.uniform(0, 2 * np.pi, NUM_WAVES)
    base = rng.uniform(0.25, 0.75, 3)
    # Brightness above all: motion is then seen in one channel, as in real video.
    brightness = rng.normal(size=(NUM_WAVES, 1))
    amplitude = brightness + 0.3 * rng.normal(size=(NUM_WAVES, 3))
    # The waves share one budget, so that `contrast` is the deviation's scale.
    amplitude = 0.45 * contrast * amplitude / np.linalg.norm(amplitude)

    def color(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        argument = x[..., None] * wave_x + y[..., None] * wave_y + phase
        return base + np.cos(argument) @ (amplitude * np.sqrt(2))

    return color


def random_shape(
    rng: np.random.Generator, size_start: float
) -> Callable[[np.ndarray, np.ndarray, float, float], np.ndarray]:
    """A function that paints a textured shape over an image (H, W, 3), moved on its
    circles; ``size_start`` in [0, 1) is where it starts on that of sizes."""
    smallest, largest = RADII
    start, start_angle = rng.uniform(0, 1, 2), rng.uniform(0, 2 * np.pi)
    sector = 2 * np.pi / int(rng.integers(3, 7))  # of a corner
    roundness = rng.uniform(0, 1)
    stretch = np.exp(rng.uniform(-0.3, 0.3))
    color = random_texture(rng, 0.35, 0.9, rng.uniform(MIN_CONTRAST, 1))

    def paint(
        image: np.ndarray, shift: np.ndarray, turn: float, scaling: float
    ) -> np.ndarray:
        side = image.shape[0]
        size_phase = (size_start + scaling) % 1
        radius = smallest * (largest / smallest) ** size_phase
        opacity = np.clip(min(size_phase, 1 - size_phase) / FADE, 0, 1)
        pixels = (np.arange(side) + 0.5) / side
        center = start + shift
        dx = (pixels - center[0] + 0.5) % 1 - 0.5
        dy = (pixels - center[1] + 0.5) % 1 - 0.5
        reach = radius * max(stretch, 1 / stretch) + 1.5 / side
        rows, columns = np.nonzero(dx**2 + dy[:, None] ** 2 < reach**2)
        dx, dy = dx[columns] / radius, dy[rows] / radius
        cos, sin = np.cos(start_angle + turn), np.sin(start_angle + turn)
        x = (cos * dx + sin * dy) * stretch
        y = (cos * dy - sin * dx) / stretch
        # Outline in polar form: between a regular polygon and a circle.
        theta = np.arctan2(y, x) % sector - sector / 2
        polygon = np.cos(sector / 2) / np.cos(theta)
        outline = polygon + roundness * (1 - polygon)
        inside = (outline - np.hypot(x, y)) * radius * side
        mask = opacity * np.clip(inside / 1.5 + 0.5, 0, 1)[:, None]
        image = image.copy()
        below = image[rows, columns]
        image[rows, columns] = below + mask * (color(x, y) - below)
        return image

    return paint


def render_clip(
    seed: int, split: str, index: int, size: int, frames: int, noise: float
) -> np.ndarray:
    """Frames (T, H, W, 3), uint8, RGB, of a clip; its class is ``index % 8``."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    right, down, turning, scaling = MOTIONS[CLASSES[index % len(CLASSES)]]
    rng.uniform()  # as in the clips of the ground-truth table
    even = random_texture(rng, 0.7, 4.0, 0.0)
    scene = even(*np.zeros((2, size, size)))
    # Evenly spaced on the circle of sizes: some shape is always fully visible.
    first = rng.uniform()
    starts = [first + k / NUM_SHAPES for k in range(NUM_SHAPES)]
    shapes = [random_shape(rng, start) for start in starts]
    # At a turn speed of 1 all classes move the outline of a shape of medium radius by
    # about as many pixels.
    speed = rng.uniform(*SPEEDS)
    smallest, largest = RADII
    radius = np.sqrt(smallest * largest)
    turning = turning * TURN_SPEED
    scaling = scaling / np.log(largest / smallest)
    clip = np.empty((frames, size, size, 3), np.uint8)
    for t in range(frames):
        image = scene
        for paint in shapes:
            image = paint(
                image,
                np.array([right, down]) * speed * t,
                turning * speed / radius * t,
                scaling * speed / radius * t,
            )
        image = image + rng.normal(0, noise, image.shape)
        clip[t] = np.clip(np.rint(image * 255), 0, 255)
    return clip


def render_file(name: str, out: Path, seed: int, **picture: Any) -> None:
    """Render the clip ``SPLIT/INDEX.mp4`` and write it below ``out``, atomically."""
    split, index = name.removesuffix(".mp4").split("/")
    unfinished = (out / name).with_suffix(f".{os.getpid()}.tmp")
    with av.open(str(unfinished), "w", format="mp4") as container:
        stream = container.add_stream("libx264", FRAMES_PER_SECOND, ENCODER)
        stream.height = stream.width = picture["size"]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 1
        stream.codec_context.max_b_frames = 0
        for image in render_clip(seed, split, int(index), **picture):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    os.replace(unfinished, out / name)


def check_folder(out: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest; ValueError where the folder holds something else."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "manifest.json"
    with reading(path, "the manifest of a render"):
        found = dict(json.loads(path.read_text("utf-8"))) if path.exists() else None
    if found is None and any(out.iterdir()):
        got = "files of something else"
        raise wrong(str(out), "an empty folder", got, "give another --out")
    for key, value in manifest.items():
        if found is not None and found.get(key) != value:
            hint = "give another --out or delete it"
            got = f"{key}={found.get(key)}"
            raise wrong(str(out), f"a render with {key}={value}", got, hint)
    path.write_text(json.dumps(manifest, indent=2) + "\n")


def make_motion_clips(
    out: Path, num_clips: dict[str, int], seed: int, workers: int, **picture: Any
) -> int:
    """Write manifest and lists, and render what is missing; gives the number."""
    manifest = dict(
        renderer=RENDERER_VERSION,
        seed=seed,
        codec="h264",
        classes=CLASSES,
        **{f"num_{split}": num_clips[split] for split in SPLITS},
        **picture,
        speed_range=SPEEDS,
        min_contrast=MIN_CONTRAST,
        clutter=0.0,
        objects=NUM_SHAPES,
        radius_range=RADII,
        turn_speed=TURN_SPEED,
    )
    check_folder(out, json.loads(json.dumps(manifest)))  # tuples as lists
    (out / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    names = []
    for split in SPLITS:
        (out / split).mkdir(exist_ok=True)
        own = [f"{split}/{index:05d}.mp4" for index in range(num_clips[split])]
        lines = [f"{name} {index % len(CLASSES)}\n" for index, name in enumerate(own)]
        (out / f"{split}.txt").write_text("".join(lines))
        names += own
    todo = [name for name in names if not (out / name).exists()]
    render = partial(render_file, out=out, seed=seed, **picture)
    process_map(
        render, todo, max_workers=workers, chunksize=8, desc="rendering", unit="clip",
        disable=None,
    )  # fmt: skip
    for leftover in out.glob("*/*.tmp"):  # of a process that was killed
        leftover.unlink()
    return len(todo)


def main(argv: list[str] | None = None) -> None:
    parser = cli.tool_parser(__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="output folder")
    add("--num-train", type=int, default=512, help="training clips; default: 512")
    add("--num-val", type=int, default=256, help="validation clips; default: 256")
    add("--seed", type=int, default=0, help="same seed, same pixels; default: 0")
    workers = "processes, the result is the same; default: one per core"
    add("--workers", type=int, default=os.cpu_count(), help=workers)
    add = parser.add_argument_group("picture").add_argument
    add("--size", type=int, default=32, help="height and width, even; default: 32")
    add("--frames", type=int, default=12, help="of a clip; default: 12")
    noise = "standard deviation, full intensity being 1; default: 0.06"
    add("--noise", type=float, default=0.06, help=noise)
    args = parser.parse_args(argv)
    if args.size < 16 or args.size % 2:
        raise wrong("--size", "an even number from 16 up", str(args.size))
    counts = dict(train=args.num_train, val=args.num_val)
    picture = dict(size=args.size, frames=args.frames, noise=args.noise)
    rendered = make_motion_clips(args.out, counts, args.seed, args.workers, **picture)
    print(f"{args.out}: {sum(counts.values())} clips, {rendered} rendered now")


if __name__ == "__main__":
    cli.run(main, "run it again to continue")
