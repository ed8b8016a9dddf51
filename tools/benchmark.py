#!/usr/bin/env python
# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Measure how long networks take, ours next to those of MMAction2's zoo.

    %(prog)s
    %(prog)s PV-NAS-S TSM-R50 Mine=CONFIG.py --threads 1 --out DIR

Times of a shared machine drift, so the networks take turns.
"""

import argparse
import copy
import json
import shlex
import statistics
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmaction.apis import init_recognizer
from torch.utils.benchmark import Timer
from tqdm import tqdm

from pvnas_mmaction.apis import cli
from pvnas_mmaction.apis.config_checks import check_one_network
from pvnas_mmaction.apis.config_files import load_config
from pvnas_mmaction.models import recognizers
from pvnas_mmaction.models.blocks import fold_batch_norm
from pvnas_mmaction.models.pvnas_net import PVNASNet
from pvnas_mmaction.profiling.clock import check_device, machine_facts
from pvnas_mmaction.space.checks import COUNT, check, wrong

ZOO = {
    "TSM-R50": "tsm/tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_",
    "TSM-MobileNetV2": "tsm/tsm_imagenet-pretrained-mobilenetv2_8xb16-1x1x8-100e_",
    "X3D-S": "x3d/x3d_s_13x6x1_facebook-",
    "X3D-M": "x3d/x3d_m_16x5x1_facebook-",
    "SlowOnly-R50": "slowonly/slowonly_r50_8xb16-8x8x1-256e_",
    "C2D-R50": "c2d/c2d_r50-in1k-pre_8xb32-8x8x1-100e_",
    "R(2+1)D-34": "r2plus1d/r2plus1d_r34_8xb8-8x8x1-180e_",
    "TANet-R50": "tanet/tanet_imagenet-pretrained-r50_8xb8-dense-1x1x8-100e_",
    "SlowFast-R50": "slowfast/slowfast_r50_8xb8-8x8x1-256e_",
    "Swin-T": "swin/swin-tiny-p244-w877_in1k-pre_8xb8-amp-32x2x1-30e_",
    "UniFormer-S": "uniformer/uniformer-small_imagenet1k-pre_16x4x1_",
    "MViTv2-S": "mvit/mvit-small-p244_32xb16-16x4x1-200e_",
    "TIN-R50": "tin/tin_kinetics400-pretrained-tsm-r50_1x1x8-50e_",
}
OURS = {
    "PV-NAS-S": "pvnas-s_retrain_8xb16-8x8x1-50e",
    "PV-NAS-L": "pvnas-l_retrain_8xb8-8x8x1-50e",
    "PV-NAS-M": "pvnas-m_retrain_8xb8-16x4x1-50e",
}
CONFIGS = {
    **{k: f"pvnas_mmaction::pvnas/{v}_kinetics400-rgb.py" for k, v in OURS.items()},
    **{k: f"mmaction::recognition/{v}kinetics400-rgb.py" for k, v in ZOO.items()},
}
# Title, and text of each model's facts.
COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "view": lambda facts: facts["view"],
    "GMACs": lambda facts: f"{facts['macs'] / 1e9:.2f}",
    "params (M)": lambda facts: f"{facts['params'] / 1e6:.2f}",
    "ms": lambda facts: f"{facts['inference_ms']:.1f}",
    "train ms": lambda facts: f"{facts['training_ms']:.1f}",
}


def parse_args() -> argparse.Namespace:
    names = f"Names that need no config: {', '.join(CONFIGS)}."
    parser = cli.tool_parser(__doc__, epilog=names)
    add = parser.add_argument
    models = "a name of the list below, a config (path or package::path), or "
    models += "NAME=CONFIG; default: the whole list"
    add("models", nargs="*", metavar="MODEL", help=models)
    add("--device", default="cpu", help="cpu (default) or cuda")
    threads = torch.get_num_threads()
    add("--threads", type=int, default=threads, help="CPU threads; default: PyTorch's")
    add("--batch-size", type=int, default=1, help="views per run; default: 1")
    add("--out", metavar="DIR", help="write benchmark.md and benchmark.json here")
    add = parser.add_argument_group("timing").add_argument
    add("--rounds", type=int, default=5, help="turns of each model; default: 5")
    add("--seconds", type=float, default=2, help="per model, round, kind; default: 2")
    args = parser.parse_args()
    check_device(args.device)
    for name in ("rounds", "batch_size", "threads"):
        check(name, getattr(args, name), COUNT)
    return args


def read_models(texts: list[str]) -> dict[str, str]:
    """Name -> config of each ``NAME``, ``CONFIG`` or ``NAME=CONFIG``."""
    models: dict[str, str] = {}
    for text in texts or CONFIGS:
        name, separator, config = text.partition("=")
        if not separator:
            config = CONFIGS.get(text, text)
            name = text if text in CONFIGS else Path(text.split("::")[-1]).stem
        if name in models:
            hint = "use NAME=CONFIG"
            raise wrong("models", "each name once", f"{name!r} twice", hint)
        models[name] = config
    return models


def prepare(result: dict[str, Any], args: argparse.Namespace) -> dict[str, Timer]:
    """Build a model and count its cost; gives what times its inference and training."""
    config = load_config(result["config"])
    check_one_network(config)
    view = recognizers.view_of(config)
    model = init_recognizer(config, device="cpu")  # random weights
    x = view.random_input(1)
    recognizers.settle_batch_norm(model, x)
    result |= dict(view=str(view), params=recognizers.count_params(model))
    result["macs"] = recognizers.count_macs(model, x)
    x = view.random_input(args.batch_size).to(args.device)
    trained = copy.deepcopy(model).to(args.device)
    trained.train()  # those of TSM give no model back
    result["folded"] = isinstance(model.backbone, PVNASNet)
    fold_batch_norm(model)
    model.to(args.device)

    @torch.inference_mode()
    def infer() -> None:
        recognizers.logits(model, x)

    def train() -> None:
        scores = recognizers.logits(trained, x)
        F.cross_entropy(scores, scores.argmin(1)).backward()
        trained.zero_grad(set_to_none=True)

    runs = dict(inference=infer, training=train)
    for run in runs.values():
        run()
    return {
        kind: Timer("run()", globals=dict(run=run), num_threads=args.threads)
        for kind, run in runs.items()
    }


def measure(models: dict[str, str], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Facts of each model, with milliseconds of a run in every round, or ``error``."""
    results = [dict(name=name, config=path) for name, path in models.items()]
    subjects = []
    for result in results:
        try:
            timers = prepare(result, args)
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            result["error"] = text or type(error).__name__
            continue
        result |= {kind: [] for kind in timers}
        subjects += [(result, kind, timer) for kind, timer in timers.items()]
    for result, kind, timer in tqdm(subjects * args.rounds, disable=None, leave=False):
        seconds = timer.blocked_autorange(min_run_time=args.seconds).median
        result[kind].append(1e3 * seconds)
    for result, kind, _ in subjects:
        result[f"{kind}_ms"] = statistics.median(result[kind])
    return results


