#!/usr/bin/env python
"""Search with a search config, or train the network of any other config.

    %(prog)s CONFIG --work-dir work_dirs/search --seed 0
    %(prog)s CONFIG --work-dir work_dirs/search --resume

A search writes the network that it found to WORK_DIR/search/genotype.json.
"""

import argparse

from pvnas_mmaction.apis import cli
from pvnas_mmaction.apis.commands import TRAIN_INTERRUPTED
from pvnas_mmaction.apis.config_checks import check_whole
from pvnas_mmaction.apis.config_files import load_config


def parse_args() -> argparse.Namespace:
    parser = cli.tool_parser(__doc__)
    add = parser.add_argument
    add("config", help="config file, or package::path")
    work_dir = "folder of logs and checkpoints; default: work_dirs/CONFIG NAME"
    add("--work-dir", help=work_dir)
    resume = "continue from this checkpoint; without a value, from the latest one of "
    resume += "the work dir"
    add("--resume", nargs="?", const="auto", metavar="CHECKPOINT", help=resume)
    amp = "automatic mixed precision; bfloat16 without a GPU"
    add("--amp", action="store_true", help=amp)
    add("--no-validate", action="store_true", help="do not validate while training")
    scale = "scale the learning rate by batch size / auto_scale_lr.base_batch_size"
    add("--auto-scale-lr", action="store_true", help=scale)
    add = parser.add_argument_group("randomness").add_argument
    add("--seed", type=int, help="default: the config's, or random")
    add("--diff-rank-seed", action="store_true", help="another seed for every rank")
    add("--deterministic", action="store_true", help="deterministic CUDNN kernels")
    cli.add_shared_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = cli.merge_train_args(load_config(args.config), args)
    check_whole(cfg, "train")
    cli.build_runner(cfg).train()


if __name__ == "__main__":
    cli.run(main, TRAIN_INTERRUPTED)
