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
from pvnas_mmaction.report import layers, picture, views
from pvnas_mmaction.report.drawing import draw_network
from pvnas_mmaction.report.layers import format_count, format_shape
from pvnas_mmaction.space.genotype import Genotype, load_genotype


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


def layer_table(rows: tuple[layers.LayerRow, ...], latency: float | None) -> Table:
    """The network as a table, with totals in its last line."""
    table = Table(show_footer=True, header_style="bold")
    macs, params = layers.total(rows)
    table.add_column("layer", footer="total", no_wrap=True)
    table.add_column("stage", justify="right")
    table.add_column("block", no_wrap=True)
    table.add_column("input CxTxHxW", no_wrap=True)
    table.add_column("output", no_wrap=True)
    table.add_column("frames", justify="right")
    table.add_column("MACs", justify="right", footer=format_count(macs))
    table.add_column("share", justify="right")
    table.add_column("params", justify="right", footer=format_count(params))
    if latency is not None:
        table.add_column("ms", justify="right", footer=f"{latency:.3f}")
    for row in rows:
        share = "" if not macs else f"{100 * (row.macs or 0) / macs:.1f} %"
        cells = [
            row.name,
            "" if row.stage is None else str(row.stage + 1),
            row.block,
            format_shape(row.in_shape),
            format_shape(row.out_shape),
            str(row.spec.temporal_kernel) if row.spec else "",
            format_count(row.macs),
            share,
            format_count(row.params),
        ]
        if latency is not None:
            cells.append("" if row.latency_ms is None else f"{row.latency_ms:.3f}")
        table.add_row(*cells)
    return table


def facts(genotype: Genotype) -> list[str]:
    """What is known of a genotype beyond its layers, a line each."""
    blocks = genotype.blocks
    skips = blocks.count("skip")
    lines = [
        f"space: {genotype.space}, {len(blocks)} layers, {skips} skipped",
        f"temporal reach: {layers.temporal_reach(genotype)} frames",
    ]
    lines += [f"{key}: {value}" for key, value in genotype.provenance.items()]
    return lines


def main() -> None:
    args = parse_args()
    if args.num_classes is not None and args.num_classes < 1:
        raise ValueError(
            f"--num-classes: found {args.num_classes}, expected a number from 1 up"
        )
    genotype = load_genotype(args.genotype)
    table = views.read_table(args.latency_table)
    known = None
    if table is not None:
        # Raises where the table is about another space.
        views.table_space(table).indices(genotype)
        shape = args.input_shape or genotype.provenance.get("input_shape")
        if shape not in (None, table.input_shape):
            raise ValueError(
                f"--latency-table: found a table for the input shape "
                f"{table.input_shape}, expected {shape}; give the table of that shape"
            )
        known = views.latency_of(genotype, table)
    rows = layers.layer_rows(
        genotype, args.input_shape, args.num_classes, known[1] if known else None
    )
    if args.picture is not None:
        drawing = draw_network(rows)
        title = (
            f"{Path(args.genotype).name}: {format_count(layers.total(rows)[0])} MACs"
        )
        picture.save_figure(picture.network_figure([(title, drawing)]), args.picture)
    console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)
    console.print(args.genotype, style="bold", markup=False)
    for line in facts(genotype):
        console.print(line, markup=False)
    console.print(layer_table(rows, known[0] if known else None))
    if rows[0].macs is None:
        console.print(
            "The file names no input shape: give --input-shape C T H W for shapes and "
            "MACs."
        )
    if args.picture is not None:
        console.print(f"drawn: {args.picture}", markup=False)


if __name__ == "__main__":
    cli.run(main)