def to_markdown(data: dict[str, Any]) -> str:
    setting, machine = data["settings"], data["machine"]
    lines = [
        f"`{data['command']}`\n",
        f"{machine.get('gpu') or machine['processor']}, {setting['threads']} CPU "
        f"threads, torch {machine['torch']}, batch size {setting['batch_size']}.\n",
        f"Medians over {setting['rounds']} rounds in which the models take turns, of "
        "one view, frames x height x width, and random weights; a training step is "
        "forward and backward. In models marked * batch normalisation is folded.\n",
        f"| model | {' | '.join(COLUMNS)} |",
        f"| --- |{' ---: |' * len(COLUMNS)}",
    ]
    for facts in data["results"]:
        cells = [facts["name"] + (" *" if facts.get("folded") else "")]
        cells += ["" if "error" in facts else text(facts) for text in COLUMNS.values()]
        lines.append(f"| {' | '.join(cells)} |")
    failed = [f"- {f['name']}: {f['error']}" for f in data["results"] if "error" in f]
    return "\n".join([*lines, *(["\nNot measured:\n"] if failed else []), *failed, ""])


def main() -> None:
    args = parse_args()
    warnings.filterwarnings("ignore")
    models = read_models(args.models)
    if args.out is not None:
        cli.make_out_folder(args.out)
    results = measure(models, args)
    data = dict(
        command=shlex.join(["tools/benchmark.py", *sys.argv[1:]]),
        machine=machine_facts(args.device),
        settings=vars(args),
        results=results,
    )
    text = to_markdown(data)
    print(text)
    if args.out is not None:
        Path(args.out, "benchmark.md").write_text(text, encoding="utf-8")
        Path(args.out, "benchmark.json").write_text(json.dumps(data), encoding="utf-8")
    if all("error" in result for result in results):
        raise wrong("models", "one that can be measured", "the errors given above")


if __name__ == "__main__":
    cli.run(main)
