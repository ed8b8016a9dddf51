#!/usr/bin/env python
"""Write a report of searches and trainings: one HTML file that opens from disk.

    %(prog)s work_dirs/search
    %(prog)s work_dirs/search work_dirs/mine --out report.html

WORK_DIR is the folder of a search or of a training, finished or still running.
"""

from pathlib import Path

from pvnas_mmaction.apis import cli
from pvnas_mmaction.report.data import read_work_dirs
from pvnas_mmaction.report.page import Report
from pvnas_mmaction.space.genotype import write_atomically


def main() -> None:
    parser = cli.tool_parser(__doc__)
    add = parser.add_argument
    runs = "work directory of a search or training, finished or still running; "
    runs += "several are compared"
    add("work_dirs", nargs="+", type=Path, metavar="WORK_DIR", help=runs)
    out, text = Path("report.html"), "the page; default: report.html"
    add("--out", type=Path, default=out, metavar="FILE.html", help=text)
    add("--title", default="", help="headline of the page")
    args = parser.parse_args()
    cli.check_out_file(args.out)
    text = Report(read_work_dirs(args.work_dirs)).render(args.title)
    write_atomically(args.out, text)
    print(f"{args.out}: {len(text.encode()) / 2**20:.1f} MiB")


if __name__ == "__main__":
    cli.run(main)
