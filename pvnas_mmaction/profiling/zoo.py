# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Latency, throughput and peak memory of several models, next to MMAction2's zoo.

Times of a shared machine drift. So the models take turns: every round measures each of
them for a moment, and what is reported are medians over all rounds, and ratios to a
baseline of the same round. Peak memory is measured in a process per model and kind.
"""

from __future__ import annotations

import copy
import gc
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn

from ..models.recognizers import (
    build_recognizer,
    count_macs,
    count_params,
    fold_batch_norm,
    logits,
    settle_batch_norm,
    view_of,
)
from ..space.checks import check_count
from .clock import DTYPES, Clock, check_measurement, machine_facts

OURS = {
    "PV-NAS-S": "pvnas_mmaction::pvnas/"
    "pvnas-s_retrain_8xb16-8x8x1-50e_kinetics400-rgb.py",
    "PV-NAS-L": "pvnas_mmaction::pvnas/"
    "pvnas-l_retrain_8xb8-8x8x1-50e_kinetics400-rgb.py",
    "PV-NAS-M": "pvnas_mmaction::pvnas/"
    "pvnas-m_retrain_8xb8-16x4x1-50e_kinetics400-rgb.py",
}
ZOO = {
    "TSM-R50": "mmaction::recognition/tsm/"
    "tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_kinetics400-rgb.py",
    "TSM-MobileNetV2": "mmaction::recognition/tsm/"
    "tsm_imagenet-pretrained-mobilenetv2_8xb16-1x1x8-100e_kinetics400-rgb.py",
    "X3D-S": "mmaction::recognition/x3d/x3d_s_13x6x1_facebook-kinetics400-rgb.py",
    "X3D-M": "mmaction::recognition/x3d/x3d_m_16x5x1_facebook-kinetics400-rgb.py",
    "SlowOnly-R50": "mmaction::recognition/slowonly/"
    "slowonly_r50_8xb16-8x8x1-256e_kinetics400-rgb.py",
    "C2D-R50": "mmaction::recognition/c2d/"
    "c2d_r50-in1k-pre_8xb32-8x8x1-100e_kinetics400-rgb.py",
    "R(2+1)D-34": "mmaction::recognition/r2plus1d/"
    "r2plus1d_r34_8xb8-8x8x1-180e_kinetics400-rgb.py",
    "TANet-R50": "mmaction::recognition/tanet/"
    "tanet_imagenet-pretrained-r50_8xb8-dense-1x1x8-100e_kinetics400-rgb.py",
    "SlowFast-R50": "mmaction::recognition/slowfast/"
    "slowfast_r50_8xb8-8x8x1-256e_kinetics400-rgb.py",
    "Swin-T": "mmaction::recognition/swin/"
    "swin-tiny-p244-w877_in1k-pre_8xb8-amp-32x2x1-30e_kinetics400-rgb.py",
    "UniFormer-S": "mmaction::recognition/uniformer/"
    "uniformer-small_imagenet1k-pre_16x4x1_kinetics400-rgb.py",
    "MViTv2-S": "mmaction::recognition/mvit/"
    "mvit-small-p244_32xb16-16x4x1-200e_kinetics400-rgb.py",
    "TIN-R50": "mmaction::recognition/tin/"
    "tin_kinetics400-pretrained-tsm-r50_1x1x8-50e_kinetics400-rgb.py",
}
DEFAULT = {**OURS, **ZOO}

Result = dict[str, Any]


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
        names = ("rounds", "iters", "threads", "frames", "crop")
        counts = {name: getattr(self, name) for name in names}
        counts |= {"batch_sizes": min(self.batch_sizes)}
        check_measurement(self.device, self.dtype, counts)
        check_count("train_batch_size", self.train_batch_size, 0)


class Subject:
    """A model made ready for one kind of run.

    Args:
        config: Config of the model.
        settings: How to measure.
        training: Whether it is for training steps or for inference.
        model: The recognizer. Default None: built out of the config.

    Attributes:
        folded: Whether batch normalisation was folded.
    """

    def __init__(
        self,
        config: Config,
        settings: Settings,
        training: bool,
        model: nn.Module | None = None,
    ) -> None:
        self.settings, self.training = settings, training
        asked = dict(frames=settings.frames, height=settings.crop, width=settings.crop)
        changes = {key: value for key, value in asked.items() if value}
        self.view = replace(view_of(config), **changes)
        self.model = (build_recognizer(config) if model is None else model).eval()
        self.folded = False
        self._inputs: dict[int, Tensor] = {}

    def prepare(self) -> None:
        """Fold, convert and move the model as the settings say."""
        settings, model = self.settings, self.model
        model.train(self.training)  # those of TSM give no model back
        self.folded = settings.deploy and not self.training and fold_batch_norm(model)
        if settings.channels_last:
            formats = {4: torch.channels_last, 5: torch.channels_last_3d}
            for weight in (p for p in model.parameters() if p.dim() in formats):
                layout = formats[weight.dim()]
                weight.data = weight.data.contiguous(memory_format=layout)
        # A training step runs under autocast.
        self._dtype = torch.float32 if self.training else DTYPES[settings.dtype]
        model.to(device=settings.device, dtype=self._dtype)
        self._forward: Callable[[Tensor], Tensor] = lambda x: logits(model, x)
        if settings.compile:
            self._forward = torch.compile(self._forward)

    def run(self, batch_size: int) -> None:
        """One forward, or one forward and backward."""
        settings = self.settings
        if batch_size not in self._inputs:
            self._inputs[batch_size] = self.view.random_input(
                batch_size, settings.device, self._dtype, settings.channels_last
            )
        x = self._inputs[batch_size]
        if not self.training:
            with torch.inference_mode():
                self._forward(x)
            return
        dtype = DTYPES[settings.dtype]
        plain = dtype is torch.float32
        with nullcontext() if plain else torch.autocast(x.device.type, dtype):
            scores = self._forward(x)
        target = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
        F.cross_entropy(scores.float(), target).backward()
        self.model.zero_grad(set_to_none=True)

    def time_round(self, batch_size: int) -> list[float]:
        """Milliseconds of the runs of one round; the first one, for which caches hold
        another model, is thrown away."""
        settings, clock = self.settings, Clock(self.settings.device)
        start = time.perf_counter()
        times: list[float] = []
        while len(times) < settings.iters + 1:
            clock.mark()
            self.run(batch_size)
            clock.mark()
            times += clock.intervals()
            if len(times) > 1 and time.perf_counter() - start >= settings.seconds:
                break
        return times[1:]


class Job(NamedTuple):
    """A kind of run of one model: its result, the model made ready, and ``batch_size``
    with ``rounds_ms``, the times of every round."""

    result: Result
    subject: Subject
    timing: dict[str, Any]

    def attempt(self, warm_up: bool = False) -> bool:
        """Time one round, or run once; whether that works."""
        size = self.timing["batch_size"]
        kind = "training step" if self.subject.training else "inference"
        with _recorded(self.result, f"{kind}, batch size {size}"):
            if warm_up:
                self.subject.run(size)
            else:
                self.timing["rounds_ms"].append(self.subject.time_round(size))
            return True
        return False


def number_of_steps(num_models: int, settings: Settings) -> int:
    """How often :func:`measure` calls ``advance``, if every model works."""
    kinds = len(settings.batch_sizes) + bool(settings.train_batch_size)
    memory = (1 + bool(settings.train_batch_size)) * settings.memory
    return num_models * (1 + settings.rounds * kinds + memory)


def measure(
    models: Mapping[str, str],
    load: Callable[[str], Config],
    settings: Settings,
    advance: Callable[[str], None] = lambda name: None,
) -> list[Result]:
    """Measure models in turn.

    Args:
        models: Name and config of each. One that fails has its reason in ``errors``;
            the others, and its other kinds of run, go on.
        load: Reads a config.
        settings: How to measure.
        advance: Called with a model's name before each step, see
            :func:`number_of_steps`. Default: nothing.

    Returns:
        Plain data for each model: times in milliseconds, memory in MiB, ``macs`` of one
        view. :func:`add_figures` adds medians and ratios.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    results: list[Result] = []
    configs: dict[str, Config] = {}
    jobs: list[Job] = []
    for name, path in models.items():
        advance(name)
        result: Result = dict(name=name, config=path, view=None, macs=None, params=None)
        result |= dict(batch_norm_folded=False, inference=[], training=None)
        result |= dict(inference_memory_mib=None, training_memory_mib=None, errors=[])
        results.append(result)
        with _recorded(result, "build"):
            configs[name] = load(path)
            jobs += _set_up(result, configs[name], settings)
    for _ in range(settings.rounds):
        for job in tuple(jobs):
            advance(job.result["name"])
            if not job.attempt():
                jobs.remove(job)
    jobs.clear()
    gc.collect()
    for result in results if settings.memory else []:
        kinds = dict(inference=result["inference"][:1], training=[result["training"]])
        for kind, (timing,) in kinds.items() if result["inference"] else []:
            if timing and timing["rounds_ms"]:
                name = result["name"]
                advance(name)
                with _recorded(result, f"memory of {kind}"):
                    result[f"{kind}_memory_mib"] = peak_memory(
                        configs[name], settings, kind == "training"
                    )
    return results


