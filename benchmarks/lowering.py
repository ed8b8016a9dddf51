"""Time every way to carry out the convolutions of the shipped spaces.

For each convolution: milliseconds of a forward, and of forward with backward, by each
lowering of ``models/lowering.py`` that applies, on channels-last input as in the
networks; and by PyTorch's own 3D convolution on contiguous input (`contiguous`). `*`
marks what ``choose_lowering`` takes. Lowerings run in turn; medians over the rounds.

    python benchmarks/lowering.py --threads 1
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.jobs import provenance
from benchmarks.supernet_step import milliseconds
from pvnas_mmaction.models.lowering import LOWERINGS, LoweredConv3d, choose_lowering
from pvnas_mmaction.profiling.clock import Clock, thread_count
from pvnas_mmaction.space.genotype import write_json

ROOT = Path(__file__).resolve().parent
# (name, in, out, groups, kernel, stride, T, H = W): places in networks of the project.
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


def applicable(conv: LoweredConv3d) -> list[str]:
    """Names of the lowerings that give this convolution's result."""
    names = ["plain"]
    if conv.kernel_size[0] == 1:
        return [*names, "folded"]
    if conv.kernel_size[1:] == (1, 1) and conv.stride[1:] == (1, 1):
        names.append("over_time")
    return [*names, "sum_of_folded"]


def measure_case(case: Sequence, rounds: int, device: str) -> dict[str, Any]:
    """Milliseconds of one convolution by every lowering."""
    name, in_channels, out_channels, groups, kernel, stride, frames, size = case
    torch.manual_seed(0)
    conv = LoweredConv3d(in_channels, out_channels, kernel, stride, groups).to(device)
    plain = torch.randn(1, in_channels, frames, size, size, device=device)
    x = plain.contiguous(memory_format=torch.channels_last_3d)
    ways = {way: (LOWERINGS[way], x) for way in applicable(conv)}
    ways["contiguous"] = (LOWERINGS["plain"], plain)
    with torch.no_grad():
        grad = torch.randn_like(conv(x))
        chosen_forward = choose_lowering(conv, x)

    def forward(way: str) -> Callable[[], object]:
        function, given = ways[way]
        return lambda: function(given, conv)

    def train(way: str) -> Callable[[], object]:
        function, given = ways[way]
        leaf = given.clone().requires_grad_()
        seed = grad.contiguous() if way == "contiguous" else grad
        return lambda: torch.autograd.grad(
            function(leaf, conv), [leaf, conv.weight], seed
        )

    with torch.no_grad():
        forward_ms = take_turns({w: forward(w) for w in ways}, rounds, device)
    return dict(
        name=name,
        conv=f"{in_channels}->{out_channels} k{'x'.join(map(str, kernel))} "
        f"s{'x'.join(map(str, stride))} at {frames}x{size}x{size}",
        forward_ms=forward_ms,
        forward_backward_ms=take_turns({w: train(w) for w in ways}, rounds, device),
        chosen_forward=chosen_forward,
        chosen_forward_backward=choose_lowering(conv, x.requires_grad_()),
    )


def take_turns(
    runs: dict[str, Callable[[], object]], rounds: int, device: str
) -> dict[str, float]:
    """Median milliseconds of each run; the first of all rounds warms up."""
    times = [milliseconds(list(runs.values()), device) for _ in range(rounds)]
    medians = map(statistics.median, zip(*times, strict=True))
    return dict(zip(runs, medians, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cases", type=int, help="only the first so many")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "lowering.json")
    args = parser.parse_args()
    with thread_count(args.threads):
        rows = [measure_case(c, args.rounds, args.device) for c in CASES[: args.cases]]
        clock = Clock(args.device).kind
    for row in rows:
        print(f"{row['name']}, {row['conv']}, forward and backward, ms:")
        for way, ms in row["forward_backward_ms"].items():
            print(f"  {way}{'*' * (way == row['chosen_forward_backward'])} {ms:.2f}")
    result = dict(
        provenance("benchmarks/lowering.py", args.device),
        threads=args.threads,
        clock=clock,
        rows=rows,
    )
    write_json(args.out, result)


if __name__ == "__main__":
    main()
