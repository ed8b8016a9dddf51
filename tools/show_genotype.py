#!/usr/bin/env python
"""Show the network of a genotype layer by layer, as text and as a picture.

    %(prog)s GENOTYPE.json
    %(prog)s GENOTYPE.json --input-shape 3 8 224 224 --picture network.svg

For each layer: block, shapes, multiply-accumulates and parameters.
"""

from pathlib import Path

from rich.table import Table

from pvnas_mmaction.apis import cli
from pvnas_mmaction.report import layers
from pvnas_mmaction.report.drawing import network_plot
from pvnas_mmaction.report.layers import format_count, format_shape
from pvnas_mmaction.report.plot import save_figure
from pvnas_mmaction.space.genotype import load_genotype


def layer_table(rows: list[layers.LayerRow]) -> Table:
    """The network as a table, with totals in its last line."""
    whole = layers.total(rows)
    table = Table(show_footer=True, header_style="bold")
    table.add_column("layer", footer="total", no_wrap=True)
    for name in ("stage", "block", "input CxTxHxW", "output"):
        table.add_column(name, no_wrap=True)
    footers = dict(frames="", MACs=format_count(whole.macs), share="")
    footers["params"] = format_count(whole.params)
    for name, footer in footers.items():
        table.add_column(name, justify="right", footer=footer)
    for row in rows:
        table.add_row(
            row.name,
            "" if row.stage is None else str(row.stage + 1),
            row.block,
            format_shape(row.in_shape),
            format_shape(row.out_shape),
            str(row.spec.temporal_kernel) if row.spec else "",
            format_count(row.cost.macs),
            f"{100 * row.cost.macs / whole.macs:.1f} %",
            format_count(row.cost.params),
        )
    return table


def main() -> None:
    parser = cli.tool_parser(__doc__)
    parser.add_argument("genotype", help="genotype file, or package::path")
    cli.add_input_shape(parser, "that in the file, or 3 8 224 224")
    picture = "also draw it: .png, .svg or .pdf"
    parser.add_argument("--picture", type=Path, metavar="FILE", help=picture)
    args = parser.parse_args()
    genotype = load_genotype(args.genotype)
    rows = layers.layer_rows(genotype, args.input_shape)
    blocks = genotype.blocks
    lines = [
        args.genotype,
        f"space: {genotype.space}, {len(blocks)} layers, {blocks.count('skip')} "
        f"skipped\ntemporal reach: {layers.temporal_reach(genotype)} frames",
        *(f"{key}: {value}" for key, value in genotype.provenance.items()),
    ]
    console = cli.wide_console()
    console.print("\n".join(lines), markup=False)
    console.print(layer_table(rows))
    if args.picture is not None:
        macs = format_count(layers.total(rows).macs)
        title = f"{Path(args.genotype).name}: {macs} MACs"
        save_figure(network_plot(rows, title), args.picture)
        console.print(f"drawn: {args.picture}", markup=False)


if __name__ == "__main__":
    cli.run(main)
