"""Measure latency tables, and how well they predict whole networks.

A block that runs alone in a loop keeps its input and its weights in the caches, and is
quicker than in a network. So whole networks run here, and a clock is read between the
layers. Layers of the same kind and input size share their readings.
"""

import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from mmaction.models.heads import I3DHead
from torch import nn

from ..models.blocks import fold_batch_norm
from ..models.pvnas_net import PVNASNet
from ..models.supernet import PVNASSupernet
from ..space.checks import COUNT, check, wrong
from ..space.cost import check_input_shape, layer_shapes
from ..space.latency_table import LatencyTable
from ..space.search_space import SearchSpace
from .clock import Clock, check_device, machine_facts, thread_count
from .onnx_parts import OnnxParts, start

Track = Callable[[Sequence], Iterable]
Stage = Callable[[Any], Any]
BACKENDS = ("torch", "onnxruntime")
NUM_PASSES = 3


class Networks:
    """The networks of a space as functions that can be timed, whole or in pieces:
    ``stem``, candidates of ``layers``, and ``head``, on ``view``, (1, C, T, H, W).

    One view at a time, batch normalisation folded, in float32. Threads None: as PyTorch
    has it; ``"onnxruntime"`` runs on a CPU alone.
    """

    def __init__(
        self,
        space: SearchSpace,
        input_shape: Sequence[int],
        num_classes: int,
        device: str = "cpu",
        threads: int | None = None,
        rounds: int = 16,
        backend: str = "torch",
    ) -> None:
        self.backend, self.is_onnx = backend, backend == "onnxruntime"
        if self.is_onnx and device != "cpu":
            raise wrong("backend onnxruntime", "device cpu", device)
        check_device(device)
        check("rounds", rounds, COUNT)
        if threads is not None:
            check("threads", threads, COUNT)
        self.device, self.threads, self.rounds = device, threads, rounds
        self.space, self.num_classes = space, num_classes
        self.shape = check_input_shape(space.skeleton, input_shape)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(1, *self.shape, generator=generator)
        supernet = PVNASSupernet(space.to_config())
        parts: Any = supernet
        head: Any = nn.Sequential(supernet.head, self._classes())
        rows: Any = [layer.ops for layer in supernet.layers]
        if self.is_onnx:
            self.view: Any = x.numpy()
            parts = self._graphs = OnnxParts(supernet.eval(), head.eval(), x.shape)
            head, rows = parts.head, parts.layers
        else:
            x = x.to(device)
            self.view = x.contiguous(memory_format=torch.channels_last_3d)
        self.layers = [[self._stage(op) for op in row] for row in rows]
        self.stem, self.head = self._stage(parts.stem), self._stage(head)

    def setting(self) -> dict[str, Any]:
        """How times are measured, for the file of a table."""
        with thread_count(self.threads):
            return dict(
                device=self.device,
                threads=torch.get_num_threads(),
                rounds=self.rounds,
                backend=self.backend,
                num_classes=self.num_classes,
                clock=Clock(self.device).kind,
                machine=machine_facts(self.device),
            )

    def whole(self, indices: Sequence[int]) -> Stage:
        if self.is_onnx:
            return self._stage(self._graphs.network(indices))
        backbone = PVNASNet(self.space.genotype(indices))
        return self._stage(nn.Sequential(backbone, self._classes()))

    def _classes(self) -> nn.Module:
        channels = self.space.skeleton.out_channels
        return I3DHead(num_classes=self.num_classes, in_channels=channels)

    def _stage(self, part: Any) -> Stage:
        if self.is_onnx:
            return start(part, self.threads)
        return fold_batch_norm(part.eval()).to(self.device)

    def time(
        self, runs: Sequence[Sequence[Stage]], track: Track = iter
    ) -> Iterator[list[float]]:
        clock = Clock(self.device)
        with torch.inference_mode(), thread_count(self.threads):
            for stages in track(runs):
                x = self.view
                clock.mark()
                for stage in stages:
                    x = stage(x)
                    clock.mark()
                yield clock.intervals()


def covering_networks(
    counts: Sequence[int], generator: random.Random
) -> Iterator[tuple[int, ...]]:
    """As few random networks as have every candidate of every layer."""
    columns = []
    for count in counts:
        rest = generator.choices(range(count), k=max(counts) - count)
        columns.append(generator.sample([*range(count), *rest], max(counts)))
    return zip(*columns, strict=True)


def measure_table(networks: Networks, track: Track = iter) -> LatencyTable:
    """Measure every candidate of every layer; ``track`` shows progress."""
    space, generator = networks.space, random.Random(0)
    counts = [len(candidates) for candidates in space.candidates]
    # One round more than is counted warms up: kernels are compiled and memory claimed.
    rounds = [covering_networks(counts, generator) for _ in range(networks.rounds + 1)]
    chosen = [network for drawn in rounds for network in drawn]
    shapes = layer_shapes(space.skeleton, networks.shape)
    kinds = [
        (layer.in_channels, layer.out_channels, layer.stride, shapes[layer.index])
        for layer in space.layers
    ]
    alike = zip(space.candidates, kinds, strict=True)
    keys = [[(block, kind) for block in blocks] for blocks, kind in alike]

    def picked(rows: Sequence[Sequence[Any]], indices: Sequence[int]) -> list[Any]:
        return [row[index] for row, index in zip(rows, indices, strict=True)]

    stem, head, layers = networks.stem, networks.head, networks.layers
    runs = [[stem, *picked(layers, indices), head] for indices in chosen]
    places = [["stem", *picked(keys, indices), "head"] for indices in chosen]
    times = networks.time(runs, track)
    pairs = [[*zip(*pair, strict=True)] for pair in zip(places, times, strict=True)]
    medians = steady_medians(pairs[max(counts) :])
    return LatencyTable(
        space=space.to_config(),
        input_shape=list(networks.shape),
        fixed_ms=medians["stem"] + medians["head"],
        layer_ms=[[medians[key] for key in row] for row in keys],
        setting=networks.setting(),
    )


def measure_networks(
    networks: Networks,
    chosen: Sequence[Sequence[int]],
    generator: random.Random,
    track: Track = iter,
) -> list[float]:
    """Median milliseconds of whole networks, in another order in each round; the first
    round warms up."""
    stages = [networks.whole(indices) for indices in chosen]
    places = [*range(len(stages))]
    rounds = networks.rounds + 1
    order = [i for _ in range(rounds) for i in generator.sample(places, len(places))]
    times = networks.time([[stages[index]] for index in order], track)
    pairs = [(index, ms) for index, (ms,) in zip(order, times, strict=True)]
    moments = [pairs[i : i + len(stages)] for i in range(0, len(pairs), len(stages))]
    medians = steady_medians(moments[1:])
    return [medians[index] for index in places]


def steady_medians(moments: Sequence[Sequence[tuple[Any, float]]]) -> dict[Any, float]:
    """Median milliseconds of each thing that was timed, as if the machine had been
    equally fast in all moments. How slow a moment was is the median of its readings,
    each as a share of the median of the same thing."""
    slowness, medians = [1.0] * len(moments), {}
    for _ in range(NUM_PASSES):
        readings = defaultdict(list)
        for moment, factor in zip(moments, slowness, strict=True):
            for key, ms in moment:
                readings[key].append(ms / factor)
        medians = {key: statistics.median(values) for key, values in readings.items()}
        slowness = [
            statistics.median(ms / medians[key] for key, ms in moment)
            for moment in moments
        ]
    return medians
