#!/usr/bin/env python
"""Measure how long networks take, ours next to those of MMAction2's zoo.

    %(prog)s
    %(prog)s PV-NAS-S TSM-R50 CONFIG.py --threads 1 > benchmark.md

Times of a shared machine drift, so the networks take turns. The table is Markdown.
"""

import argparse
import copy
import shlex
import statistics
import sys
import warnings
from collections.abc import Sequence
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
from pvnas_mmaction.report.layers import format_shape
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
COLUMNS = ("view", "GMACs", "params (M)", "ms", "train ms")


def parse_args() -> argparse.Namespace:
    names = f"Names that need no config: {', '.join(CONFIGS)}."
    parser = cli.tool_parser(__doc__, epilog=names)
    add = parser.add_argument
    models = "a name of the list below, or a config (path or package::path); default: "
    models += "the whole list"
    add("models", nargs="*", metavar="MODEL", default=[*CONFIGS], help=models)
    add("--device", default="cpu", help="cpu (default) or cuda")
    threads = torch.get_num_threads()
    add("--threads", type=int, default=threads, help="CPU threads; default: PyTorch's")
    add("--batch-size", type=int, default=1, help="views per run; default: 1")
    add = parser.add_argument_group("timing").add_argument
    add("--rounds", type=int, default=5, help="turns of each model; default: 5")
    seconds = "of timing per model, round and kind; default: 2"
    add("--seconds", type=float, default=2, help=seconds)
    args = parser.parse_args()
    check_device(args.device)
    for name in ("rounds", "batch_size", "threads"):
        check(name, getattr(args, name), COUNT)
    return args


def random_input(shape: Sequence[int], is_2d: bool, batch_size: int) -> torch.Tensor:
    """(N, 1, C, T, H, W), or (N, T, C, H, W) for a 2D recognizer."""
    x = torch.randn(batch_size, *shape, generator=torch.Generator().manual_seed(0))
    return x.transpose(1, 2).contiguous() if is_2d else x.unsqueeze(1)


def prepare(result: dict[str, Any], args: argparse.Namespace) -> dict[str, Timer]:
    """Build a model and count its cost; gives what times its inference and training."""
    config = load_config(CONFIGS.get(result["name"], result["name"]))
    check_one_network(config)
    shape, is_2d = recognizers.view_of(config)
    model = init_recognizer(config, device="cpu")  # random weights
    learnt = (p.numel() for p in model.parameters() if p.requires_grad)
    result |= dict(view=format_shape(shape[1:]), params=sum(learnt))
    result["macs"] = recognizers.count_macs(model, random_input(shape, is_2d, 1))
    x = random_input(shape, is_2d, args.batch_size).to(args.device)
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

    timers = {}
    for kind, run in dict(ms=infer, training_ms=train).items():
        run()
        timers[kind] = Timer("run()", globals=dict(run=run), num_threads=args.threads)
    return timers


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Facts of each model, with milliseconds of a run, or ``error``."""
    results: list[dict[str, Any]] = [dict(name=name) for name in args.models]
    subjects = []
    for result in results:
        try:
            timers = prepare(result, args)
        except Exception as error:
            result["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        else:
            subjects += [(result, kind, timer, []) for kind, timer in timers.items()]
    for _, _, timer, readings in tqdm(subjects * args.rounds, disable=None):
        seconds = timer.blocked_autorange(min_run_time=args.seconds).median
        readings.append(1e3 * seconds)
    for result, kind, _, readings in subjects:
        result[kind] = statistics.median(readings)
    return results


def to_markdown(results: list[dict[str, Any]], args: argparse.Namespace) -> str:
    machine = machine_facts(args.device)
    lines = [
        f"`{shlex.join(['tools/benchmark.py', *sys.argv[1:]])}`\n",
        f"{machine.get('gpu') or machine['processor']}, {args.threads} CPU threads, "
        f"torch {machine['torch']}, batch size {args.batch_size}.\n",
        f"Medians over {args.rounds} rounds in which the models take turns, of one "
        "view, frames x height x width, and random weights; a training step is forward "
        "and backward. In models marked * batch normalisation is folded.\n",
        f"| model | {' | '.join(COLUMNS)} |",
        f"| --- |{' ---: |' * len(COLUMNS)}",
    ]
    for facts in results:
        if "error" in facts:
            cells = [facts["name"], "not measured: " + facts["error"], *[""] * 4]
        else:
            macs, params = f"{facts['macs'] / 1e9:.2f}", f"{facts['params'] / 1e6:.2f}"
            cells = [
                facts["name"] + " *" * facts["folded"],
                facts["view"],
                macs,
                params,
            ]
            cells += [f"{facts[kind]:.1f}" for kind in ("ms", "training_ms")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    args = parse_args()
    warnings.filterwarnings("ignore")
    # Activations of an untrained network may shrink to denormal numbers, which a CPU
    # handles slowly. Threads that start later do the same.
    torch.set_flush_denormal(True)
    results = measure(args)
    print(to_markdown(results, args))
    if all("error" in result for result in results):
        raise wrong("models", "one that can be measured", "the errors given above")


if __name__ == "__main__":
    cli.run(main)
