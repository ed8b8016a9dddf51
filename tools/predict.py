#!/usr/bin/env python
"""Predict the classes of videos, with their probabilities.

    %(prog)s work_dirs/mine VIDEO --onnx
    %(prog)s CONFIG CHECKPOINT FOLDER --window 2 --out predictions.csv

FOLDER is what pvnas fit wrote. VIDEO is a file, or a folder of files. With --onnx, the
exported file runs, in a process that does not import PyTorch.
"""

import sys
from pathlib import Path

from pvnas_mmaction.apis import cli, commands
from pvnas_mmaction.apis.export import load_trained
from pvnas_mmaction.apis.onnx_predict import add_options, predict_all
from pvnas_mmaction.space.checks import wrong


def main() -> None:
    parser = cli.tool_parser(__doc__)
    source = "what pvnas fit wrote, or the config of a training"
    parser.add_argument("source", metavar="FOLDER | CONFIG", help=source)
    files = "checkpoint, with CONFIG; then videos, or folders of videos"
    parser.add_argument("files", nargs="+", metavar="[CHECKPOINT] VIDEO", help=files)
    add_options(parser)
    parser.add_argument("--device", default="cpu", help="cpu or cuda; default: cpu")
    args = parser.parse_args()
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
    sys.argv.insert(1, "predict")
    commands.main()