def _set_up(result: Result, config: Config, settings: Settings) -> list[Job]:
    """Build a model, count its cost, and warm it up for every kind of run."""
    subject = Subject(config, settings, training=False)
    model, x = subject.model, subject.view.random_input(1)
    result |= dict(view=asdict(subject.view), params=count_params(model))
    settle_batch_norm(model, x)
    result["macs"] = count_macs(model, x)
    subjects = [(subject, settings.batch_sizes)]
    if settings.train_batch_size:
        trained = Subject(config, settings, training=True, model=copy.deepcopy(model))
        subjects.append((trained, (settings.train_batch_size,)))
    jobs = []
    for one, batch_sizes in subjects:
        kind = "training" if one.training else "inference"
        with _recorded(result, f"build for {kind}"):
            one.prepare()
            for batch_size in batch_sizes:
                job = Job(result, one, dict(batch_size=batch_size, rounds_ms=[]))
                if one.training:
                    result["training"] = job.timing
                else:
                    result["inference"].append(job.timing)
                if job.attempt(warm_up=True):
                    jobs.append(job)
    result["batch_norm_folded"] = subject.folded
    return jobs


@contextmanager
def _recorded(result: Result, what: str) -> Iterator[None]:
    """Turn an exception into a line of the result's errors."""
    try:
        yield
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        result["errors"].append(f"{what}: {text[:300]}")


