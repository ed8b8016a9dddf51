#!/usr/bin/env python
# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Write a report of searches and trainings: one HTML file that opens from disk."""

from __future__ import annotations

import argparse
from pathlib import Path

from pvnas_mmaction.apis import cli
from pvnas_mmaction.report.data import read_work_dirs
from pvnas_mmaction.report.page import Report, read_table
from pvnas_mmaction.report.predictions import for_trainings
from pvnas_mmaction.space.genotype import write_atomically


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "work_dirs",
        nargs="+",
        type=Path,
        metavar="WORK_DIR",
        help="work directory of a search or training, finished or still running; "
        "several are compared",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("report.html"),
        metavar="FILE.html",
        help="default: report.html",
    )
    parser.add_argument(
        "--figures", type=Path, metavar="DIR", help="also write all plots, PNG and SVG"
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE.pkl",
        help="dump of tools/test.py of the one training among the directories; "
        "default: the newest .pkl in it",
    )
    parser.add_argument(
        "--latency-table", metavar="FILE.json", help="to predict latencies with"
    )
    parser.add_argument("--title", default="", help="headline of the page")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cli.check_out_file(args.out)
    runs = read_work_dirs(args.work_dirs)
    predictions = for_trainings(runs, args.predictions)
    table = read_table(args.latency_table) if args.latency_table else None
    report = Report(runs, predictions, table)
    text = report.render(args.title)
    write_atomically(args.out, text)
    print(f"{args.out}: {len(text.encode()) / 2**20:.1f} MiB")
    if args.figures is not None:
        for path in report.write_figures(args.figures):
            print(path)


if __name__ == "__main__":
    cli.run(main)
