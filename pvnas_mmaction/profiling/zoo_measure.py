# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Latency, throughput and peak memory of several models in one process.

Times of a shared machine drift. So the models take turns: every round measures each of
them for a moment, and what is reported are medians over all rounds, and ratios to a
baseline of the same round. Peak memory is measured in a process per model and kind.
"""

from __future__ import annotations

import copy
import gc
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..apis.model_checks import check_one_network
from .measure import DTYPES
from .timing import Clock, check_device
from .zoo import (
    Entry,
    View,
    build_recognizer,
    count_macs,
    count_params,
    fold_batch_norm,
    logits,
    read_config,
    settle_batch_norm,
    to_channels_last,
    view_of,
)

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Args:
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``. Default ``"cpu"``.
        threads: Threads of PyTorch's operators; None leaves them as they are.
        dtype: ``float32``, ``bfloat16`` or ``float16``: weights and input of inference;
            a training step runs under autocast. Default ``float32``.
        channels_last: Convert weights and input to channels-last layout. Default False:
            models run as MMAction2 runs them (ours choose their layout themselves).
        compile: Run models through ``torch.compile``. Default False.
        deploy: Fold batch normalisation of models with ``switch_to_deploy`` before
            inference. Default True.
        batch_sizes: Views per forward; ratios are of the first. Default (1,).
        train_batch_size: Views per training step; 0 leaves it out. Default 1.
        rounds: Rounds over all models. Default 5.
        iters: Runs of a model in a round, at most. Default 10.
        seconds: Time for one model in a round, after which no further run starts; two
            are made in any case, of which the first does not count. Default 2.
        memory: Whether to measure peak memory. Default True.
        frames: Frames for every model, instead of what its config says.
        crop: Height and width for every model, instead of what its config says.

    Raises:
        ValueError: A setting that can't be used.
    """

    device: str = "cpu"
    threads: int | None = None
    dtype: str = "float32"
    channels_last: bool = False
    compile: bool = False
    deploy: bool = True
    batch_sizes: tuple[int, ...] = (1,)
    train_batch_size: int = 1
    rounds: int = 5
    iters: int = 10
    seconds: float = 2.0
    memory: bool = True
    frames: int | None = None
    crop: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(
                f"dtype: found {self.dtype!r}, expected one of {', '.join(DTYPES)}"
            )
        check_device(self.device)
        for name in ("rounds", "iters", "threads", "frames", "crop"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: found {value}, expected 1 or more")
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise ValueError(
                f"batch_sizes: found {self.batch_sizes}, expected numbers from 1 up"
            )
        if self.train_batch_size < 0:
            raise ValueError(
                f"train_batch_size: found {self.train_batch_size}, expected 0 or more"
            )


@dataclass
class Timing:
    """Times of one kind of run.

    Args:
        batch_size: Views per run.
        rounds: Milliseconds of every run, round by round.
    """

    batch_size: int
    rounds: list[list[float]] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median of all runs, in milliseconds."""
        return statistics.median(ms for row in self.rounds for ms in row)

    @property
    def p90(self) -> float:
        """The time that nine runs in ten keep, in milliseconds (nearest rank)."""
        times = sorted(ms for row in self.rounds for ms in row)
        return times[math.ceil(0.9 * len(times)) - 1]

    @property
    def throughput(self) -> float:
        """Views per second, at the median."""
        return 1000 * self.batch_size / self.median

    def ratio(self, baseline: Timing) -> float:
        """Median over the rounds of this median over the baseline's."""
        return statistics.median(
            statistics.median(own) / statistics.median(other)
            for own, other in zip(self.rounds, baseline.rounds, strict=False)
        )


@dataclass
class Result:
    """What is known of one model.

    Args:
        entry: Name and config.
        view: The clip it takes.
        macs: Multiply-accumulates per view.
        params: Learnable parameters.
        folded: Whether batch normalisation was folded for inference.
        inference: One timing per batch size.
        training: Timing of a training step, forward and backward.
        inference_memory: Peak of inference at the first batch size, in MiB.
        training_memory: Peak of a training step, in MiB.
        errors: What did not work, and why.
    """

    entry: Entry
    view: View | None = None
    macs: int | None = None
    params: int | None = None
    folded: bool = False
    inference: dict[int, Timing] = field(default_factory=dict)
    training: Timing | None = None
    inference_memory: float | None = None
    training_memory: float | None = None
    errors: list[str] = field(default_factory=list)

    @property
    def measured(self) -> bool:
        """Whether any time was taken."""
        timings = [
            *self.inference.values(),
            *([self.training] if self.training else []),
        ]
        return any(timing.rounds for timing in timings)


class Subject:
    """A model made ready to run.

    Args:
        entry: Which model.
        settings: How to measure.
        training: Whether it is for training steps or for inference.

    Attributes:
        model: The recognizer, before any folding if ``training``.
        view: The clip it takes.
        folded: Whether batch normalisation was folded.
    """

    def __init__(
        self,
        entry: Entry,
        settings: Settings,
        training: bool = False,
        model: nn.Module | None = None,
    ) -> None:
        self.settings = settings
        self.training = training
        config = read_config(entry.config)
        check_one_network(config)
        self.view = view_of(config).resized(settings.frames, settings.crop)
        self.model = build_recognizer(config) if model is None else model
        self.folded = False

    def prepare(self) -> None:
        """Fold, convert and move the model as the settings say."""
        settings, model = self.settings, self.model
        model.train(self.training)
        if settings.deploy and not self.training:
            self.folded = fold_batch_norm(model)
        if settings.channels_last:
            to_channels_last(model)
        dtype = torch.float32 if self.training else DTYPES[settings.dtype]
        model.to(device=settings.device, dtype=dtype)
        self._inputs: dict[int, Tensor] = {}
        self._dtype = dtype
        self._forward: Callable[[Tensor], Tensor] = lambda x: logits(model, x)
        if settings.compile:
            self._forward = torch.compile(self._forward)

    def input(self, batch_size: int) -> Tensor:
        """Input of a batch size, made once."""
        if batch_size not in self._inputs:
            self._inputs[batch_size] = self.view.random_input(
                batch_size,
                self.settings.device,
                self._dtype,
                self.settings.channels_last,
            )
        return self._inputs[batch_size]

    def run(self, batch_size: int) -> None:
        """One forward, or one forward and backward."""
        x = self.input(batch_size)
        if not self.training:
            with torch.inference_mode():
                self._forward(x)
            return
        dtype = DTYPES[self.settings.dtype]
        context = (
            nullcontext()
            if dtype is torch.float32
            else torch.autocast(x.device.type, dtype)
        )
        with context:
            scores = self._forward(x)
        target = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
        F.cross_entropy(scores.float(), target).backward()
        self.model.zero_grad(set_to_none=True)

    def time(self, batch_size: int) -> float:
        """Milliseconds of one run; what they are is said by :class:`Clock`."""
        clock = Clock(self.settings.device)
        clock.mark()
        self.run(batch_size)
        clock.mark()
        (milliseconds,) = clock.intervals()
        return milliseconds

    def time_round(self, batch_size: int) -> list[float]:
        """Milliseconds of the runs of one round; the first one, for which caches hold
        another model, is thrown away."""
        settings = self.settings
        start = time.perf_counter()
        self.time(batch_size)
        times: list[float] = []
        while len(times) < settings.iters:
            times.append(self.time(batch_size))
            if time.perf_counter() - start >= settings.seconds:
                break
        return times


@dataclass
class Job:
    """A kind of run of one model, until it fails.

    Args:
        result: Where an error goes.
        subject: The model made ready.
        timing: Batch size and times.
        works: False from the first error on.
    """

    result: Result
    subject: Subject
    timing: Timing
    works: bool = True

    def warm_up(self) -> None:
        """Run once."""
        with self._attempt():
            self.subject.run(self.timing.batch_size)

    def time_round(self) -> None:
        """Time one round."""
        with self._attempt():
            times = self.subject.time_round(self.timing.batch_size)
            self.timing.rounds.append(times)

    @contextmanager
    def _attempt(self) -> Iterator[None]:
        kind = "training step" if self.subject.training else "inference"
        self.works = False
        with _recorded(self.result, f"{kind}, batch size {self.timing.batch_size}"):
            yield
            self.works = True


Advance = Callable[[str], None]


def number_of_steps(entries: Sequence[Entry], settings: Settings) -> int:
    """How often :func:`measure` calls ``advance``, if every model works."""
    kinds = len(settings.batch_sizes) + bool(settings.train_batch_size)
    memory = (1 + bool(settings.train_batch_size)) * settings.memory
    return len(entries) * (1 + settings.rounds * kinds + memory)


def measure(
    entries: Sequence[Entry],
    settings: Settings,
    advance: Advance = lambda name: None,
) -> list[Result]:
    """Measure models in turn.

    Args:
        entries: The models. One that fails has its reason in ``errors``; the others,
            and its other kinds of run, go on.
        settings: How to measure.
        advance: Called with a model's name before each step, see
            :func:`number_of_steps`. Default: nothing.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    results = [Result(entry) for entry in entries]
    jobs: list[Job] = []
    for result in results:
        advance(result.entry.name)
        with _recorded(result, "build"):
            jobs += _set_up(result, settings)
    for _ in range(settings.rounds):
        for job in jobs:
            if job.works:
                advance(job.result.entry.name)
                job.time_round()
    jobs.clear()
    gc.collect()
    if settings.memory:
        for result in results:
            _measure_memory(result, settings, advance)
    return results


def _set_up(result: Result, settings: Settings) -> list[Job]:
    """Build a model, count its cost, and warm it up for every kind of run."""
    subject = Subject(result.entry, settings)
    model, view = subject.model, subject.view
    result.view = view
    result.params = count_params(model)
    x = view.random_input(1)
    settle_batch_norm(model, x)
    result.macs = count_macs(model, x)
    subjects = {subject: settings.batch_sizes}
    if settings.train_batch_size:
        trained = Subject(
            result.entry, settings, training=True, model=copy.deepcopy(model)
        )
        subjects[trained] = (settings.train_batch_size,)
    jobs = []
    for one, batch_sizes in subjects.items():
        with _recorded(
            result, f"build for {'training' if one.training else 'inference'}"
        ):
            one.prepare()
            for batch_size in batch_sizes:
                job = Job(result, one, Timing(batch_size))
                job.warm_up()
                if one.training:
                    result.training = job.timing
                else:
                    result.inference[batch_size] = job.timing
                jobs.append(job)
    result.folded = subject.folded
    return jobs


@contextmanager
def _recorded(result: Result, what: str) -> Iterator[None]:
    """Turn an exception into a line of the result's errors."""
    try:
        yield
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        result.errors.append(f"{what}: {text[:300]}")


def _measure_memory(result: Result, settings: Settings, advance: Advance) -> None:
    """Measure the peak memory of the kinds of run that work."""
    inference = result.inference.get(settings.batch_sizes[0])
    if inference is not None and inference.rounds:
        advance(result.entry.name)
        with _recorded(result, "memory of inference"):
            result.inference_memory = peak_memory(
                result.entry, settings, training=False
            )
    if result.training is not None and result.training.rounds:
        advance(result.entry.name)
        with _recorded(result, "memory of a training step"):
            result.training_memory = peak_memory(result.entry, settings, training=True)


def peak_memory(entry: Entry, settings: Settings, training: bool) -> float:
    """Peak memory of one run in a process of its own, weights and input included.

    On CPU the growth of the resident set over that of a process that has built nothing;
    on a GPU the most that PyTorch's allocator held.

    Args:
        entry: Which model.
        settings: How to measure.
        training: A training step, without the optimiser's own memory, or inference.

    Returns:
        MiB.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_peak_memory_here, entry, settings, training).result()


def _peak_memory_here(entry: Entry, settings: Settings, training: bool) -> float:
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    batch_size = settings.train_batch_size if training else settings.batch_sizes[0]
    on_gpu = settings.device.startswith("cuda")
    before = 0 if on_gpu else _resident_bytes()
    subject = Subject(entry, settings, training=training)
    subject.prepare()
    gc.collect()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(settings.device)
    else:
        _reset_peak()
    subject.run(batch_size)
    peak = torch.cuda.max_memory_allocated(settings.device) if on_gpu else _peak_bytes()
    return (peak - before) / MEBIBYTE


def _status_bytes(key: str) -> int | None:
    """A size out of Linux's /proc/self/status; None on other systems."""
    path = Path("/proc/self/status")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return None


def _peak_bytes() -> int:
    found = _status_bytes("VmHWM")
    if found is not None:
        return found
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _resident_bytes() -> int:
    found = _status_bytes("VmRSS")
    return _peak_bytes() if found is None else found


def _reset_peak() -> None:
    """Forget what building the model took, where the system lets a process do so."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
