# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Memory and time of one step of a search, next to one derived network.

For each relaxation:

- bytes saved for the backward pass, counted with
  ``torch.autograd.graph.saved_tensors_hooks``: every storage once, parameters and
  buffers left out. The count does not depend on the machine. It is taken at batch size
  1 and is proportional to the batch size but for some statistics of batch
  normalisation; `saved_mib` is the count times the batch size;
- peak memory of the process that takes the step, in a process of its own;
- time of a weights step and of an alpha step, optimiser included.

The derived network beside it runs the same path and takes a training step of its own.
Where a relaxation runs two candidates, it is compared with the mean of the two networks
that take the first and the second candidate of every layer; where it runs all of them,
with the network of a path drawn at random. Ratios are medians over several paths;
times of a ratio are taken in turn in one process.

    python benchmarks/supernet_step.py --threads 1
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmaction.registry import MODELS
from mmaction.structures import ActionDataSample
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from pvnas_mmaction.models.blocks import init_weights
from pvnas_mmaction.models.relaxation import Choice
from pvnas_mmaction.profiling.clock import Clock, machine_facts
from pvnas_mmaction.search.steps import alpha_step, weights_step
from pvnas_mmaction.space.search_space import SearchSpace

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "configs" / "pvnas" / "_base_"
NUM_CLASSES = 400
# (step, relaxation): an alpha step needs a gradient to the alphas, uniform gives none.
STEPS = (
    ("weights", "uniform"),
    ("weights", "gumbel_st"),
    ("alpha", "gumbel_st"),
    ("alpha", "two_path"),
    ("alpha", "softmax"),
    ("alpha", "gumbel"),
    ("weights", "softmax"),
)
RUNS_ALL = ("softmax", "gumbel")
REQUIRED = {
    ("weights", "gumbel_st"): dict(saved=1.15, time=1.2),
    ("weights", "uniform"): dict(saved=1.15, time=1.2),
    ("alpha", "two_path"): dict(saved=2.2, time=2.4),
}
Path_ = tuple[Choice, ...]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--space", default="light", help="default: light")
    parser.add_argument(
        "--input-shape",
        type=int,
        nargs=3,
        metavar=("T", "H", "W"),
        default=(8, 112, 112),
    )
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument(
        "--batch-size-all",
        type=int,
        default=1,
        help="of time and peak memory where all candidates run; default: 1",
    )
    parser.add_argument("--paths", type=int, default=5, help="whose bytes are counted")
    parser.add_argument("--rounds", type=int, default=3, help="paths that are timed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--small", action="store_true", help="a quick trial")
    parser.add_argument("--out", type=Path, help="default: results/supernet_step.json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.small:
        args.input_shape, args.batch_size = (4, 32, 32), 2
        args.paths = args.rounds = 2
    if args.out is None and not args.small:
        args.out = ROOT / "benchmarks" / "results" / "supernet_step.json"
    return args


class Bench:
    """A supernet with its optimisers, and derived networks beside it.

    Args:
        space: Name of a space.
        input_shape: (T, H, W) of a clip.
        device: Where everything runs.
    """

    def __init__(
        self, space: str, input_shape: Sequence[int], device: str = "cpu"
    ) -> None:
        init_default_scope("mmaction")
        self.space = SearchSpace.from_config(
            Config.fromfile(BASE / "spaces" / f"{space}.py").space
        )
        self.model_cfg = Config.fromfile(BASE / "models" / "search.py").model.to_dict()
        self.input_shape = tuple(input_shape)
        self.device = device
        self.model = self._build(
            dict(type="PVNASSupernet", space=self.space.to_config())
        )
        self.supernet = self.model.backbone
        schedule = Config.fromfile(BASE / "schedules" / "search.py")
        self.wrappers = build_optim_wrapper(self.model, schedule.optim_wrapper)
        self.plain_cfg = schedule.optim_wrapper.weights

    def _build(self, backbone: dict[str, Any]) -> nn.Module:
        head = dict(
            self.model_cfg["cls_head"],
            in_channels=self.space.skeleton.out_channels,
            num_classes=NUM_CLASSES,
        )
        model = MODELS.build(dict(self.model_cfg, backbone=backbone, cls_head=head))
        init_weights(model)
        return model.to(self.device).train()

    def derived(self, indices: Sequence[int]) -> tuple[nn.Module, OptimWrapper]:
        """The recognizer of one network, with an optimiser like the supernet's."""
        genotype = json.loads(self.space.genotype(indices).to_json())
        model = self._build(dict(type="PVNASNet", genotype=genotype))
        return model, build_optim_wrapper(model, self.plain_cfg)

    def batch(self, size: int) -> dict[str, Any]:
        """Random clips with random labels."""
        generator = torch.Generator().manual_seed(0)
        clips = torch.randint(
            0, 256, (size, 1, 3, *self.input_shape), generator=generator
        )
        return dict(
            inputs=list(clips.to(torch.uint8)),
            data_samples=[ActionDataSample().set_gt_label(i) for i in range(size)],
        )

    def path(self, relaxation: str, seed: int) -> Path_:
        """A path drawn at alphas of 0."""
        return self.supernet.sample(relaxation, torch.Generator().manual_seed(seed))

    def networks_of(self, path: Path_, seed: int) -> list[tuple[int, ...]]:
        """The derived networks that a path is compared with."""
        if max(len(choice.indices) for choice in path) > 2:
            path = self.path("uniform", seed)
        width = max(len(choice.indices) for choice in path)
        return [
            tuple(choice.indices[min(k, len(choice.indices) - 1)] for choice in path)
            for k in range(width)
        ]

    def search_step(
        self, kind: str, relaxation: str, seed: int, batch: dict
    ) -> Callable[[], Any]:
        """A weights step or an alpha step on the path of a seed."""
        step = dict(weights=weights_step, alpha=alpha_step)[kind]
        wrapper = self.wrappers[dict(weights="weights", alpha="alphas")[kind]]
        # Drawn within the step: its weights are part of the step's graph.
        return lambda: step(
            self.model, self.supernet, batch, self.path(relaxation, seed), wrapper
        )


def saved_bytes(model: nn.Module, step: Callable[[], Any]) -> int:
    """Bytes of the storages that a step saves for its backward pass, each once, without
    those of parameters and buffers."""
    own = {
        tensor.untyped_storage().data_ptr()
        for tensor in (*model.parameters(), *model.buffers())
    }
    # Storages are kept, so that none takes the address of an earlier one.
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(storage.nbytes() for storage in saved.values())


def count_saved(bench: Bench, kind: str, relaxation: str, seeds: Sequence[int]) -> dict:
    """Saved bytes of a step per clip, next to those of the derived networks."""
    batch = bench.batch(1)
    steps, plains = [], []
    for seed in seeds:
        path = bench.path(relaxation, seed)
        steps.append(
            saved_bytes(bench.model, bench.search_step(kind, relaxation, seed, batch))
        )
        alone = []
        for indices in bench.networks_of(path, seed):
            model, wrapper = bench.derived(indices)
            alone.append(
                saved_bytes(model, lambda m=model, w=wrapper: m.train_step(batch, w))
            )
        plains.append(statistics.mean(alone))
    ratios = [step / plain for step, plain in zip(steps, plains, strict=True)]
    return dict(
        saved_bytes_per_clip=statistics.median(steps),
        derived_saved_bytes_per_clip=statistics.median(plains),
        saved_ratio=statistics.median(ratios),
        saved_ratio_max=max(ratios),
    )


def time_steps(
    bench: Bench, kind: str, relaxation: str, seeds: Sequence[int], batch_size: int
) -> dict:
    """Milliseconds of a step and of a training step of the derived networks, in turn,
    each after one step that is not timed."""
    batch = bench.batch(batch_size)
    clock = Clock(bench.device)
    steps, plains = [], []
    for seed in seeds:
        path = bench.path(relaxation, seed)
        runs = [bench.search_step(kind, relaxation, seed, batch)]
        for indices in bench.networks_of(path, seed):
            model, wrapper = bench.derived(indices)
            runs.append(lambda m=model, w=wrapper: m.train_step(batch, w))
        for run in runs:
            run()
        times = []
        for run in runs:
            clock.mark()
            run()
            clock.mark()
            times += clock.intervals()
        steps.append(times[0])
        plains.append(statistics.mean(times[1:]))
    ratios = [step / plain for step, plain in zip(steps, plains, strict=True)]
    return dict(
        batch_size=batch_size,
        step_ms=statistics.median(steps),
        derived_step_ms=statistics.median(plains),
        time_ratio=statistics.median(ratios),
    )


def peak_memory(args: argparse.Namespace, kind: str, relaxation: str) -> dict:
    """Peak memory of one step, in a process of its own."""
    batch_size = args.batch_size_all if relaxation in RUNS_ALL else args.batch_size
    job = dict(kind=kind, relaxation=relaxation, batch_size=batch_size)
    command = [sys.executable, "-W", "ignore", __file__, "--worker", json.dumps(job)]
    command += ["--space", args.space, "--device", args.device]
    command += ["--threads", str(args.threads)]
    command += ["--input-shape", *map(str, args.input_shape)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def work(args: argparse.Namespace) -> None:
    """Take two steps and print the memory they needed."""
    job = json.loads(args.worker)
    bench = Bench(args.space, args.input_shape, args.device)
    batch = bench.batch(job["batch_size"])
    path = bench.path(job["relaxation"], 0)
    if job["kind"] == "derived":
        model, wrapper = bench.derived(bench.networks_of(path, 0)[0])
        del bench.model, bench.supernet, bench.wrappers

        def step() -> None:
            model.train_step(batch, wrapper)
    else:
        step = bench.search_step(job["kind"], job["relaxation"], 0, batch)
    before = memory(args.device)
    for _ in range(2):
        step()
    peak = memory(args.device, peak=True)
    print(json.dumps(dict(peak_bytes=peak, peak_bytes_of_step=peak - before)))


def memory(device: str, peak: bool = False) -> int:
    """Bytes in use now, or at the most so far: on the GPU, or of this process.

    Not getrusage: its maximum starts from that of the process which started this one.
    """
    if torch.device(device).type == "cuda":
        return (
            torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
        )
    field = "VmHWM:" if peak else "VmRSS:"
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def requirements(rows: Sequence[dict]) -> list[dict]:
    """What is required, what was found, and whether it is met."""
    found = []
    for row in rows:
        limits = REQUIRED.get((row["step"], row["relaxation"]), {})
        for name, limit in limits.items():
            value = row["saved_ratio_max" if name == "saved" else "time_ratio"]
            found.append(
                dict(
                    step=row["step"],
                    relaxation=row["relaxation"],
                    ratio=name,
                    limit=limit,
                    found=value,
                    met=value <= limit,
                )
            )
    return found


def run(args: argparse.Namespace) -> dict:
    """All rows."""
    console = Console(stderr=True)
    bench = Bench(args.space, args.input_shape, args.device)
    rows = []
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("Steps", total=3 * len(STEPS))
        for kind, relaxation in STEPS:
            runs_all = relaxation in RUNS_ALL
            row = dict(step=kind, relaxation=relaxation)
            # All candidates run whatever is drawn: few paths will do.
            paths, rounds = (1, 1) if runs_all else (args.paths, args.rounds)
            row |= count_saved(bench, kind, relaxation, range(paths))
            row["saved_mib"] = row["saved_bytes_per_clip"] * args.batch_size / 2**20
            progress.advance(task)
            batch_size = args.batch_size_all if runs_all else args.batch_size
            row |= time_steps(bench, kind, relaxation, range(rounds), batch_size)
            progress.advance(task)
            row |= peak_memory(args, kind, relaxation)
            progress.advance(task)
            rows.append(row)
    saved = {(row["step"], row["relaxation"]): row["saved_mib"] for row in rows}
    return dict(
        command=" ".join(["python", "benchmarks/supernet_step.py", *sys.argv[1:]]),
        space=args.space,
        input_shape=[3, *args.input_shape],
        batch_size=args.batch_size,
        threads=args.threads,
        clock=Clock(args.device).kind,
        machine=machine_facts(args.device),
        rows=rows,
        derived_peak=peak_memory(args, "derived", "uniform"),
        gained=dict(
            saved_softmax_over_two_path=saved["alpha", "softmax"]
            / saved["alpha", "two_path"],
            saved_softmax_over_gumbel_st=saved["weights", "softmax"]
            / saved["weights", "gumbel_st"],
        ),
        requirements=requirements(rows),
    )


def report(result: dict) -> None:
    print(
        f"space {result['space']!r}, input {'x'.join(map(str, result['input_shape']))},"
        f" batch size {result['batch_size']}, {result['threads']} thread(s), "
        f"{result['clock']}; ratios are to one derived network"
    )
    print()
    print(
        "| step | relaxation | saved MiB | ratio (max) | time ms (batch) | ratio | "
        "peak MiB of the step (batch) |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for row in result["rows"]:
        print(
            f"| {row['step']} | `{row['relaxation']}` | {row['saved_mib']:.0f} | "
            f"{row['saved_ratio']:.2f} ({row['saved_ratio_max']:.2f}) | "
            f"{row['step_ms']:.0f} ({row['batch_size']}) | {row['time_ratio']:.2f} | "
            f"{row['peak_bytes_of_step'] / 2**20:.0f} ({row['batch_size']}) |"
        )
    print()
    for item in result["requirements"]:
        print(
            f"{item['step']} step, {item['relaxation']}, {item['ratio']}: "
            f"{item['found']:.3f}, required at most {item['limit']}: "
            f"{'met' if item['met'] else 'MISSED'}"
        )
    for name, value in result["gained"].items():
        print(f"{name}: {value:.1f}")


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    if args.worker is not None:
        work(args)
        return
    result = run(args)
    report(result)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {args.out.name}")


if __name__ == "__main__":
    main()
