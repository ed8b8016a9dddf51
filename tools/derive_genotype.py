#!/usr/bin/env python
"""Derive genotypes from the checkpoint of a search, under budgets.

    %(prog)s work_dirs/search --budget-gflops 0.2 --out derived
    %(prog)s work_dirs/search --num-candidates 8 --rank-on CONFIG --out derived

Writes the most likely networks that meet every budget as genotype_01.json and so on,
the most likely first; with --rank-on the most accurate first. One search serves any
number of budgets. GFLOPs are 1e9 multiply-accumulates of one view. log p is the sum of
log softmax(alpha) over the layers.
"""

import argparse
import math
import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path

from mmengine.registry import init_default_scope

from pvnas_mmaction import __version__
from pvnas_mmaction.apis import cli
from pvnas_mmaction.apis.config_files import load_config, merge_options
from pvnas_mmaction.apis.fit_settings import BUDGETS
from pvnas_mmaction.apis.ranking import inherited_networks
from pvnas_mmaction.engine.checkpoints import SearchCheckpoint, load_search_checkpoint
from pvnas_mmaction.engine.search_files import save_weights
from pvnas_mmaction.models.supernet import log_probabilities
from pvnas_mmaction.profiling.clock import check_device
from pvnas_mmaction.search.derive import Budget, derive
from pvnas_mmaction.space.checks import COUNT, check, wrong
from pvnas_mmaction.space.cost_table import cost_tables
from pvnas_mmaction.space.genotype import save_genotype


def parse_args() -> argparse.Namespace:
    parser = cli.tool_parser(__doc__)
    add = parser.add_argument
    add("checkpoint", help="checkpoint of a search, or its work dir: the last one")
    add("--out", required=True, metavar="DIR", help="folder of the genotypes")
    budgets = parser.add_argument_group("budgets, of one view; default: none")
    add = budgets.add_argument
    add("--budget-gflops", type=float, metavar="X", help="1e9 multiply-accumulates")
    add("--budget-params", type=float, metavar="N", help="parameters, e.g. 1e6")
    add("--budget-ms", type=float, metavar="MS", help="needs --latency-table")
    table = "written by tools/build_latency_table.py; for --budget-ms, and to print ms"
    add("--latency-table", metavar="FILE.json", help=table)
    add = parser.add_argument_group("networks").add_argument
    number = "how many networks to write; default: 1"
    add("--num-candidates", type=int, default=1, metavar="K", help=number)
    ranking = "validate with inherited weights on the data of this config (e.g. the "
    ranking += "search's), batch normalisation re-estimated on its training clips"
    add("--rank-on", metavar="CONFIG", help=ranking)
    weights = "with --rank-on: also write the inherited weights as genotype_NN.pth, to "
    weights += "start training from (load_from)"
    add("--save-weights", action="store_true", help=weights)
    add("--device", default="cpu", help="of --rank-on: cpu or cuda; default: cpu")
    cli.add_config_options(parser)
    args = parser.parse_args()
    check_device(args.device)
    check("--num-candidates", args.num_candidates, COUNT)
    if args.budget_ms is not None and args.latency_table is None:
        hint = "make one with tools/build_latency_table.py"
        raise wrong("--budget-ms", "a --latency-table as well", "none", hint)
    if args.save_weights and args.rank_on is None:
        raise wrong("--save-weights", "--rank-on CONFIG as well", "none")
    return args


def find(args: argparse.Namespace, checkpoint: SearchCheckpoint) -> list[dict]:
    """The most likely networks: ``indices``, ``log_prob``, and their provenance."""
    space, shape = checkpoint.space, checkpoint.input_shape
    tables = cost_tables(space, shape, checkpoint.num_classes, args.latency_table)
    budgets = []
    for option, (kind, unit, _) in BUDGETS.items():
        value = getattr(args, f"budget_{option}")
        if value is not None:
            if not 0 < value < math.inf:
                raise wrong(f"--budget-{option}", "a number above 0", f"{value:g}")
            limit = value if kind == "latency" else round(value * unit)
            budgets.append(Budget(tables[kind], limit))
    names = dict(flops="macs", params="params", latency="latency_ms")
    shared = dict(
        seed=checkpoint.seed,
        code_version=__version__,
        input_shape=list(shape),
        num_classes=checkpoint.num_classes,
        checkpoint=str(checkpoint.path),
        step=checkpoint.step,
        command=shlex.join(["python", *sys.argv]),
        date=datetime.now(timezone.utc).date().isoformat(),
    )
    found = []
    log_probs = log_probabilities(checkpoint.alphas)
    for network in derive(log_probs, budgets, args.num_candidates):
        costs = {names[k]: t.cost(network) for k, t in tables.items()}
        chosen = (row[i] for row, i in zip(log_probs, network, strict=True))
        item = dict(indices=network, log_prob=math.fsum(chosen))
        found.append(dict(item, provenance={**shared, **costs}))
    return found


def rank(args: argparse.Namespace, checkpoint: SearchCheckpoint, found: list[dict]):
    """Networks with accuracy and weights, the most accurate first; ties keep order."""
    cfg = load_config(args.rank_on)
    merge_options(cfg, args.cfg_options)
    init_default_scope(cfg.get("default_scope", "mmaction"))
    evaluate, data = inherited_networks(checkpoint, cfg, args.device)
    for item in cli.bar("Ranking")(found):
        accuracy, item["state"] = evaluate(item["indices"])
        item["provenance"].update(accuracy=accuracy, config=args.rank_on, data=data)
    return sorted(found, key=lambda item: -item["provenance"]["accuracy"])


def write(args: argparse.Namespace, checkpoint: SearchCheckpoint, found: list) -> None:
    """Write genotypes and weights, and print a table of them."""
    print(f"{checkpoint.path}, step {checkpoint.step}, space {checkpoint.space.name!r}")
    print("genotype           GFLOPs  params (M)        ms     log p  accuracy")
    for number, item in enumerate(found, start=1):
        file, facts = Path(args.out, f"genotype_{number:02d}.json"), item["provenance"]
        genotype = checkpoint.space.genotype(item["indices"], facts)
        save_genotype(genotype, file)
        if args.save_weights:
            save_weights(item["state"], genotype.blocks, file.with_suffix(".pth"))
        ms, accuracy = facts.get("latency_ms"), facts.get("accuracy")
        print(
            f"{file.name:<16} {facts['macs'] / 1e9:8.4f}  {facts['params'] / 1e6:10.4f}"
            f"  {'-' if ms is None else f'{ms:.3f}':>8}  {item['log_prob']:8.3f}"
            f"  {'-' if accuracy is None else f'{accuracy:.4f}':>8}"
        )
    print(f"wrote {len(found)} of {args.num_candidates} genotype(s) to {args.out}")
    best = checkpoint.archive.best()
    if args.rank_on is None and best is not None and best.accuracy is not None:
        print(
            "note: likely is not accurate: these networks were not evaluated. Use "
            "--rank-on CONFIG --num-candidates 8; the best one of the search has "
            f"accuracy {best.accuracy:.4f}: {' '.join(best.blocks)}",
            file=sys.stderr,
        )


def main() -> None:
    args = parse_args()
    checkpoint = load_search_checkpoint(args.checkpoint)
    found = find(args, checkpoint)
    cli.make_out_folder(args.out)
    if others := sorted(Path(args.out).glob("genotype_*.json")):
        expected = "a folder without genotypes of another call"
        raise wrong("--out", expected, str(others[0]), "name another one")
    if args.rank_on is not None:
        found = rank(args, checkpoint, found)
    write(args, checkpoint, found)


if __name__ == "__main__":
    cli.run(main)