def peak_memory(config: Config, settings: Settings, training: bool) -> float:
    """Peak memory of one run in a process of its own, weights and input included.

    On CPU the growth of the resident set over that of a process that has built nothing;
    on a GPU the most that PyTorch's allocator held.

    Args:
        config: Which model.
        settings: How to measure.
        training: A training step, without the optimiser's own memory, or inference.

    Returns:
        MiB.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_peak_memory_here, config, settings, training).result()


def _peak_memory_here(config: Config, settings: Settings, training: bool) -> float:
    torch.set_num_threads(settings.threads or torch.get_num_threads())
    before = memory_bytes(settings.device)
    subject = Subject(config, settings, training)
    subject.prepare()
    gc.collect()
    reset_peak(settings.device)
    size = settings.train_batch_size if training else settings.batch_sizes[0]
    subject.run(size)
    return (memory_bytes(settings.device, peak=True) - before) / 2**20


def memory_bytes(device: str, peak: bool = False) -> int:
    """Bytes in use now, or at the most so far: on the GPU, or of this process."""
    if device.startswith("cuda"):
        found = torch.cuda.max_memory_allocated if peak else torch.cuda.memory_allocated
        return found(device)
    status = Path("/proc/self/status")
    if not status.is_file():
        raise OSError("peak memory is measured on Linux alone; use --no-memory")
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines["VmHWM" if peak else "VmRSS"].split()[0]) * 1024


def reset_peak(device: str) -> None:
    """Forget the peak so far, where the system lets a process do so."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def add_figures(
    results: Sequence[Result], settings: Settings, baseline: str | None, command: str
) -> dict[str, Any]:
    """All that is known, with medians and ratios, as plain data for a file.

    Args:
        results: What :func:`measure` gave; changed in place.
        settings: How they were measured.
        baseline: Name of the model that others are compared with. None: the first of
            the zoo that was measured in full (of all, if only ours were, or none was).
        command: For the record.
    """
    measured = [r for r in results if any(t["rounds_ms"] for t in _timings(r))]
    whole = [result for result in measured if not result["errors"]]
    foreign = [result for result in whole if result["name"] in ZOO]
    if baseline is not None:
        measured = [result for result in measured if result["name"] == baseline]
        whole = foreign = []
    base = next(iter(foreign or whole or measured), None)
    references = {} if base is None else _medians(base)
    for result in results:
        result["inference"] = [t for t in result["inference"] if t["rounds_ms"]]
        if result["training"] and not result["training"]["rounds_ms"]:
            result["training"] = None
        for timing in _timings(result):
            times = [ms for row in timing["rounds_ms"] for ms in row]
            median, views = float(np.median(times)), timing["batch_size"]
            gmacs = views * (result["macs"] or 0) / 1e9
            p90 = float(np.percentile(times, 90, method="inverted_cdf"))
            timing |= dict(median_ms=median, p90_ms=p90)
            timing["views_per_second"] = 1000 * views / median
            timing["ms_per_gmac"] = median / gmacs if gmacs else None
            key = (timing is result["training"], views)
            own, other = _medians(result)[key], references.get(key)
            pairs = zip(own, other or [], strict=False)  # one may have failed later
            ratios = [first / second for first, second in pairs]
            timing["ratio"] = float(np.median(ratios)) if ratios else None
    return dict(
        command=command,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        machine=dict(
            machine_facts(settings.device),
            threads=torch.get_num_threads(),
            clock=Clock(settings.device).kind,
            mmengine=version("mmengine"),
            mmaction2=version("mmaction2"),
        ),
        settings=asdict(settings),
        baseline=base and base["name"],
        results=list(results),
    )


