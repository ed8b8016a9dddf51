#!/usr/bin/env python
# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Measure a latency table: every candidate of every layer of a search space, in place.

The file it writes is read by ``train_cfg.cost = dict(kind='latency', budget=MS,
table=FILE)`` and by ``tools/derive_genotype.py --budget-ms MS --latency-table FILE``.
Then random networks are built and timed whole. The table is scaled to fit half of
them, and compared with the others.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from rich.console import Console
from rich.progress import track as rich_track

from pvnas_mmaction.apis import cli
from pvnas_mmaction.apis.config_files import load_config, read_space
from pvnas_mmaction.profiling.measure import (
    DTYPES,
    MeasureConfig,
    calibrate_and_check,
    measure_table,
    prediction_errors,
)
from pvnas_mmaction.space.latency_table import LatencyTable

MAX_MEDIAN_ERROR = 0.15


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="search config, or the config of a space")
    parser.add_argument("--out", required=True, metavar="FILE.json")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; default: cpu")
    parser.add_argument("--threads", type=int, help="default: as PyTorch has it")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--batch-size", type=int, default=1, help="default: 1")
    parser.add_argument(
        "--rounds",
        type=int,
        default=10,
        help="readings of each candidate at each layer, at least; default: 10",
    )
    parser.add_argument(
        "--fold-bn",
        action="store_true",
        help="fold batch normalisation into the convolutions, as for deployment",
    )
    parser.add_argument(
        "--input-shape",
        type=int,
        nargs=4,
        metavar=("C", "T", "H", "W"),
        help="of one view; default: train_cfg.input_shape of the config",
    )
    parser.add_argument(
        "--num-classes", type=int, help="default: the config's, or else 400"
    )
    parser.add_argument(
        "--check-networks",
        type=int,
        default=20,
        help="random networks that the table is scaled to, and as many others that it "
        "is checked on; default: 20",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    return parser.parse_args()


def show_progress(description: str):
    """What wraps a sequence of runs: a bar with the time left, in a terminal only."""
    console = Console(stderr=True)

    def track(sequence):
        return rich_track(
            sequence, description, console=console, disable=not console.is_terminal
        )

    return track


def main() -> None:
    args = parse_args()
    cli.check_out_file(args.out)
    out = Path(args.out)
    if args.check_networks < 2:
        raise ValueError(
            f"--check-networks: found {args.check_networks}, expected 2 or more"
        )
    if args.num_classes is not None and args.num_classes < 1:
        raise ValueError(f"--num-classes: found {args.num_classes}, expected 1 or more")
    cfg = load_config(args.config)
    space = read_space(cfg, args.config)
    shape = args.input_shape or (cfg.get("train_cfg") or {}).get("input_shape")
    if shape is None:
        raise ValueError(
            f"config {args.config}: found no train_cfg.input_shape; give --input-shape "
            "C T H W, e.g. 3 8 224 224"
        )
    head = (cfg.get("model") or {}).get("cls_head") or {}
    num_classes = args.num_classes or head.get("num_classes", 400)
    config = MeasureConfig(
        device=args.device,
        threads=args.threads,
        dtype=args.dtype,
        batch_size=args.batch_size,
        rounds=args.rounds,
        fold_bn=args.fold_bn,
        seed=args.seed,
    )
    table = measure_table(
        space, shape, num_classes, config, show_progress("Candidates")
    )
    setting = dict(table.setting, num_classes=num_classes)
    table = dataclasses.replace(table, setting=setting)
    table = calibrate_and_check(
        table, args.check_networks, num_classes, config, show_progress("Check")
    )
    table.save(out)
    report(table)
    print(f"wrote {out}")


def report(table: LatencyTable) -> None:
    """Print what was measured and how well it predicts."""
    setting = table.setting
    calibration, check = setting["calibration"], setting["check"]
    print(
        f"space {table.space['name']!r}, input {'x'.join(map(str, table.input_shape))},"
        f" batch size {setting['batch_size']}, {setting['device']}, "
        f"{setting['threads']} thread(s), {setting['dtype']}, {setting['clock']}"
    )
    fastest = table.fixed_ms + sum(map(min, table.layer_ms))
    slowest = table.fixed_ms + sum(map(max, table.layer_ms))
    print(
        f"fixed part {table.fixed_ms:.3f} ms; quickest network {fastest:.3f} ms, "
        f"slowest {slowest:.3f} ms"
    )
    uncalibrated = prediction_errors(calibration["networks"])
    print(
        f"calibration on {len(calibration['networks'])} random networks: "
        f"{calibration['scale']:.3f} * sum {calibration['offset_ms']:+.3f} ms; median "
        f"error of the plain sum {uncalibrated['median_error']:.1%}"
    )
    print(f"check on {len(check['networks'])} other random networks:")
    print("  predicted ms  measured ms   error")
    for row in check["networks"]:
        error = row["predicted_ms"] / row["measured_ms"] - 1
        print(
            f"  {row['predicted_ms']:12.3f}  {row['measured_ms']:11.3f}  {error:+6.1%}"
        )
    print(
        f"absolute error: median {check['median_error']:.1%}, 90th percentile "
        f"{check['p90_error']:.1%}, largest {check['max_error']:.1%}; "
        f"median with sign {check['median_bias']:+.1%}"
    )
    if check["median_error"] > MAX_MEDIAN_ERROR:
        fewer = ", or on --threads 1" if setting["threads"] > 1 else ""
        print(
            f"warning: the median error is over {MAX_MEDIAN_ERROR:.0%}; measure on an "
            f"idle machine, or with more --rounds{fewer}"
        )


if __name__ == "__main__":
    cli.run(main)
