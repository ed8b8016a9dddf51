# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Measure latency tables, and how well they predict whole networks.

A block that runs alone in a loop keeps its input and its weights in the caches, and is
quicker than in a network. So whole networks run here, drawn such that every candidate
of every layer has its turn, and a clock is read between the layers. A candidate's time
is the median of its readings, which come from many moments of the run, so that the
load of other programs falls on all candidates alike. Layers of the same widths,
strides and input size share their readings.

Readings are skewed: now and then one is much longer. A sum of medians is therefore
shorter than the median of a sum, by some percent on an idle machine and up to a fifth
on a busy one. :func:`calibrate` scales a table to the times of whole networks; it is
then compared with the times of others.
"""

from __future__ import annotations

import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from mmaction.models.heads import I3DHead
from torch import nn

from ..models.blocks import ConvNormAct
from ..models.pvnas_net import PVNASNet
from ..models.supernet import PVNASSupernet
from ..space.checks import wrong
from ..space.cost import check_input_shape, layer_shapes
from ..space.latency_table import LatencyTable
from ..space.search_space import SearchSpace
from .clock import DTYPES, Clock, check_measurement, machine_facts, thread_count
from .onnx_parts import OnnxParts, start

T = TypeVar("T")
Track = Callable[[Sequence[T]], Iterable[T]]
Stage = Callable[[Any], Any]
BACKENDS = ("torch", "onnxruntime")


@dataclass(frozen=True)
class MeasureConfig:
    """How to measure.

    Args:
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``. Default ``"cpu"``.
        threads: Threads of one operation on the CPU. Default None: as PyTorch has it.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``. Default float32.
        batch_size: Views per forward; times are per view. Default 1.
        rounds: Readings of every candidate at every layer, at least. Default 10.
        fold_bn: Whether batch normalisation is folded into the convolutions, as
            ``switch_to_deploy`` does. Default False.
        seed: Seed of the networks that run. Default 0.
        backend: ``"torch"`` or, on a CPU in float32, ``"onnxruntime"``, with batch
            normalisation folded. Default ``"torch"``.

    Raises:
        ValueError: A field out of range; names it.
    """

    device: str = "cpu"
    threads: int | None = None
    dtype: str = "float32"
    batch_size: int = 1
    rounds: int = 10
    fold_bn: bool = False
    seed: int = 0
    backend: str = "torch"

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise wrong("backend", f"one of {BACKENDS}", repr(self.backend))
        if self.is_onnx and (self.device, self.dtype) != ("cpu", "float32"):
            got = f"{self.device} and {self.dtype}"
            raise wrong("backend onnxruntime", "cpu and float32", got)
        names = ("threads", "batch_size", "rounds")
        counts = {name: getattr(self, name) for name in names}
        check_measurement(self.device, self.dtype, counts)

    @property
    def is_onnx(self) -> bool:
        return self.backend == "onnxruntime"

    def setting(self) -> dict[str, Any]:
        """These fields, the clock, and the machine and versions they hold for."""
        with thread_count(self.threads):
            return dict(
                asdict(self),
                threads=torch.get_num_threads(),
                clock=Clock(self.device).kind,
                machine=machine_facts(self.device),
            )


def to_stage(module: nn.Module, config: MeasureConfig) -> Stage:
    """What is timed in place of a module that takes and gives a tensor."""
    module.eval()
    if config.fold_bn:
        for part in module.modules():
            if isinstance(part, ConvNormAct):
                part.switch_to_deploy()
    return module.to(config.device, DTYPES[config.dtype])


def time_stages(x: Any, stages: Sequence[Stage], clock: Clock) -> list[float]:
    """Milliseconds of each of several stages, each of which takes what the one before
    it gives."""
    clock.mark()
    for stage in stages:
        x = stage(x)
        clock.mark()
    return clock.intervals()


def covering_networks(
    counts: Sequence[int], generator: random.Random
) -> Iterator[tuple[int, ...]]:
    """As few random networks as have every candidate of every layer, of which
    ``counts`` says the numbers, once or more."""
    total = max(counts)
    columns = []
    for count in counts:
        rest = [generator.randrange(count) for _ in range(total - count)]
        column = [*range(count), *rest]
        generator.shuffle(column)
        columns.append(column)
    return zip(*columns, strict=True)


def measure_table(
    space: SearchSpace,
    input_shape: Sequence[int],
    num_classes: int,
    config: MeasureConfig,
    track: Track = iter,
) -> LatencyTable:
    """Measure every candidate of every layer.

    Args:
        space: The search space.
        input_shape: (C, T, H, W) of one view.
        num_classes: Outputs of the head.
        config: How to measure.
        track: Wrapped around the sequence of runs, to show progress. Default: nothing.
    """
    shape = check_input_shape(space.skeleton, input_shape)
    stem, ops, head = _stages(space, shape, num_classes, config)
    generator = random.Random(config.seed)
    counts = [len(candidates) for candidates in space.candidates]
    # One round more than is counted warms up: kernels are compiled and memory claimed.
    rounds = [covering_networks(counts, generator) for _ in range(config.rounds + 1)]
    runs = [network for networks in rounds for network in networks]
    shapes = layer_shapes(space.skeleton, shape)
    keys = [
        [
            (block, layer.in_channels, layer.out_channels, layer.stride, shapes[i])
            for block in space.candidates[i]
        ]
        for i, layer in enumerate(space.layers)
    ]
    x = random_views(shape, config)
    clock = Clock(config.device)
    readings: dict[Any, list[float]] = defaultdict(list)
    with torch.inference_mode(), thread_count(config.threads):
        for number, network in enumerate(track(runs)):
            chosen = [row[index] for row, index in zip(ops, network, strict=True)]
            times = time_stages(x, [stem, *chosen, head], clock)
            if number < max(counts):
                continue
            places = [row[index] for row, index in zip(keys, network, strict=True)]
            for key, ms in zip(["stem", *places, "head"], times, strict=True):
                readings[key].append(ms / config.batch_size)
    medians = {key: statistics.median(values) for key, values in readings.items()}
    return LatencyTable(
        space=space.to_config(),
        input_shape=list(shape),
        fixed_ms=medians["stem"] + medians["head"],
        layer_ms=[[medians[key] for key in row] for row in keys],
        setting=dict(config.setting(), num_classes=num_classes),
    )


def measure_networks(
    space: SearchSpace,
    networks: Sequence[Sequence[int]],
    input_shape: Sequence[int],
    num_classes: int,
    config: MeasureConfig,
    track: Track = iter,
) -> list[float]:
    """Measured milliseconds per view of derived networks, run in turn.

    Each network, given by its candidates' indices, is built alone, as training and
    testing build it, and runs whole; the rest is as in :func:`measure_table`.
    """
    stages: list[Stage] = []
    for indices in networks:
        if config.is_onnx:
            parts = _parts(space, input_shape, num_classes, config)
            stages.append(start(parts.network(indices), config.threads))
            continue
        backbone = PVNASNet(space.genotype(indices))
        whole = nn.Sequential(backbone, _head(space, num_classes))
        stages.append(to_stage(whole, config))
    return time_in_turn(stages, random_views(input_shape, config), config, track)


def time_in_turn(
    stages: Sequence[Stage], x: Any, config: MeasureConfig, track: Track = iter
) -> list[float]:
    """Median milliseconds per view of each stage, run in turn on one input ``x``,
    (N, C, T, H, W). The first of ``rounds + 1`` rounds warms up."""
    clock = Clock(config.device)
    generator = random.Random(config.seed)
    order = []
    for _ in range(config.rounds + 1):
        order += generator.sample(range(len(stages)), len(stages))
    readings: list[list[float]] = [[] for _ in stages]
    with torch.inference_mode(), thread_count(config.threads):
        for index in track(order):
            readings[index] += time_stages(x, [stages[index]], clock)
    return [statistics.median(times[1:]) / len(x) for times in readings]


def compare(
    table: LatencyTable, networks: Sequence[Sequence[int]], measured: Sequence[float]
) -> list[dict[str, Any]]:
    """Rows of ``indices``, ``predicted_ms`` and ``measured_ms``, one per network."""
    return [
        dict(indices=list(indices), predicted_ms=table.predict(indices), measured_ms=ms)
        for indices, ms in zip(networks, measured, strict=True)
    ]


def calibrate_and_check(
    table: LatencyTable,
    num_networks: int,
    num_classes: int,
    config: MeasureConfig,
    track: Track = iter,
) -> LatencyTable:
    """Fit a table to whole networks, and compare it with others.

    All of them are measured in turn, so that a load that comes and goes falls on those
    of the fit and those of the check alike.

    Args:
        table: The table as measured.
        num_networks: Random networks to fit, and as many others to check.
        num_classes: Outputs of the head.
        config: How to measure; as the table was.
        track: Wrapped around the sequence of runs, to show progress. Default: nothing.

    Returns:
        The table of :func:`calibrate`, whose ``setting["check"]`` holds ``networks``,
        the rows of :func:`compare`, and :func:`prediction_errors` of them.
    """
    space = SearchSpace.from_config(table.space)
    generator = random.Random(config.seed + 1)
    networks = [
        tuple(generator.randrange(len(c)) for c in space.candidates)
        for _ in range(2 * num_networks)
    ]
    measured = measure_networks(
        space, networks, table.input_shape, num_classes, config, track
    )
    fitted, others = slice(num_networks), slice(num_networks, None)
    table = calibrate(table, compare(table, networks[fitted], measured[fitted]))
    rows = compare(table, networks[others], measured[others])
    check = dict(prediction_errors(rows), networks=rows)
    return replace(table, setting=dict(table.setting, check=check))


def calibrate(table: LatencyTable, rows: Sequence[dict[str, Any]]) -> LatencyTable:
    """The table under the line scale * prediction + offset that fits measured networks.

    The fit is by least squares of the relative error. Where the line would make the
    fixed part negative, it goes through the origin.

    Args:
        table: The table as measured.
        rows: What :func:`compare` gave; two or more.

    Returns:
        A table whose ``setting["calibration"]`` holds ``scale``, ``offset_ms`` and
        ``networks``, the rows.
    """
    predicted = np.array([row["predicted_ms"] for row in rows])
    measured = np.array([row["measured_ms"] for row in rows])
    # scale * predicted / measured + offset / measured should be 1.
    terms = np.stack([predicted / measured, 1 / measured], axis=1)
    ones = np.ones(len(rows))
    (scale, offset), _, rank, _ = np.linalg.lstsq(terms, ones, rcond=1e-9)
    if rank < 2 or scale <= 0 or scale * table.fixed_ms + offset < 0:
        (scale,), offset = np.linalg.lstsq(terms[:, :1], ones)[0], 0.0
    scale, offset = float(scale), float(offset)
    calibration = dict(scale=scale, offset_ms=offset, networks=list(rows))
    return replace(
        table,
        fixed_ms=scale * table.fixed_ms + offset,
        layer_ms=[[scale * ms for ms in row] for row in table.layer_ms],
        setting=dict(table.setting, calibration=calibration),
    )


def prediction_errors(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Distribution of (predicted - measured) / measured over networks.

    Returns:
        ``median_error``, ``p90_error`` and ``max_error`` of the absolute error, and
        ``median_bias``, the median with its sign. All are shares.
    """
    errors = np.array([row["predicted_ms"] / row["measured_ms"] - 1 for row in rows])
    p90 = np.percentile(abs(errors), 90, method="inverted_cdf")
    return dict(
        median_error=float(np.median(abs(errors))),
        p90_error=float(p90),
        max_error=float(abs(errors).max()),
        median_bias=float(np.median(errors)),
    )


