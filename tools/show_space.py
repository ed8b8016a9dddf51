#!/usr/bin/env python
# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Show a search space: stages, candidates, number of networks, cheapest and dearest.

CONFIG is a search config, or a file that holds ``space = dict(...)`` alone; the latter
needs ``--input-shape`` for MACs.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from pvnas_mmaction.apis import cli
from pvnas_mmaction.apis.config_files import load_config, merge_options, read_space
from pvnas_mmaction.report.layers import format_count, format_shape
from pvnas_mmaction.report.runlog import lookup
from pvnas_mmaction.search.derive import Budget
from pvnas_mmaction.search.penalty import build_penalty
from pvnas_mmaction.space.cost import check_input_shape, layer_shapes
from pvnas_mmaction.space.cost_table import CostTable, cost_tables, plain
from pvnas_mmaction.space.search_space import SearchSpace

DRAWN_NETWORKS = 10_000
BAR_WIDTH = 50


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file, or package::path")
    parser.add_argument(
        "--input-shape",
        nargs=4,
        type=int,
        metavar=("C", "T", "H", "W"),
        help="shape of one view; default: train_cfg.input_shape of the config",
    )
    parser.add_argument(
        "--num-classes", type=int, help="default: that of the config, else 1"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=cli.KeyValueAction,
        metavar="KEY=VALUE",
        help="override settings of the config, e.g. train_cfg.cost.budget=2e9",
    )
    return parser.parse_args()


def stage_table(space: SearchSpace, shape: Sequence[int] | None) -> Table:
    """Stages with their candidates."""
    table = Table(header_style="bold", show_lines=True)
    for name in ("stage", "layers", "channels", "stride T, HxW"):
        table.add_column(name, justify="right")
    table.add_column("output CxTxHxW", no_wrap=True)
    table.add_column("candidates", ratio=1)
    shapes = layer_shapes(space.skeleton, shape) if shape else None
    for number, stage in enumerate(space.skeleton.stages):
        last = max(layer.index for layer in space.layers if layer.stage == number)
        candidates = space.candidates[last]
        out = (stage.out_channels, *shapes[last + 1]) if shapes else None
        table.add_row(
            str(number + 1),
            str(stage.num_layers),
            str(stage.out_channels),
            f"{stage.temporal_stride}, {stage.spatial_stride}",
            format_shape(out),
            f"{len(candidates)}: {' '.join(candidates)}",
        )
    return table


def extremes(table: CostTable) -> tuple[float, float]:
    """Cost of the cheapest and of the most expensive network."""
    return plain(table.cheapest()), table.cost(table.most_expensive())


def share_within(budget: Budget, number: int = DRAWN_NETWORKS) -> float:
    """Share of networks that keep the limit, among some drawn uniformly (seed 0)."""
    draw, table = random.Random(0), budget.table
    kept = sum(
        table.fixed + sum(draw.choice(row) for row in table.per_layer) <= budget.limit
        for _ in range(number)
    )
    return kept / number


def budget_lines(budget: Budget) -> list[str]:
    """Where the budget lies between cheapest and most expensive, a line each."""
    low, high = extremes(budget.table)
    head = f"budget: {format_count(budget.limit)} {budget.table.unit}"
    if budget.limit < low:
        return [f"{head}, below the cheapest network: none keeps it"]
    if budget.limit >= high:
        return [f"{head}, not below the most expensive network: every one keeps it"]
    place = (budget.limit - low) / (high - low)
    mark = round(place * (BAR_WIDTH - 1))
    bar = "-" * mark + "|" + "-" * (BAR_WIDTH - 1 - mark)
    kept = share_within(budget)
    share = f"{100 * kept:.1f} %" if kept else "none"
    return [
        f"{head}, {100 * place:.1f} % of the way from cheapest to most expensive",
        f"  {share} of {DRAWN_NETWORKS} networks drawn uniformly within it",
        f"  {format_count(low)} [{bar}] {format_count(high)}",
    ]


def main() -> None:
    args = parse_args()
    cfg = load_config(args.config)
    merge_options(cfg, args.cfg_options)
    data = cfg.to_dict()
    space = read_space(cfg, args.config)
    shape = args.input_shape or lookup(data, "train_cfg.input_shape")
    if shape is not None:
        shape = check_input_shape(space.skeleton, shape)
    if args.num_classes is not None and args.num_classes < 1:
        raise ValueError(
            f"--num-classes: found {args.num_classes}, expected a number from 1 up"
        )
    num_classes = args.num_classes or lookup(data, "model.cls_head.num_classes") or 1
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(f"space {space.name}: {len(space.layers)} layers", markup=False)
    console.print(stage_table(space, shape))
    console.print(f"networks: {space.size:,} ({space.size:.3g})")
    if shape is None:
        console.print("No input shape is known: give --input-shape C T H W for costs.")
        return
    console.print(f"input CxTxHxW: {format_shape(shape)}, classes: {num_classes}")
    setting = lookup(data, "train_cfg.cost")
    latency = (setting or {}).get("table")
    tables = cost_tables(space, shape, num_classes, latency)
    for table in tables.values():
        low, high = extremes(table)
        console.print(
            f"{table.unit}: cheapest {format_count(low)}, most expensive "
            f"{format_count(high)}, the same in all {format_count(table.fixed)}"
        )
    penalty = build_penalty(setting, tables)
    if penalty is None:
        console.print("budget: none in the config (train_cfg.cost)")
        return
    for line in budget_lines(penalty.budget):
        console.print(line, markup=False)


if __name__ == "__main__":
    cli.run(main)
