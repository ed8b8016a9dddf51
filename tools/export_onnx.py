#!/usr/bin/env python
# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Export a trained recognizer to ONNX and check it against PyTorch.

%(prog)s CONFIG CHECKPOINT --out model.onnx
%(prog)s CONFIG CHECKPOINT --out model.onnx --int8
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import init_default_scope

from pvnas_mmaction.apis import cli
from pvnas_mmaction.apis.config_checks import check_one_network
from pvnas_mmaction.apis.config_files import load_config, make_portable, merge_options
from pvnas_mmaction.apis.export import (
    Classifier,
    check_inputs,
    export_onnx,
    load_classifier,
    max_difference,
    model_facts,
    write_description,
)
from pvnas_mmaction.apis.quantize import CALIBRATION_CLIPS, Clips, quantize, top1
from pvnas_mmaction.models.recognizers import view_of
from pvnas_mmaction.profiling.onnx_parts import measured_ms
from pvnas_mmaction.space.checks import wrong

TOLERANCE = 1e-4


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="The model takes 'clips' (N, C, T, H, W), normalised as the config's "
        "data_preprocessor does, and gives 'logits' (N, num_classes), before softmax; "
        "class names, frames, size, mean and std are in its metadata. "
        f"Exit status 1: a logit is off by more than {TOLERANCE}.",
    )
    parser.add_argument("config", help="config file, or package::path")
    parser.add_argument("checkpoint", help="checkpoint file; 'none': random weights")
    parser.add_argument("--out", required=True, metavar="MODEL.onnx")
    parser.add_argument(
        "--int8",
        action="store_true",
        help="also write MODEL.int8.onnx, quantised on clips of the training list, and "
        "print the accuracy of both on the test list",
    )
    cli.add_config_options(parser)
    return parser.parse_args()


def write_int8(
    config: Config, classifier: Classifier, file: Path, shape: tuple[int, ...]
) -> None:
    """Write the 8-bit network, and print what it costs and saves."""
    init_default_scope(config.get("default_scope", "mmaction"))
    preprocessor = classifier.recognizer.data_preprocessor
    clips = Clips(config, "train", preprocessor, CALIBRATION_CLIPS)
    small = file.with_suffix(".int8.onnx")
    quantize(file, small, iter(clips))
    test = Clips(config, "test", preprocessor)
    for path in (file, small):
        milliseconds = measured_ms(path, shape, threads=1)
        print(
            f"{path}: top-1 {top1(path, test):.1%} on {len(test.labels)} test clips, "
            f"{milliseconds:.2f} ms a clip on one thread, "
            f"{path.stat().st_size / 1e6:.1f} MB"
        )


def main() -> None:
    args = parse_args()
    cli.check_out_file(args.out)
    config = load_config(args.config)
    merge_options(config, args.cfg_options)
    check_one_network(config)
    if config.model.type != "Recognizer3D":
        raise wrong("model.type", "'Recognizer3D'", repr(config.model.type))
    make_portable(config)
    checkpoint = None if args.checkpoint == "none" else args.checkpoint
    if checkpoint is None:
        print("warning: no checkpoint, the weights are random", file=sys.stderr)
    view = view_of(config)
    shape = (3, view.frames, view.height, view.width)
    classifier = load_classifier(config, checkpoint, shape)
    export_onnx(classifier, args.out, shape, model_facts(config, shape))
    inputs = check_inputs(shape)
    differences = max_difference(classifier, args.out, inputs)
    for clips, difference in zip(inputs, differences, strict=True):
        print(f"batch size {len(clips)}: max abs difference {difference:.2e}")
    try:
        write_description(config, Path(args.out).resolve().parent)
    except ValueError as error:
        print(f"warning: pvnas predict --onnx can't run it: {error}", file=sys.stderr)
    if args.int8:
        write_int8(config, classifier, Path(args.out), shape)
    sizes = ", ".join(map(str, shape))
    num_classes = config.model.cls_head.num_classes
    print(f"Wrote {args.out}: clips (N, {sizes}) -> logits (N, {num_classes})")
    if max(differences) > TOLERANCE:
        print(f"error: a logit is off by more than {TOLERANCE}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main)
