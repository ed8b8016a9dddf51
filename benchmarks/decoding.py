#!/usr/bin/env python
"""Clips per second of processor time, for each way to decode.

    python benchmarks/decoding.py "my videos" --clips 40

Eight frames are read of each clip, as a training does once it knows how many there are.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from mmaction.datasets.transforms import Resize

from pvnas_mmaction.apis.cli import run
from pvnas_mmaction.apis.onnx_predict import videos_in
from pvnas_mmaction.datasets import VideoFrames
from pvnas_mmaction.datasets.load_video import CachedFrames
from pvnas_mmaction.datasets.video_frames import BACKENDS, check_backend

ROUNDS = 3


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", type=Path, help="folder")
    parser.add_argument("--clips", type=int, default=40, help="how many of them")
    args = parser.parse_args(argv)
    files = [str(path) for path in videos_in(args.videos)][: args.clips]
    lengths = {file: len(VideoFrames(file)) for file in files}
    readers: dict[str, Callable[[str], VideoFrames]] = {}
    for name in ("pyav", *BACKENDS):
        try:
            check_backend("backend", name)
        except ImportError as error:
            print(error)
            continue
        readers[name] = lambda file, name=name: VideoFrames(
            file, lengths[file], backend=name
        )
    with tempfile.TemporaryDirectory() as folder:
        resize = Resize(scale=(-1, 128))
        readers["cache"] = lambda file: CachedFrames(file, folder, resize)
        for file in files:
            readers["cache"](file)
        times = {name: [] for name in readers}
        for _ in range(ROUNDS):
            for name, reader in readers.items():
                started = time.process_time()
                for file in files:
                    reader(file).read(np.linspace(0, lengths[file] - 1, 8).astype(int))
                times[name].append(time.process_time() - started)
    print("| reader | clips per second |\n| --- | ---: |")
    for name, seconds in times.items():
        print(f"| {name} | {len(files) / min(seconds):.0f} |")


if __name__ == "__main__":
    run(main)
