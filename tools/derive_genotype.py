#!/usr/bin/env python
# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Derive genotypes from the checkpoint of a search, under budgets.

Writes the most likely networks that keep every budget given as genotype_01.json,
genotype_02.json and so on, the most likely first; with --rank-on the most accurate
first. One search serves any number of budgets.

Costs are those of one view at the input shape of the search: GFLOPs are 1e9
multiply-accumulates. log p is the sum of log softmax(alpha) over the layers.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import torch
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.progress import track
from torch import Tensor

from pvnas_mmaction import __version__
from pvnas_mmaction.apis import cli
from pvnas_mmaction.apis.config_checks import check_annotations
from pvnas_mmaction.apis.config_files import load_config, merge_options
from pvnas_mmaction.apis.ranking import InheritedNetworks
from pvnas_mmaction.engine.search_checkpoint import (
    SearchCheckpoint,
    load_search_checkpoint,
)
from pvnas_mmaction.profiling.clock import check_device
from pvnas_mmaction.search.derive import Budget, Derived, derive
from pvnas_mmaction.space.cost import fixed_cost, layer_costs, network_cost
from pvnas_mmaction.space.genotype import Genotype, save_genotype
from pvnas_mmaction.space.latency_table import LatencyTable, load_latency_table


@dataclass(frozen=True)
class Found:
    """A derived network with what is known of it.

    Args:
        genotype: With its provenance.
        log_prob: Sum of log softmax(alpha).
        indices: Candidate of each layer.
        state: Inherited weights, or None where they were not asked for.
    """

    genotype: Genotype
    log_prob: float
    indices: tuple[int, ...]
    state: dict[str, Tensor] | None = None


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "checkpoint", help="checkpoint of a search, or its work dir: the last one"
    )
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--budget-gflops", type=float, metavar="X")
    parser.add_argument(
        "--budget-params", type=float, metavar="N", help="in millions of parameters"
    )
    parser.add_argument("--budget-ms", type=float, metavar="MS")
    parser.add_argument(
        "--latency-table",
        metavar="FILE.json",
        help="written by tools/build_latency_table.py; for --budget-ms, and to print "
        "the milliseconds",
    )
    parser.add_argument(
        "--num-candidates", type=int, default=1, metavar="K", help="default: 1"
    )
    parser.add_argument(
        "--min-distance",
        type=float,
        default=1,
        metavar="D",
        help="layers in which any two of them differ at least: a number from 1 up, or "
        "a share of the layers below 1; default: 1",
    )
    parser.add_argument(
        "--rank-on",
        metavar="CONFIG",
        help="validate with inherited weights on the data of this config (that of the "
        "search, say), batch normalisation re-estimated on its training clips",
    )
    parser.add_argument(
        "--save-weights",
        action="store_true",
        help="with --rank-on: also write the inherited weights as genotype_NN.pth, to "
        "start training from (load_from)",
    )
    parser.add_argument(
        "--device", default="cpu", help="of --rank-on: cpu or cuda; default: cpu"
    )
    parser.add_argument(
        "--input-shape",
        type=int,
        nargs=4,
        metavar=("C", "T", "H", "W"),
        help="default: that of search/space.json in its work dir",
    )
    parser.add_argument(
        "--num-classes",
        type=int,
        help="default: that of search/space.json in its work dir",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=cli.KeyValueAction,
        metavar="KEY=VALUE",
        help="override settings of the config of --rank-on",
    )
    return parser.parse_args()


def check_options(args: argparse.Namespace) -> None:
    """Check the options that need no checkpoint to be checked."""
    check_device(args.device)
    if args.num_classes is not None and args.num_classes < 1:
        raise ValueError(f"--num-classes: found {args.num_classes}, expected 1 or more")
    if args.budget_ms is not None and args.latency_table is None:
        raise ValueError(
            "--budget-ms: found no --latency-table, expected one; make it with "
            "tools/build_latency_table.py"
        )
    if args.rank_on is None:
        for option in ("--save-weights", "--cfg-options"):
            if getattr(args, option[2:].replace("-", "_")):
                raise ValueError(f"{option}: found no --rank-on CONFIG, expected one")
    for option in ("--budget-gflops", "--budget-params", "--budget-ms"):
        value = getattr(args, option[2:].replace("-", "_"))
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{option}: found {value:g}, expected a number above 0")


def read_setting(
    args: argparse.Namespace, checkpoint: SearchCheckpoint
) -> tuple[tuple[int, ...], int]:
    """Input shape and number of classes that costs are for."""
    shape = args.input_shape or checkpoint.setting.get("input_shape")
    num_classes = args.num_classes or checkpoint.setting.get("num_classes")
    if shape is None or num_classes is None:
        raise ValueError(
            f"{checkpoint.path}: found no search/space.json of its search beside it; "
            "give --input-shape C T H W and --num-classes N"
        )
    return tuple(shape), num_classes


def parse_distance(value: float, num_layers: int) -> int:
    """Number of layers out of a number of layers or a share of them."""
    if 0 < value < 1:
        return math.ceil(value * num_layers - 1e-9)
    if not float(value).is_integer() or not 1 <= value <= num_layers:
        raise ValueError(
            f"--min-distance: found {value:g}, expected a share above 0 and below 1, "
            f"or a whole number from 1 to {num_layers}, the number of layers"
        )
    return int(value)


