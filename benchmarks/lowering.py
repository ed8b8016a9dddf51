# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Time every way to carry out the convolutions of the shipped spaces.

For each convolution: milliseconds of a forward, and of forward with backward, by each
lowering of ``models/lowering.py`` that applies, on channels-last input as in the
networks; and by PyTorch's own 3D convolution on contiguous input (`contiguous`). `*`
marks what ``choose_lowering`` takes. Lowerings run in turn; medians over the rounds.

    python benchmarks/lowering.py --threads 1
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from pvnas_mmaction.models.lowering import (
    LOWERINGS,
    LoweredConv3d,
    choose_lowering,
)
from pvnas_mmaction.profiling.clock import Clock, machine_facts

ROOT = Path(__file__).resolve().parent.parent
# (name, in, out, groups, kernel, stride, T, H = W): places in `light` and `medium`.
CASES = (
    ("stem", 3, 24, 1, (1, 3, 3), (1, 2, 2), 8, 224),
    ("pointwise", 40, 120, 1, (1, 1, 1), (1, 1, 1), 8, 56),
    ("pointwise", 192, 576, 1, (1, 1, 1), (1, 1, 1), 8, 14),
    ("pointwise", 384, 1152, 1, (1, 1, 1), (1, 1, 1), 8, 7),
    ("depthwise space", 96, 96, 96, (1, 3, 3), (1, 1, 1), 8, 56),
    ("depthwise space", 240, 240, 240, (1, 5, 5), (1, 1, 1), 8, 28),
    ("depthwise space", 576, 576, 576, (1, 3, 3), (1, 1, 1), 8, 14),
    ("depthwise space", 576, 576, 576, (1, 5, 5), (1, 2, 2), 8, 14),
    ("depthwise time", 96, 96, 96, (3, 1, 1), (1, 1, 1), 8, 56),
    ("depthwise time", 240, 240, 240, (5, 1, 1), (1, 1, 1), 8, 28),
    ("depthwise time", 1152, 1152, 1152, (5, 1, 1), (1, 1, 1), 8, 7),
    ("depthwise joint", 96, 96, 96, (3, 3, 3), (1, 1, 1), 8, 56),
    ("depthwise joint", 240, 240, 240, (3, 3, 3), (1, 2, 2), 8, 56),
    ("depthwise joint", 576, 576, 576, (3, 3, 3), (1, 1, 1), 8, 14),
    ("full time", 80, 40, 1, (3, 1, 1), (1, 1, 1), 8, 28),
    ("full time", 384, 384, 1, (3, 1, 1), (1, 1, 1), 8, 7),
    ("full space", 80, 80, 1, (1, 3, 3), (1, 1, 1), 8, 28),
    ("full space", 192, 192, 1, (1, 3, 3), (1, 1, 1), 8, 14),
    ("full space", 384, 384, 1, (1, 5, 5), (1, 1, 1), 8, 7),
    ("full space", 256, 256, 1, (1, 3, 3), (1, 1, 1), 16, 14),
)
SMALL_CASES = tuple(
    (name, 16, 16, 16 if groups > 1 else 1, kernel, stride, 4, 8)
    for name, _, _, groups, kernel, stride, _, _ in CASES[4:12:3]
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--small", action="store_true", help="a quick trial")
    parser.add_argument("--out", type=Path, help="default: results/lowering.json")
    args = parser.parse_args()
    if args.small:
        args.rounds = 2
    elif args.out is None:
        args.out = ROOT / "benchmarks" / "results" / "lowering.json"
    return args


def applicable(conv: LoweredConv3d) -> list[str]:
    """Names of the lowerings that give this convolution's result."""
    names = ["plain"]
    if conv.kernel_size[0] == 1:
        return [*names, "folded"]
    if conv.kernel_size[1:] == (1, 1) and conv.stride[1:] == (1, 1):
        names.append("over_time")
    return [*names, "sum_of_folded"]


def measure_case(case: Sequence, args: argparse.Namespace) -> dict:
    """Milliseconds of one convolution by every lowering."""
    name, in_channels, out_channels, groups, kernel, stride, frames, size = case
    torch.manual_seed(0)
    conv = LoweredConv3d(in_channels, out_channels, kernel, stride, groups)
    conv = conv.to(args.device)
    contiguous = torch.randn(1, in_channels, frames, size, size, device=args.device)
    x = contiguous.contiguous(memory_format=torch.channels_last_3d)
    ways: dict[str, tuple[Callable, Tensor]] = {
        way: (LOWERINGS[way], x) for way in applicable(conv)
    }
    ways["contiguous"] = (LOWERINGS["plain"], contiguous)
    with torch.no_grad():
        grad = torch.randn_like(conv(x))
    forward = take_turns(
        {way: (lambda f=f, x=x: f(x, conv)) for way, (f, x) in ways.items()},
        args,
        grad=False,
    )
    inputs = {way: x.clone().requires_grad_() for way, (_, x) in ways.items()}

    def train(way: str) -> Callable[[], object]:
        function, leaf = ways[way][0], inputs[way]
        seed = grad if way != "contiguous" else grad.contiguous()
        return lambda: torch.autograd.grad(
            function(leaf, conv), [leaf, conv.weight], seed
        )

    both = take_turns({way: train(way) for way in ways}, args, grad=True)
    with torch.no_grad():
        chosen_forward = choose_lowering(conv, x)
    return dict(
        name=name,
        conv=f"{in_channels}->{out_channels} k{'x'.join(map(str, kernel))} "
        f"s{'x'.join(map(str, stride))} at {frames}x{size}x{size}",
        forward_ms=forward,
        forward_backward_ms=both,
        chosen_forward=chosen_forward,
        chosen_forward_backward=choose_lowering(conv, x.requires_grad_()),
    )


def take_turns(
    runs: dict[str, Callable[[], object]], args: argparse.Namespace, grad: bool
) -> dict[str, float]:
    """Median milliseconds of each run; the first of all rounds warms up."""
    clock = Clock(args.device)
    times: dict[str, list[float]] = {name: [] for name in runs}
    with torch.set_grad_enabled(grad):
        for _ in range(args.rounds + 1):
            for name, run in runs.items():
                clock.mark()
                run()
                clock.mark()
                times[name] += clock.intervals()
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def report(rows: Sequence[dict]) -> None:
    ways = [*LOWERINGS, "contiguous"]
    for title, times, chosen in (
        ("forward", "forward_ms", "chosen_forward"),
        ("forward and backward", "forward_backward_ms", "chosen_forward_backward"),
    ):
        print(f"| {title}, ms | conv | {' | '.join(ways)} |")
        print(f"| --- | --- |{' ---: |' * len(ways)}")
        for row in rows:
            cells = [
                f"{row[times][way]:.2f}{'*' if way == row[chosen] else ''}"
                if way in row[times]
                else "-"
                for way in ways
            ]
            print(f"| {row['name']} | {row['conv']} | {' | '.join(cells)} |")
        losses = [
            row[times][row[chosen]]
            / min(ms for way, ms in row[times].items() if way != "contiguous")
            for row in rows
        ]
        print(
            f"\nThe choice takes {statistics.geometric_mean(losses):.2f} x the time of "
            f"the quickest (geometric mean), at most {max(losses):.2f} x.\n"
        )


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    console = Console(stderr=True)
    cases = SMALL_CASES if args.small else CASES
    bar = track(cases, "Cases", console=console, disable=not console.is_terminal)
    rows = [measure_case(case, args) for case in bar]
    report(rows)
    if args.out is not None:
        result = dict(
            command=" ".join(["python", "benchmarks/lowering.py", *sys.argv[1:]]),
            threads=args.threads,
            clock=Clock(args.device).kind,
            machine=machine_facts(args.device),
            rows=rows,
        )
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {args.out.name}")


if __name__ == "__main__":
    main()
