#!/usr/bin/env python
"""Memory and time of one step of a search, next to one derived network; how often a
step waits for the device, and what it spends in Python (``step_overhead.py``).

For each relaxation: bytes saved for the backward pass (every storage once, parameters
and buffers left out; the count does not depend on the machine), and time of a step,
optimiser included. The derived network next to it runs the same path and takes a
training step. Where a relaxation runs two candidates, it is compared with the mean of
the two networks that take the first and the second candidate of every layer; where it
runs all of them, with the network of a path drawn at random. Ratios are medians over
several paths; times of a ratio are taken in turn.

    python benchmarks/supernet_step.py --threads 1
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from mmaction.registry import MODELS
from mmaction.structures import ActionDataSample
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from benchmarks import step_overhead
from benchmarks.jobs import provenance
from pvnas_mmaction.apis.cli import run
from pvnas_mmaction.models.blocks import init_weights
from pvnas_mmaction.models.relaxation import Choice
from pvnas_mmaction.profiling.clock import Clock, thread_count
from pvnas_mmaction.search.steps import Steps
from pvnas_mmaction.space.genotype import write_json
from pvnas_mmaction.space.search_space import SearchSpace

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "configs" / "pvnas" / "_base_"
CONFIGS = ["pvnas-l_search_8xb8-8x8x1-10e_kinetics400-rgb.py"]
NUM_CLASSES = 400
# (step, relaxation): an alpha step needs a gradient to the alphas, uniform gives none.
STEPS = (
    ("weights", "uniform"),
    ("weights", "gumbel_st"),
    ("alpha", "gumbel_st"),
    ("alpha", "two_path"),
    ("alpha", "softmax"),
    ("weights", "softmax"),
)


class Bench:
    """A supernet with its optimisers, and derived networks next to it.

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
        backbone = dict(type="PVNASSupernet", space=self.space.to_config())
        self.model = self._build(backbone)
        self.supernet = self.model.backbone
        schedule = Config.fromfile(BASE / "schedules" / "search.py")
        wrappers = build_optim_wrapper(self.model, schedule.optim_wrapper)
        self.steps = Steps(self.model, wrappers["weights"], wrappers["alphas"])
        self.steps.owners = self.supernet.share_weights()
        self.plain_cfg = schedule.optim_wrapper.weights

    def _build(self, backbone: dict[str, Any]) -> nn.Module:
        channels = self.space.skeleton.out_channels
        head = dict(
            self.model_cfg["cls_head"], in_channels=channels, num_classes=NUM_CLASSES
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
        shape = (size, 1, 3, *self.input_shape)
        clips = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
        samples = [ActionDataSample().set_gt_label(i) for i in range(size)]
        return dict(inputs=list(clips), data_samples=samples)

    def path(self, relaxation: str, seed: int) -> tuple[Choice, ...]:
        """A path drawn at alphas of 0."""
        return self.supernet.sample(relaxation, torch.Generator().manual_seed(seed))

    def networks_of(self, relaxation: str, seed: int) -> list[tuple[int, ...]]:
        """The derived networks that a path is compared with."""
        path = self.path(relaxation, seed)
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
        # Drawn within the step: its weights are part of the step's graph.
        if kind == "alpha":
            return lambda: self.steps.alpha_step(batch, self.path(relaxation, seed))

        def weights_step() -> None:
            with torch.no_grad():
                path = self.path(relaxation, seed)
            self.steps.weights_step(batch, path)

        return weights_step


def saved_bytes(model: nn.Module, step: Callable[[], Any]) -> int:
    """Bytes of the storages that a step saves for its backward pass, each once, without
    those of parameters and buffers."""
    tensors = (*model.parameters(), *model.buffers())
    own = {tensor.untyped_storage().data_ptr() for tensor in tensors}
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


def milliseconds(runs: Sequence[Callable[[], Any]], device: str) -> list[float]:
    """Time of each run, after one run of all that is not timed."""
    clock = Clock(device)
    for run_once in (*runs, clock.mark):
        run_once()
    for run_once in runs:
        run_once()
        clock.mark()
    return clock.intervals()


def compare(
    bench: Bench,
    kind: str,
    relaxation: str,
    seeds: Sequence[int],
    batch_size: int = 1,
    timed: bool = True,
) -> dict[str, float]:
    """Memory per clip and time of a step, next to those of the derived networks.

    Args:
        bench: The supernet.
        kind: ``"weights"`` or ``"alpha"``.
        relaxation: Name of the relaxation.
        seeds: Of the paths.
        batch_size: Clips of a step that is timed.
        timed: Whether times are taken. Default True.
    """
    one, batch = bench.batch(1), bench.batch(batch_size)
    saved, times = [], []
    for seed in seeds:
        step = bench.search_step(kind, relaxation, seed, one)
        found = [saved_bytes(bench.model, step)]
        runs = [bench.search_step(kind, relaxation, seed, batch)]
        for indices in bench.networks_of(relaxation, seed):
            model, wrapper = bench.derived(indices)

            def train(data: dict, model=model, wrapper=wrapper) -> None:
                model.train_step(data, wrapper)

            found.append(saved_bytes(model, lambda train=train: train(one)))
            runs.append(lambda train=train: train(batch))
        saved.append((found[0], statistics.fmean(found[1:])))
        if timed:
            ms = milliseconds(runs, bench.device)
            times.append((ms[0], statistics.fmean(ms[1:])))
    ratios = [step / plain for step, plain in saved]
    row = dict(
        saved_bytes_per_clip=statistics.median(step for step, _ in saved),
        saved_ratio=statistics.median(ratios),
        saved_ratio_max=max(ratios),
    )
    if timed:
        row |= dict(
            batch_size=batch_size,
            step_ms=statistics.median(step for step, _ in times),
            time_ratio=statistics.median(step / plain for step, plain in times),
        )
    return row


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--space", default="lite0", help="default: lite0")
    add("--input-shape", type=int, nargs=3, default=(8, 112, 112))
    add("--batch-size", type=int, default=8, help="of time; 1 where all candidates run")
    add("--paths", type=int, default=3)
    add("--configs", nargs="*", default=CONFIGS, help="of searches, for the overhead")
    add("--threads", type=int, default=1)
    add("--device", default="cpu")
    add("--out", type=Path, default=ROOT / "benchmarks/results/supernet_step.json")
    args = parser.parse_args(argv)
    rows = []
    with thread_count(args.threads):
        bench = Bench(args.space, args.input_shape, args.device)
        for kind, relaxation in STEPS:
            # All candidates run whatever is drawn: one path will do.
            everything = relaxation == "softmax"
            seeds, size = range(args.paths), args.batch_size
            if everything:
                seeds, size = range(1), 1
            row = compare(bench, kind, relaxation, seeds, size)
            rows.append(dict(step=kind, relaxation=relaxation, **row))
            print(kind, relaxation, {k: round(v, 2) for k, v in row.items()})
        clock = Clock(args.device).kind
        overhead = [step_overhead.measure(name) for name in args.configs]
    for row in overhead:
        print(row)
    result = dict(
        provenance("benchmarks/supernet_step.py", args.device),
        space=args.space,
        input_shape=[3, *args.input_shape],
        threads=args.threads,
        clock=clock,
        rows=rows,
        overhead=overhead,
    )
    write_json(args.out, result)


if __name__ == "__main__":
    run(main)
