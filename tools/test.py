#!/usr/bin/env python
"""Test a checkpoint on the test set of its config.

    %(prog)s CONFIG CHECKPOINT
    %(prog)s CONFIG CHECKPOINT --dump predictions.pkl

CHECKPOINT is what a training of CONFIG has written.
"""

import argparse

from pvnas_mmaction.apis import cli
from pvnas_mmaction.apis.config_checks import check_whole
from pvnas_mmaction.apis.config_files import load_config


def parse_args() -> argparse.Namespace:
    parser = cli.tool_parser(__doc__)
    add = parser.add_argument
    add("config", help="config file, or package::path")
    add("checkpoint", help="checkpoint file")
    work_dir = "folder of the log and the metrics; default: work_dirs/CONFIG NAME"
    add("--work-dir", help=work_dir)
    add("--dump", metavar="FILE.pkl", help="save the predictions")
    add = parser.add_argument_group("pictures").add_argument
    add("--show-dir", help="save pictures of the predictions here")
    add("--show", action="store_true", help="show them in a window")
    add("--interval", type=int, default=1, help="show every n-th clip; default: 1")
    wait = "seconds that a window stays; default: 2"
    add("--wait-time", type=float, default=2, help=wait)
    cli.add_shared_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = cli.merge_test_args(load_config(args.config), args)
    check_whole(cfg, "test")
    cli.build_runner(cfg, tested=True).test()


if __name__ == "__main__":
    cli.run(main)