def random_views(shape: Sequence[int], config: MeasureConfig) -> Any:
    """Normally distributed views of (C, T, H, W), as many as a forward takes, as the
    backend takes them."""
    generator = torch.Generator().manual_seed(config.seed)
    x = torch.randn(config.batch_size, *shape, generator=generator)
    if config.is_onnx:
        return x.numpy()
    x = x.to(config.device, DTYPES[config.dtype])
    return x.contiguous(memory_format=torch.channels_last_3d)


def _stages(
    space: SearchSpace, shape: Sequence[int], num_classes: int, config: MeasureConfig
) -> tuple[Stage, list[list[Stage]], Stage]:
    """Stem, the candidates of each layer, and head."""
    if config.is_onnx:
        parts = _parts(space, shape, num_classes, config)
        rows = [[start(g, config.threads) for g in row] for row in parts.layers]
        ends = [start(graph, config.threads) for graph in (parts.stem, parts.head)]
        return ends[0], rows, ends[1]
    supernet = PVNASSupernet(space.to_config())
    ops = [[to_stage(op, config) for op in layer.ops] for layer in supernet.layers]
    head = nn.Sequential(supernet.head, _head(space, num_classes))
    return to_stage(supernet.stem, config), ops, to_stage(head, config)


@cache
def _cached_parts(
    space: SearchSpace, shape: tuple[int, ...], num_classes: int, batch_size: int
) -> OnnxParts:
    supernet = PVNASSupernet(space.to_config()).eval()
    head = _head(space, num_classes).eval()
    return OnnxParts(supernet, head, (batch_size, *shape))


def _parts(
    space: SearchSpace, shape: Sequence[int], num_classes: int, config: MeasureConfig
) -> OnnxParts:
    """Exported once for the table and its check."""
    return _cached_parts(space, tuple(shape), num_classes, config.batch_size)


def _head(space: SearchSpace, num_classes: int) -> nn.Module:
    return I3DHead(num_classes=num_classes, in_channels=space.skeleton.out_channels)
