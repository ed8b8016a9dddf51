#!/usr/bin/env python
# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Classes of videos, with their probabilities.

    %(prog)s work_dirs/mine VIDEO --onnx
    %(prog)s CONFIG CHECKPOINT FOLDER --window 2 --out predictions.csv

FOLDER is what pvnas fit wrote. VIDEO is a file, or a folder of files. With --onnx, the
exported file runs, in a process that does not import PyTorch.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path


def parse_args() -> argparse.Namespace:
    from pvnas_mmaction.apis.onnx_predict import add_options

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="FOLDER | CONFIG")
    parser.add_argument("files", nargs="+", metavar="[CHECKPOINT] VIDEO")
    add_options(parser)
    parser.add_argument("--device", default="cpu", help="cpu or cuda; default: cpu")
    return parser.parse_args()


def main() -> None:
    from pvnas_mmaction.apis.onnx_predict import predict_all
    from pvnas_mmaction.apis.predict import load_trained
    from pvnas_mmaction.space.checks import wrong

    args = parse_args()
    checkpoint, videos = None, args.files
    if not Path(args.source).is_dir():
        checkpoint, *videos = args.files
        if not videos:
            expected = "FOLDER VIDEO, or CONFIG CHECKPOINT VIDEO"
            raise wrong("VIDEO", expected, f"{args.source} {checkpoint}")
    deployed = load_trained(args.source, checkpoint, args.device)
    if not predict_all(deployed, videos, args):
        sys.exit(1)


if __name__ == "__main__":
    if "--onnx" in sys.argv:
        here = Path(__file__).resolve().parent
        package = here.parent / "pvnas_mmaction"
        package = package if package.is_dir() else here.parent.parent
        runpy.run_path(str(package / "apis" / "onnx_predict.py"), run_name="__main__")
    else:
        from pvnas_mmaction.apis import cli

        cli.run(main)
