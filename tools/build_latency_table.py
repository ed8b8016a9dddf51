#!/usr/bin/env python
"""Measure a latency table: every candidate of every layer of a search space.

    %(prog)s CONFIG --threads 2 --out FILE.json
    %(prog)s CONFIG --backend onnxruntime --out FILE.json
    %(prog)s CONFIG --device cuda --out FILE.json

The file is for ``train_cfg.cost = dict(kind='latency', budget=MS, table=FILE)`` and
``pvnas derive --budget-ms MS --latency-table FILE``. Whole networks are timed as well:
the table is scaled to half of them, with a margin, and compared with the others.
"""

from pathlib import Path

from pvnas_mmaction.apis import cli
from pvnas_mmaction.apis.config_files import load_config, read_space
from pvnas_mmaction.profiling import latency
from pvnas_mmaction.profiling.calibration import calibrate_and_check
from pvnas_mmaction.space.checks import at_least, check, wrong
from pvnas_mmaction.space.latency_table import LatencyTable

MAX_MEDIAN_ERROR = 0.15


def main() -> None:
    parser = cli.tool_parser(__doc__)
    add = parser.add_argument
    add("config", help="search config, or the config of a space")
    add("--out", required=True, metavar="FILE.json", help="the table")
    backend = "what runs the networks; default: torch"
    add("--backend", choices=latency.BACKENDS, default="torch", help=backend)
    add("--device", default="cpu", help="cpu or cuda; default: cpu")
    add("--threads", type=int, help="CPU threads; default: PyTorch's")
    rounds = "readings of each candidate at each layer, at least; default: 16"
    add("--rounds", type=int, default=16, help=rounds)
    cli.add_input_shape(parser, "train_cfg.input_shape of the config")
    number = "whole networks that the table is scaled to, and as many others that it "
    number += "is checked on; default: 12"
    add("--check-networks", type=int, default=12, help=number)
    args = parser.parse_args()
    cli.check_out_file(args.out)
    check("--check-networks", args.check_networks, at_least(3))
    cfg = load_config(args.config)
    space = read_space(cfg, args.config)
    shape = args.input_shape or (cfg.get("train_cfg") or {}).get("input_shape")
    if shape is None:
        hint = "give --input-shape C T H W, e.g. 3 8 224 224"
        raise wrong("train_cfg.input_shape", f"one in {args.config}", "none", hint)
    head = (cfg.get("model") or {}).get("cls_head") or {}
    how = args.device, args.threads, args.rounds, args.backend
    networks = latency.Networks(space, shape, head.get("num_classes", 400), *how)
    table = latency.measure_table(networks, cli.bar("Candidates"))
    number = args.check_networks
    table = calibrate_and_check(table, networks, number, cli.bar("Whole networks"))
    table.save(Path(args.out))
    print(report(table))
    print(f"wrote {args.out}")


def report(table: LatencyTable) -> str:
    """What was measured, and how well it predicts."""
    setting, check = table.setting, table.setting["check"]
    fastest = table.fixed_ms + sum(map(min, table.layer_ms))
    slowest = table.fixed_ms + sum(map(max, table.layer_ms))
    text = (
        f"{setting['device']}, {setting['threads']} thread(s), {setting['backend']}, "
        f"{setting['clock']}: networks of {fastest:.3f} to {slowest:.3f} ms, with "
        f"{setting['calibration']['margin']:.1%} of margin\n"
        f"check on {len(check['networks'])} networks: error "
        f"{check['median_error']:.1%} in the median, {check['p90_error']:.1%} in the "
        f"90th percentile; "
        f"{check['num_within']} take no longer than predicted"
    )
    if check["median_error"] > MAX_MEDIAN_ERROR:
        hint = "measure on an idle machine, with --threads 1 or more --rounds"
        text += f"\nwarning: the error is over {MAX_MEDIAN_ERROR:.0%}; {hint}"
    return text


if __name__ == "__main__":
    cli.run(main)
