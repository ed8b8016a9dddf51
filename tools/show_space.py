#!/usr/bin/env python
"""Show a search space: stages, candidates, number of networks, lowest and highest cost.

    %(prog)s CONFIG
    %(prog)s configs/pvnas/_base_/spaces/tiny.py --input-shape 3 8 112 112

CONFIG is a search config, or a file that holds ``space = dict(...)`` alone.
"""

from collections.abc import Sequence

from rich.table import Table

from pvnas_mmaction.apis import cli
from pvnas_mmaction.apis.config_files import load_config, merge_options, read_space
from pvnas_mmaction.report.layers import format_count, format_shape
from pvnas_mmaction.search.penalty import build_penalty
from pvnas_mmaction.space.cost import check_input_shape, layer_shapes
from pvnas_mmaction.space.cost_table import cost_tables, plain
from pvnas_mmaction.space.search_space import SearchSpace


def stage_table(space: SearchSpace, shape: Sequence[int] | None) -> Table:
    """Stages with all candidates of their layers."""
    table = Table(header_style="bold", show_lines=True)
    for name in ("stage", "layers", "channels", "stride T, HxW"):
        table.add_column(name, justify="right")
    table.add_column("output CxTxHxW", no_wrap=True)
    table.add_column("candidates", ratio=1)
    shapes = layer_shapes(space.skeleton, shape) if shape else None
    for number, stage in enumerate(space.skeleton.stages):
        layers = [layer.index for layer in space.layers if layer.stage == number]
        names = dict.fromkeys(name for i in layers for name in space.candidates[i])
        out = (stage.out_channels, *shapes[layers[-1] + 1]) if shapes else None
        strides = f"{stage.temporal_stride}, {stage.spatial_stride}"
        table.add_row(
            str(number + 1), str(len(layers)), str(stage.out_channels), strides,
            format_shape(out) if out else "n/a", f"{len(names)}: {' '.join(names)}",
        )  # fmt: skip
    return table


def main() -> None:
    parser = cli.tool_parser(__doc__)
    parser.add_argument("config", help="config file, or package::path")
    cli.add_input_shape(parser, "train_cfg.input_shape of the config")
    cli.add_config_options(parser)
    args = parser.parse_args()
    cfg = load_config(args.config)
    merge_options(cfg, args.cfg_options)
    space, search = read_space(cfg, args.config), cfg.get("train_cfg") or {}
    shape = args.input_shape or search.get("input_shape")
    console = cli.wide_console()
    console.print(f"space {space.name}: {len(space.layers)} layers", markup=False)
    console.print(stage_table(space, shape))
    console.print(f"networks: {space.size:,} ({space.size:.3g})")
    if shape is None:
        console.print("No input shape is known: give --input-shape C T H W for costs.")
        return
    shape = check_input_shape(space.skeleton, shape)
    head = (cfg.get("model") or {}).get("cls_head") or {}
    num_classes, cost = head.get("num_classes", 1), search.get("cost")
    console.print(f"input CxTxHxW: {format_shape(shape)}, classes: {num_classes}")
    tables = cost_tables(space, shape, num_classes, (cost or {}).get("table"))
    for table in tables.values():
        high = table.cost(table.most_expensive())
        console.print(
            f"{table.unit}: cheapest {format_count(plain(table.cheapest()))}, most "
            f"expensive {format_count(high)}, the same in all "
            f"{format_count(table.fixed)}"
        )
    if penalty := build_penalty(cost, tables):
        limit, unit = penalty.budget.limit, penalty.budget.table.unit
        console.print(f"budget: {format_count(limit)} {unit}", markup=False)


if __name__ == "__main__":
    cli.run(main)
