#!/usr/bin/env python
# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Measure how long models take, ours next to those of MMAction2's zoo.

python tools/benchmark.py --small
python tools/benchmark.py PV-NAS-S TSM-R50 Mine=CONFIG.py --threads 1 --out DIR
"""

from __future__ import annotations

import argparse
import shlex
import sys
import warnings
from dataclasses import fields
from pathlib import Path

from mmengine.config import Config
from tqdm import tqdm

from pvnas_mmaction.apis import cli
from pvnas_mmaction.apis.config_checks import check_one_network
from pvnas_mmaction.apis.config_files import load_config
from pvnas_mmaction.profiling import zoo
from pvnas_mmaction.profiling.clock import DTYPES
from pvnas_mmaction.space.checks import wrong


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Names that need no config: {', '.join(zoo.DEFAULT)}.",
    )
    add = parser.add_argument
    add(
        "models",
        nargs="*",
        metavar="MODEL",
        help="a name of the list below, a config (path or package::path), or "
        "NAME=CONFIG; default: the whole list",
    )
    add("--device", default="cpu", help="cpu (default) or cuda")
    add("--threads", type=int, help="CPU threads; default: PyTorch's")
    add("--dtype", choices=DTYPES, default="float32", help="default: float32")
    add("--batch-size", type=int, default=1, help="views per run; default: 1")
    add("--no-train", dest="train", action="store_false", help="inference alone")
    add("--rounds", type=int, default=5, help="default: 5")
    add("--seconds", type=float, default=2, help="per model, round, kind; default: 2")
    add("--small", action="store_true", help="a quick look: 64x64 pixels, two rounds")
    add("--out", metavar="DIR", help="write benchmark.md and benchmark.json here")
    parser.set_defaults(crop=None)
    return parser.parse_args()


def read_settings(args: argparse.Namespace) -> zoo.Settings:
    """The settings that the options ask for."""
    values = {field.name: getattr(args, field.name) for field in fields(zoo.Settings)}
    if args.small:
        values.update(rounds=2, seconds=0.1, crop=64)
    return zoo.Settings(**values)


def read_models(texts: list[str]) -> dict[str, str]:
    """Name -> config of each ``NAME``, ``CONFIG`` or ``NAME=CONFIG``."""
    models: dict[str, str] = {}
    for text in texts:
        name, separator, config = text.partition("=")
        if not separator:
            config = zoo.DEFAULT.get(text, text)
            name = text if text in zoo.DEFAULT else Path(text.split("::")[-1]).stem
        if name in models:
            got = f"{name!r} twice"
            raise wrong("models", "each name once", got, "use NAME=CONFIG")
        models[name] = config
    return models


def load_network(name: str) -> Config:
    """Read the config of one network."""
    config = load_config(name)
    check_one_network(config)
    return config


def main() -> None:
    args = parse_args()
    warnings.filterwarnings("ignore")
    settings = read_settings(args)
    models = read_models(args.models or list(zoo.DEFAULT))
    if args.out is not None:
        cli.make_out_folder(args.out)
    total = len(models) * (1 + settings.rounds * (1 + settings.train))
    with tqdm(total=total, disable=None, leave=False) as bar:

        def advance(name: str) -> None:
            bar.set_description(name)
            bar.update()

        results = zoo.measure(models, load_network, settings, advance)
    command = shlex.join(["tools/benchmark.py", *sys.argv[1:]])
    data = zoo.add_figures(results, settings, command)
    print(zoo.to_markdown(data))
    if args.out is not None:
        print("Wrote " + ", ".join(map(str, zoo.save(data, Path(args.out)))))
    if not any(r["inference_ms"] or r["training_ms"] for r in results):
        raise wrong("models", "one that can be measured", "the errors given above")


if __name__ == "__main__":
    cli.run(main)
