#!/usr/bin/env python
"""Export a trained recognizer to ONNX and check it against PyTorch.

    %(prog)s CONFIG CHECKPOINT --out model.onnx
    %(prog)s CONFIG CHECKPOINT --out model.onnx --int8

CONFIG is the file that a training has written into its folder.
"""

import sys
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import init_default_scope

from pvnas_mmaction.apis import cli, export
from pvnas_mmaction.apis.config_checks import check_one_network
from pvnas_mmaction.apis.config_files import load_config, make_portable, merge_options
from pvnas_mmaction.apis.quantize import labelled_clips, quantize, top1
from pvnas_mmaction.models.recognizers import view_of
from pvnas_mmaction.profiling.onnx_parts import measured_ms
from pvnas_mmaction.space.checks import wrong

TOLERANCE = 1e-4
EPILOG = f"""The model takes 'clips' (N, C, T, H, W), normalised as the config's
data_preprocessor does, and gives 'logits' (N, num_classes), before softmax; class
names, frames, size, mean and std are in its metadata. Exit status 1: a logit is off by
more than {TOLERANCE}."""


def write_int8(
    config: Config, classifier: export.Classifier, file: Path, shape: tuple[int, ...]
) -> None:
    """Write the 8-bit network, and print what it costs and saves."""
    init_default_scope(config.get("default_scope", "mmaction"))
    preprocessor = classifier.recognizer.data_preprocessor
    small = file.with_suffix(".int8.onnx")
    quantize(file, small, labelled_clips(config, "train", preprocessor, 64))
    for path in (file, small):
        accuracy, number = top1(path, labelled_clips(config, "test", preprocessor))
        print(
            f"{path}: top-1 {accuracy:.1%} on {number} test clips, "
            f"{measured_ms(path, shape, threads=1):.2f} ms a clip on one thread, "
            f"{path.stat().st_size / 1e6:.1f} MB"
        )


def main() -> None:
    parser = cli.tool_parser(__doc__, epilog=EPILOG)
    add = parser.add_argument
    add("config", help="config file, or package::path")
    add("checkpoint", help="checkpoint file")
    add("--out", required=True, metavar="MODEL.onnx", help="the file to write")
    int8 = "also write MODEL.int8.onnx, quantised on clips of the training list, and "
    int8 += "print the accuracy of both on the test list"
    add("--int8", action="store_true", help=int8)
    cli.add_config_options(parser)
    args = parser.parse_args()
    cli.check_out_file(args.out)
    out = Path(args.out).resolve()
    config = load_config(args.config)
    merge_options(config, args.cfg_options)
    check_one_network(config)
    if config.model.type != "Recognizer3D":
        raise wrong("model.type", "'Recognizer3D'", repr(config.model.type))
    make_portable(config)
    shape, _ = view_of(config)
    classifier = export.load_classifier(config, args.checkpoint, shape)
    export.export_onnx(classifier, out, shape, export.model_facts(config, shape))
    difference = export.max_difference(classifier, out, export.check_inputs(shape))
    print(f"max abs difference to PyTorch: {difference:.2e}")
    try:
        export.write_description(config, out.parent)
    except ValueError as error:
        print(f"warning: pvnas predict --onnx can't run it: {error}", file=sys.stderr)
    if args.int8:
        write_int8(config, classifier, out, shape)
    sizes = ", ".join(map(str, shape))
    number = config.model.cls_head.num_classes
    print(f"Wrote {args.out}: clips (N, {sizes}) -> logits (N, {number})")
    if difference > TOLERANCE:
        sys.exit(f"error: a logit is off by more than {TOLERANCE}")


if __name__ == "__main__":
    cli.run(main)
