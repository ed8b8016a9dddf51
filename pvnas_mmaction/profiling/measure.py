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
then to be compared with the times of others.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import torch
from mmaction.models.heads import I3DHead
from torch import Tensor, nn

from ..models.blocks import ConvNormAct
from ..models.pvnas_net import PVNASNet
from ..models.supernet import PVNASSupernet
from ..space.cost import check_input_shape, layer_shapes
from ..space.latency_table import LatencyTable
from ..space.search_space import SearchSpace
from .timing import Clock, check_device, machine_facts, thread_count

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

T = TypeVar("T")
Track = Callable[[Sequence[T]], Iterable[T]]


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

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(
                f"dtype: found {self.dtype!r}, expected one of {', '.join(DTYPES)}"
            )
        for name in ("threads", "batch_size", "rounds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: found {value}, expected 1 or more")
        check_device(self.device)

    def setting(self) -> dict[str, Any]:
        """These fields, the clock, and the machine and versions they hold for."""
        with thread_count(self.threads):
            return dict(
                asdict(self),
                threads=torch.get_num_threads(),
                clock=Clock(self.device).kind,
                machine=machine_facts(self.device),
            )


def covering_networks(
    counts: Sequence[int], generator: random.Random
) -> Iterator[tuple[int, ...]]:
    """As few random networks as have every candidate of every layer once or more.

    Args:
        counts: Number of candidates of each layer.
        generator: Source of the order.
    """
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
    supernet = _prepare(PVNASSupernet(space.to_config()), config)
    head = _prepare(_head(space, num_classes), config)
    x = _input(shape, config)
    clock = Clock(config.device)
    generator = random.Random(config.seed)
    counts = [len(candidates) for candidates in space.candidates]
    # The first round warms up: kernels are compiled and memory is claimed.
    rounds = [list(covering_networks(counts, generator)) for _ in range(config.rounds)]
    warm_up = list(covering_networks(counts, generator))
    runs = [*warm_up, *(network for networks in rounds for network in networks)]
    shapes = layer_shapes(space.skeleton, shape)
    keys = [
        [
            (block, layer.in_channels, layer.out_channels, layer.stride, shapes[i])
            for block in candidates
        ]
        for i, (layer, candidates) in enumerate(
            zip(space.layers, space.candidates, strict=True)
        )
    ]
    readings: dict[Any, list[float]] = defaultdict(list)
    with torch.inference_mode(), thread_count(config.threads):
        for number, network in enumerate(track(runs)):
            times = _time_layers(supernet, head, x, network, clock)
            if number < len(warm_up):
                continue
            readings["stem"].append(times[0])
            readings["head"].append(times[-1])
            for row, index, milliseconds in zip(
                keys, network, times[1:-1], strict=True
            ):
                readings[row[index]].append(milliseconds)
    medians = {
        key: statistics.median(values) / config.batch_size
        for key, values in readings.items()
    }
    return LatencyTable(
        space=space.to_config(),
        input_shape=list(shape),
        fixed_ms=medians["stem"] + medians["head"],
        layer_ms=[[medians[key] for key in row] for row in keys],
        setting=config.setting(),
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

    Each network is built alone, as training and testing build it, and runs whole.

    Args:
        space: The search space.
        networks: Candidate index of each layer of each network.
        input_shape: (C, T, H, W) of one view.
        num_classes: Outputs of the head.
        config: How to measure.
        track: Wrapped around the sequence of runs, to show progress. Default: nothing.
    """
    modules = [
        nn.Sequential(
            _prepare(PVNASNet(space.genotype(indices)), config),
            _prepare(_head(space, num_classes), config),
        )
        for indices in networks
    ]
    return time_interleaved(modules, _input(input_shape, config), config, track)


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
    # scale * u + offset * v should be 1
    u = [row["predicted_ms"] / row["measured_ms"] for row in rows]
    v = [1 / row["measured_ms"] for row in rows]
    uu, uv, vv = (
        math.fsum(x * y for x, y in zip(a, b, strict=True))
        for a, b in ((u, u), (u, v), (v, v))
    )
    determinant = uu * vv - uv * uv
    scale, offset = math.fsum(u) / uu, 0.0
    if determinant > 1e-9 * uu * vv:
        slope = (vv * math.fsum(u) - uv * math.fsum(v)) / determinant
        shift = (uu * math.fsum(v) - uv * math.fsum(u)) / determinant
        if slope > 0 and slope * table.fixed_ms + shift >= 0:
            scale, offset = slope, shift
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
    errors = [row["predicted_ms"] / row["measured_ms"] - 1 for row in rows]
    absolute = sorted(abs(error) for error in errors)
    return dict(
        median_error=statistics.median(absolute),
        p90_error=absolute[-(-9 * len(absolute) // 10) - 1],
        max_error=absolute[-1],
        median_bias=statistics.median(errors),
    )


def time_interleaved(
    networks: Sequence[nn.Module],
    x: Tensor,
    config: MeasureConfig,
    track: Track = iter,
) -> list[float]:
    """Median milliseconds per view of a forward of each network, run in turn.

    Args:
        networks: Modules in evaluation mode.
        x: (N, C, T, H, W), what each of them takes.
        config: How to measure; the first of ``rounds + 1`` rounds warms up.
        track: Wrapped around the sequence of runs, to show progress. Default: nothing.
    """
    clock = Clock(config.device)
    generator = random.Random(config.seed)
    order = []
    for _ in range(config.rounds + 1):
        order += generator.sample(range(len(networks)), len(networks))
    readings: list[list[float]] = [[] for _ in networks]
    with torch.inference_mode(), thread_count(config.threads):
        for index in track(order):
            clock.mark()
            networks[index](x)
            clock.mark()
            readings[index] += clock.intervals()
    return [statistics.median(times[1:]) / len(x) for times in readings]


def _time_layers(
    supernet: PVNASSupernet,
    head: nn.Module,
    x: Tensor,
    network: Sequence[int],
    clock: Clock,
) -> list[float]:
    """Milliseconds of the stem, of each layer, and of last convolution with head."""
    clock.mark()
    x = supernet.stem(x.contiguous(memory_format=torch.channels_last_3d))
    clock.mark()
    for layer, index in zip(supernet.layers, network, strict=True):
        x = layer.ops[index](x)
        clock.mark()
    head(supernet.head(x))
    clock.mark()
    return clock.intervals()


def _head(space: SearchSpace, num_classes: int) -> nn.Module:
    return I3DHead(num_classes=num_classes, in_channels=space.skeleton.out_channels)


def _prepare(module: nn.Module, config: MeasureConfig) -> nn.Module:
    module.eval()
    if config.fold_bn:
        for part in module.modules():
            if isinstance(part, ConvNormAct):
                part.switch_to_deploy()
    return module.to(config.device, DTYPES[config.dtype])


def _input(shape: Sequence[int], config: MeasureConfig) -> Tensor:
    generator = torch.Generator().manual_seed(config.seed)
    x = torch.randn(config.batch_size, *shape, generator=generator)
    return x.to(config.device, DTYPES[config.dtype])
