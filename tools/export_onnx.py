#!/usr/bin/env python
# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Export a trained recognizer to ONNX and check it against PyTorch."""

from __future__ import annotations

import argparse
import sys

from pvnas_mmaction.apis import cli
from pvnas_mmaction.apis.config_files import load_config, merge_options
from pvnas_mmaction.apis.export import (
    DEFAULT_OPSET,
    check_inputs,
    export_onnx,
    load_classifier,
    max_difference,
)
from pvnas_mmaction.apis.model_checks import check_model, check_one_network
from pvnas_mmaction.engine.checkpoint_files import check_checkpoint
from pvnas_mmaction.models.recognizers import view_of

TOLERANCE = 1e-4


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="The model takes 'clips' (N, C, T, H, W), normalised as the config's "
        "data_preprocessor does, and gives 'logits' (N, num_classes), before softmax. "
        f"Exit status 1: a logit is off by more than {TOLERANCE}.",
    )
    parser.add_argument("config", help="config file, or package::path")
    parser.add_argument("checkpoint", help="checkpoint file; 'none': random weights")
    parser.add_argument("--out", required=True, metavar="MODEL.onnx")
    parser.add_argument(
        "--opset", type=int, default=DEFAULT_OPSET, help=f"default: {DEFAULT_OPSET}"
    )
    parser.add_argument(
        "--input-shape",
        type=int,
        nargs=4,
        metavar=("C", "T", "H", "W"),
        help="default: a view of the config's test pipeline",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=cli.KeyValueAction,
        metavar="KEY=VALUE",
        help="override settings of the config",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cli.check_out_file(args.out)
    config = load_config(args.config)
    merge_options(config, args.cfg_options)
    check_model(config)
    if config.model.type != "Recognizer3D":
        raise ValueError(
            f"model.type: found {config.model.type!r}, expected 'Recognizer3D'"
        )
    check_one_network(config)
    checkpoint = None if args.checkpoint == "none" else args.checkpoint
    if checkpoint is None:
        print("warning: no checkpoint, the weights are random", file=sys.stderr)
    else:
        check_checkpoint(checkpoint, "checkpoint")
    shape = tuple(args.input_shape or (3, *_sizes(view_of(config))))
    if min(shape) < 1:
        raise ValueError(
            f"--input-shape: found {shape}, expected four whole numbers from 1 up"
        )
    classifier = load_classifier(config, checkpoint, shape)
    num_classes = config.model.cls_head.num_classes
    export_onnx(classifier, args.out, shape, args.opset)
    inputs = check_inputs(shape)
    differences = max_difference(classifier, args.out, inputs)
    for clips, difference in zip(inputs, differences, strict=True):
        print(f"batch size {len(clips)}: max abs difference {difference:.2e}")
    sizes = ", ".join(map(str, shape))
    print(f"Wrote {args.out}: clips (N, {sizes}) -> logits (N, {num_classes})")
    if max(differences) > TOLERANCE:
        print(f"error: a logit is off by more than {TOLERANCE}", file=sys.stderr)
        sys.exit(1)


def _sizes(view) -> tuple[int, int, int]:
    return view.frames, view.height, view.width


if __name__ == "__main__":
    cli.run(main)