def _timings(result: Result) -> list[dict[str, Any]]:
    training = result["training"]
    return [*result["inference"], *([training] if training else [])]


def _medians(result: Result) -> dict[tuple[bool, int], list[float]]:
    """Median of every round, by kind of run and batch size."""
    return {
        (timing is result["training"], timing["batch_size"]): [
            float(np.median(row)) for row in timing["rounds_ms"]
        ]
        for timing in _timings(result)
    }


def to_markdown(data: dict[str, Any]) -> str:
    """The table, with the setting above it and failed models below."""
    settings, found = data["settings"], data["machine"]
    sizes, train = settings["batch_sizes"], settings["train_batch_size"]
    columns = {"model": "{name}", "view": "{frames}x{height}x{width}"}
    columns |= {"GMACs": "{gmacs:.2f}", "params (M)": "{mparams:.2f}"}
    for n in sizes:
        columns[f"ms b{n} (p90)"] = f"{{b{n}_median_ms:.1f}} ({{b{n}_p90_ms:.1f}})"
        columns[f"views/s b{n}"] = f"{{b{n}_views_per_second:.1f}}"
    columns[f"ms/GMAC b{sizes[0]}"] = f"{{b{sizes[0]}_ms_per_gmac:.1f}}"
    columns[f"x {data['baseline'] or 'baseline'}"] = f"{{b{sizes[0]}_ratio:.2f}}"
    if train:
        columns[f"train ms b{train} (p90)"] = "{t_median_ms:.1f} ({t_p90_ms:.1f})"
        columns |= {"train ms/GMAC": "{t_ms_per_gmac:.1f}", "train x": "{t_ratio:.2f}"}
    if settings["memory"]:
        columns[f"MiB b{sizes[0]}"] = "{inference_memory_mib:.0f}"
        columns |= {"train MiB": "{training_memory_mib:.0f}"} if train else {}
    rows = [list(columns), ["---"] + ["---:"] * (len(columns) - 1)]
    for result in data["results"]:
        values = _values(result)
        rows.append([_cell(template, values) for template in columns.values()])
    packages = ("torch", "mmengine", "mmaction2")
    cast = "" if settings["dtype"] == "float32" else " (training steps: autocast)"
    lines = [
        f"`{data['command']}`, {data['date'][:10]}",
        "",
        f"{found.get('gpu') or found['processor']}, {found['threads']} CPU threads, "
        f"{found['clock']}; {', '.join(f'{name} {found[name]}' for name in packages)}; "
        f"{settings['dtype']}{cast}; channels-last conversion "
        f"{_on(settings['channels_last'])}, torch.compile {_on(settings['compile'])}.",
        "",
        "One view is frames x height x width, one crop. MACs are those of "
        "convolutions, fully connected layers and attention products. Times are "
        f"medians over {settings['rounds']} rounds in which the models take turns; a "
        "training step is forward and backward. Weights are random. Models marked * "
        "run inference with batch normalisation folded into their convolutions.",
        "",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    failed = [
        f"- {result['name']}: {error}"
        for result in data["results"]
        for error in result["errors"]
    ]
    if failed:
        lines += ["", "Not measured, or not in full:", "", *failed]
    return "\n".join(lines) + "\n"


def _on(value: bool) -> str:
    return "on" if value else "off"


def _values(result: Result) -> dict[str, Any]:
    """What is known of a model, by the names that the table's columns use."""
    values = {**result, **(result["view"] or {})}
    values["name"] += " *" if result["batch_norm_folded"] else ""
    for key, name, unit in (("macs", "gmacs", 1e9), ("params", "mparams", 1e6)):
        values[name] = result[key] and result[key] / unit
    for timing in _timings(result):
        training = timing is result["training"]
        prefix = "t" if training else f"b{timing['batch_size']}"
        values |= {f"{prefix}_{key}": value for key, value in timing.items()}
    return {key: value for key, value in values.items() if value is not None}


def _cell(template: str, values: dict[str, Any]) -> str:
    try:
        return template.format(**values)
    except KeyError:  # not measured
        return ""


def save_plot(data: dict[str, Any], path: Path) -> None:
    """Cost against latency, at the first batch size, both axes logarithmic."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xscale="log", yscale="log")
    for result in data["results"]:
        if not result["inference"] or not result["macs"]:
            continue
        point = (result["macs"] / 1e9, result["inference"][0]["median_ms"])
        ours = result["batch_norm_folded"] or result["name"] in OURS
        axes.plot(*point, "o" if ours else "s", color="C3" if ours else "C0")
        axes.annotate(
            result["name"], point, xytext=(5, 3), textcoords="offset points", fontsize=8
        )
    for axis in (axes.xaxis, axes.yaxis):  # 2e-02: powers of ten are too wide
        axis.set_major_formatter(LogFormatter())
        axis.set_minor_formatter(LogFormatter(labelOnlyBase=False))
    axes.set_xlabel("GMACs per view")
    axes.set_ylabel(f"ms, batch size {data['settings']['batch_sizes'][0]}")
    machine = data["machine"]
    device = machine.get("gpu") or (
        f"{machine['processor']}, {machine['threads']} threads"
    )
    axes.set_title(f"{device}, {data['settings']['dtype']}", fontsize=9)
    axes.grid(True, which="both", alpha=0.2)
    figure.savefig(path, dpi=150)


def save(data: dict[str, Any], folder: Path) -> list[Path]:
    """Write ``benchmark.md``, ``benchmark.json`` and ``benchmark.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"benchmark.{ending}" for ending in ("md", "json", "png")]
    files[0].write_text(to_markdown(data), encoding="utf-8")
    files[1].write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    save_plot(data, files[2])
    return files
