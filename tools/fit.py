#!/usr/bin/env python
"""Find, train and export a network for a folder of videos and a budget.

VIDEOS holds one folder of videos for each class. Clips are read once and split; a
network is searched under the budget, trained next to a hand-designed one, and exported.
After a stop the same command continues.

    %(prog)s VIDEOS --budget-ms 30
    %(prog)s VIDEOS --budget-gflops 0.25 --out work_dirs/mine --dry-run
"""

from pathlib import Path

from pvnas_mmaction.apis import cli
from pvnas_mmaction.apis.commands import INTERRUPTED
from pvnas_mmaction.apis.fit import fit
from pvnas_mmaction.apis.fit_settings import SPACES


def main() -> None:
    parser = cli.tool_parser(__doc__)
    videos = "folder with a folder of videos for each class"
    parser.add_argument("videos", type=Path, metavar="VIDEOS", help=videos)
    group = parser.add_argument_group("budget, of one view")
    add = group.add_mutually_exclusive_group(required=True).add_argument
    ms = "milliseconds in onnxruntime on this CPU; with --device cuda in PyTorch"
    add("--budget-ms", type=float, metavar="MS", help=ms)
    add("--budget-gflops", type=float, metavar="X", help="1e9 multiply-accumulates")
    add("--budget-params", type=float, metavar="N", help="parameters, e.g. 1e6")
    add = parser.add_argument_group("result").add_argument
    add("--out", type=Path, help="folder; default: work_dirs/NAME OF VIDEOS")
    plan = "read the clips and show the plan; train nothing"
    add("--dry-run", action="store_true", help=plan)
    add = parser.add_argument_group("clips").add_argument
    regex = "clips with the same first group of it in their path are of one source, "
    regex += "and stay in one list; default: those with near-duplicate frames"
    add("--group-regex", metavar="REGEX", help=regex)
    lists = "TRAIN VAL [TEST], lists of 'path class_id' lines, in place of class "
    lists += "folders; paths start from VIDEOS"
    add("--lists", nargs="+", metavar="LIST", default=(), help=lists)
    flip = "no mirrored clips in training: where left and right are classes"
    add("--no-flip", dest="flip", action="store_false", help=flip)
    add = parser.add_argument_group("search and training").add_argument
    space = "lite0 (default) and lite2 start from ImageNet weights, tiny from none"
    add("--space", choices=SPACES, default="lite0", help=space)
    add("--config", help="config of the search, in place of --space")
    add("--train-config", help="config of a training, in place of --space")
    number = "searched networks to train next to the hand-designed one; default: 2"
    add("--num-networks", type=int, default=2, help=number)
    add("--seed", type=int, default=0, help="of all that is random; default: 0")
    add("--device", help="cpu or cuda; default: a GPU where there is one")
    threads = "of the deployed network, for --budget-ms; default: 1"
    add("--threads", type=int, default=1, help=threads)
    fit(**vars(parser.parse_args()))


if __name__ == "__main__":
    cli.run(main, INTERRUPTED)
