#!/usr/bin/env python
# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Show the network of a genotype layer by layer, as text and as a picture."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pvnas_mmaction.apis import cli
from pvnas_mmaction.report.drawing import network_plot
from pvnas_mmaction.report.layers import (
    LayerRow,
    format_count,
    format_shape,
    layer_rows,
    temporal_reach,
    total,
)
from pvnas_mmaction.report.page import latency_of, read_table
from pvnas_mmaction.report.plot import save_figure
from pvnas_mmaction.space.checks import check_count, wrong
from pvnas_mmaction.space.genotype import load_genotype
from pvnas_mmaction.space.search_space import SearchSpace


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("genotype", help="genotype file, or package::path")
    parser.add_argument(
        "--input-shape",
        nargs=4,
        type=int,
        metavar=("C", "T", "H", "W"),
        help="shape of one view; default: that in the file",
    )
    parser.add_argument(
        "--num-classes", type=int, help="of the classifier; default: that in the file"
    )
    parser.add_argument(
        "--latency-table", metavar="FILE.json", help="to predict latencies with"
    )
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="also draw it: .png, .svg or .pdf"
    )
    return parser.parse_args()


def layer_table(rows: list[LayerRow], latency: float | None) -> Table:
    """The network as a table, with totals in its last line."""
    macs, params = total(rows)
    table = Table(show_footer=True, header_style="bold")
    table.add_column("layer", footer="total", no_wrap=True)
    for name in ("stage", "block", "input CxTxHxW", "output"):
        table.add_column(name, no_wrap=True)
    for name, footer in (("frames", ""), ("MACs", format_count(macs)), ("share", ""),
                         ("params", format_count(params))):  # fmt: skip
        table.add_column(name, justify="right", footer=footer)
    if latency is not None:
        table.add_column("ms", justify="right", footer=f"{latency:.3f}")
    for row in rows:
        cells = [
            row.name,
            "" if row.stage is None else str(row.stage + 1),
            row.block,
            format_shape(row.in_shape),
            format_shape(row.out_shape),
            str(row.spec.temporal_kernel) if row.spec else "",
            format_count(row.macs),
            f"{100 * (row.macs or 0) / macs:.1f} %" if macs else "",
            format_count(row.params),
        ]
        if latency is not None:
            cells.append("" if row.latency_ms is None else f"{row.latency_ms:.3f}")
        table.add_row(*cells)
    return table


def main() -> None:
    args = parse_args()
    if args.num_classes is not None:
        check_count("--num-classes", args.num_classes, 1)
    genotype = load_genotype(args.genotype)
    blocks, provenance = genotype.blocks, genotype.provenance
    latency, by_layer = None, None
    if args.latency_table is not None:
        table = read_table(args.latency_table)
        # Raises where the table is about another space.
        SearchSpace.from_config(table.space).indices(genotype)
        shape = args.input_shape or provenance.get("input_shape") or table.input_shape
        if shape != table.input_shape:
            expected = f"a table for the input shape {shape}"
            raise wrong("--latency-table", expected, str(table.input_shape))
        latency, by_layer = latency_of(genotype, table) or (None, None)
    rows = layer_rows(genotype, args.input_shape, args.num_classes, by_layer)
    if args.picture is not None:
        title = f"{Path(args.genotype).name}: {format_count(total(rows)[0])} MACs"
        save_figure(network_plot(rows, title), args.picture)
    console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)
    skips = blocks.count("skip")
    lines = [
        args.genotype,
        f"space: {genotype.space}, {len(blocks)} layers, {skips} skipped",
        f"temporal reach: {temporal_reach(genotype)} frames",
        *(f"{key}: {value}" for key, value in provenance.items()),
    ]
    console.print("\n".join(lines), markup=False)
    console.print(layer_table(rows, latency))
    if rows[0].macs is None:
        console.print("No input shape is known: give --input-shape C T H W for MACs.")
    if args.picture is not None:
        console.print(f"drawn: {args.picture}", markup=False)


if __name__ == "__main__":
    cli.run(main)