def build_budgets(
    args: argparse.Namespace,
    checkpoint: SearchCheckpoint,
    shape: Sequence[int],
    num_classes: int,
    table: LatencyTable | None,
) -> list[Budget]:
    """The budgets that were asked for."""
    space = checkpoint.space
    fixed, layers = fixed_cost(space, shape, num_classes), layer_costs(space, shape)
    budgets = []
    for kind, field, limit, unit in (
        ("flops", "macs", args.budget_gflops, 1e9),
        ("params", "params", args.budget_params, 1e6),
    ):
        if limit is not None:
            costs = [[getattr(cost, field) for cost in row] for row in layers]
            budgets.append(Budget(kind, limit * unit, getattr(fixed, field), costs))
    if args.budget_ms is not None:
        limit, table_ms = args.budget_ms, table.layer_ms
        budgets.append(Budget("latency", limit, table.fixed_ms, table_ms))
    return budgets


def describe(
    network: Derived,
    checkpoint: SearchCheckpoint,
    shape: Sequence[int],
    num_classes: int,
    table: LatencyTable | None,
) -> Found:
    """A derived network with its genotype, its costs and where it came from."""
    space = checkpoint.space
    blocks = space.genotype(network.indices).blocks
    cost = network_cost(space.skeleton, blocks, shape, num_classes)
    provenance = dict(
        seed=checkpoint.seed,
        code_version=__version__,
        input_shape=list(shape),
        num_classes=num_classes,
        macs=cost.macs,
        params=cost.params,
        checkpoint=str(checkpoint.path),
        step=checkpoint.step,
        command=shlex.join(["python", *sys.argv]),
        date=datetime.now(timezone.utc).date().isoformat(),
    )
    if table is not None:
        provenance["latency_ms"] = table.predict(network.indices)
    genotype = space.genotype(network.indices, provenance)
    return Found(genotype, network.log_prob, network.indices)


def rank(args: argparse.Namespace, checkpoint: SearchCheckpoint, found: list[Found]):
    """Networks with accuracy and weights, the most accurate first; ties keep order."""
    cfg = load_config(args.rank_on)
    merge_options(cfg, args.cfg_options)
    check_annotations(cfg, ("train", "val"))
    init_default_scope(cfg.get("default_scope", "mmaction"))
    networks = InheritedNetworks(checkpoint, cfg, args.device)
    console = Console(stderr=True)
    ranked = []
    for item in track(
        found, "Ranking", console=console, disable=not console.is_terminal
    ):
        accuracy, state = networks.evaluate(item.indices)
        provenance = dict(
            item.genotype.provenance,
            accuracy=accuracy,
            config=args.rank_on,
            data=networks.data.ann_file,
        )
        ranked.append(
            replace(
                item,
                genotype=replace(item.genotype, provenance=provenance),
                state=state if args.save_weights else None,
            )
        )
    return sorted(ranked, key=lambda item: -item.genotype.provenance["accuracy"])


def print_table(names: Sequence[str], found: Sequence[Found]) -> None:
    """One row per genotype."""
    print("genotype           GFLOPs  params (M)        ms     log p  accuracy")
    for name, item in zip(names, found, strict=True):
        values = item.genotype.provenance
        milliseconds = values.get("latency_ms")
        accuracy = values.get("accuracy")
        print(
            f"{name:<16} {values['macs'] / 1e9:8.4f}  {values['params'] / 1e6:10.4f}  "
            f"{'-' if milliseconds is None else format(milliseconds, '.3f'):>8}  "
            f"{item.log_prob:8.3f}  "
            f"{'-' if accuracy is None else format(accuracy, '.4f'):>8}"
        )


def main() -> None:
    args = parse_args()
    check_options(args)
    checkpoint = load_search_checkpoint(args.checkpoint)
    shape, num_classes = read_setting(args, checkpoint)
    table = None
    if args.latency_table is not None:
        table = load_latency_table(args.latency_table, checkpoint.space, shape)
    budgets = build_budgets(args, checkpoint, shape, num_classes, table)
    derived = derive(
        checkpoint.log_probs(),
        budgets,
        args.num_candidates,
        parse_distance(args.min_distance, len(checkpoint.space.layers)),
    )
    found = [describe(d, checkpoint, shape, num_classes, table) for d in derived]
    out = Path(args.out)
    cli.make_out_folder(out)
    if args.rank_on is not None:
        found = rank(args, checkpoint, found)
    names = [f"genotype_{number:02d}.json" for number in range(1, len(found) + 1)]
    for name, item in zip(names, found, strict=True):
        save_genotype(item.genotype, out / name)
        if item.state is not None:
            save_weights(item, (out / name).with_suffix(".pth"))
    print(
        f"{checkpoint.path}, step {checkpoint.step}, space {checkpoint.space.name!r}, "
        f"input {'x'.join(map(str, shape))}"
    )
    print_table(names, found)
    print(f"wrote {len(found)} genotype(s) to {out}")
    written = {*names, *(f"{Path(n).stem}.pth" for n in names if args.save_weights)}
    left = sorted(path.name for path in out.glob("genotype_[0-9]*.*"))
    if earlier := [name for name in left if name not in written]:
        print(
            f"note: {out} also holds files of an earlier derivation: "
            f"{', '.join(earlier)}",
            file=sys.stderr,
        )
    if len(found) < args.num_candidates:
        print(
            f"note: no more than {len(found)} of {args.num_candidates} networks keep "
            "the budgets at that distance",
            file=sys.stderr,
        )


def save_weights(item: Found, path: Path) -> None:
    """Write a checkpoint for ``load_from``, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    meta = dict(blocks=list(item.genotype.blocks))
    torch.save(dict(meta=meta, state_dict=item.state), temporary)
    temporary.replace(path)


if __name__ == "__main__":
    cli.run(main)
