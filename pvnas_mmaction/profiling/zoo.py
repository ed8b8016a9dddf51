# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Latency of several models, next to MMAction2's zoo.

Times of a shared machine drift. So the models take turns: every round measures each of
them for a moment, and what is reported are medians over all rounds, and ratios to a
baseline of the same round.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import nn

from ..models.recognizers import (
    View,
    build_recognizer,
    count_macs,
    count_params,
    fold_batch_norm,
    logits,
    settle_batch_norm,
    view_of,
)
from .clock import DTYPES, Clock, check_measurement, machine_facts

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
ZOO = {
    name: f"mmaction::recognition/{path}kinetics400-rgb.py"
    for name, path in ZOO.items()
}
OURS = {
    f"PV-NAS-{size}": f"pvnas_mmaction::pvnas/pvnas-{path}_kinetics400-rgb.py"
    for size, path in dict(
        S="s_retrain_8xb16-8x8x1-50e",
        L="l_retrain_8xb8-8x8x1-50e",
        M="m_retrain_8xb8-16x4x1-50e",
    ).items()
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
        batch_size: Views per run. Default 1.
        train: Whether training steps are measured as well. Default True.
        rounds: Rounds over all models. Default 5.
        seconds: Time for one model in a round, after which no further run starts; two
            are made in any case, of which the first does not count. Default 2.
        crop: Height and width for every model, instead of what its config says.

    Raises:
        ValueError: A setting that can't be used.
    """

    device: str = "cpu"
    threads: int | None = None
    dtype: str = "float32"
    batch_size: int = 1
    train: bool = True
    rounds: int = 5
    seconds: float = 2.0
    crop: int | None = None

    def __post_init__(self) -> None:
        names = ("rounds", "batch_size", "threads", "crop")
        counts = {name: getattr(self, name) for name in names}
        check_measurement(self.device, self.dtype, counts)


class Subject:
    """A model made ready for one kind of run, inference or training steps; times go to
    ``result["inference_ms"]`` or ``result["training_ms"]``."""

    def __init__(
        self,
        result: Result,
        model: nn.Module,
        view: View,
        settings: Settings,
        kind: str,
    ) -> None:
        self.result, self.model, self.kind = result, model, kind
        self.settings = settings
        model.train(kind == "training")  # those of TSM give no model back
        dtype = DTYPES[settings.dtype]
        self._autocast = torch.autocast(
            torch.device(settings.device).type, dtype, dtype is not torch.float32
        )
        if kind == "inference":
            result["folded"] = fold_batch_norm(model)
        else:
            dtype = torch.float32
        model.to(device=settings.device, dtype=dtype)
        self._x = view.random_input(settings.batch_size).to(settings.device, dtype)

    def run(self) -> None:
        """One forward, or one forward and backward."""
        if self.kind == "inference":
            with torch.inference_mode():
                logits(self.model, self._x)
            return
        with self._autocast:
            scores = logits(self.model, self._x)
        target = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
        F.cross_entropy(scores.float(), target).backward()
        self.model.zero_grad(set_to_none=True)

    def time_round(self) -> list[float]:
        """Milliseconds of the runs of one round; the first one, for which caches hold
        another model, is thrown away."""
        clock, start = Clock(self.settings.device), time.perf_counter()
        times: list[float] = []
        while len(times) < 2 or time.perf_counter() - start < self.settings.seconds:
            clock.mark()
            self.run()
            clock.mark()
            times += clock.intervals()
        return times[1:]


def measure(
    models: Mapping[str, str],
    load: Callable[[str], Config],
    settings: Settings,
    advance: Callable[[str], None] = lambda name: None,
) -> list[Result]:
    """Measure models, given as configs by name, in turn; plain data for each, to which
    :func:`add_figures` adds medians and ratios.

    One that fails has its reason in ``errors``; the others, and its other kind of run,
    go on. ``advance`` is called with a model's name before each step.
    """
    torch.set_num_threads(settings.threads or torch.get_num_threads())
    results: list[Result] = []
    subjects: list[Subject] = []
    for name, path in models.items():
        advance(name)
        result: Result = dict(name=name, config=path, view=None, macs=None, params=None)
        result |= dict(folded=False, inference_ms=[], training_ms=[], errors=[])
        results.append(result)
        with _recorded(result, "build"):
            subjects += _set_up(result, load(path), settings)
    for _ in range(settings.rounds):
        for subject in tuple(subjects):
            advance(subject.result["name"])
            with _recorded(subject.result, subject.kind):
                times = subject.time_round()
                subject.result[f"{subject.kind}_ms"].append(times)
                continue
            subjects.remove(subject)
    return results


def _set_up(result: Result, config: Config, settings: Settings) -> list[Subject]:
    """Build a model, count its cost, and warm it up for both kinds of run."""
    view, model = view_of(config), build_recognizer(config).eval()
    if settings.crop:
        view = replace(view, height=settings.crop, width=settings.crop)
    x = view.random_input(1)
    settle_batch_norm(model, x)
    result |= dict(view=str(view), params=count_params(model))
    result["macs"] = count_macs(model, x)
    subjects = []
    for kind in ("inference", "training")[: 1 + settings.train]:
        with _recorded(result, kind):
            subject = Subject(result, copy.deepcopy(model), view, settings, kind)
            subject.run()
            subjects.append(subject)
    return subjects


@contextmanager
def _recorded(result: Result, what: str) -> Iterator[None]:
    """Turn an exception into a line of the result's errors."""
    try:
        yield
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        result["errors"].append(f"{what}: {text[:300]}")


def add_figures(
    results: Sequence[Result], settings: Settings, command: str
) -> dict[str, Any]:
    """All that is known, with medians and ratios, as plain data for a file.

    Ratios are to the first model of the zoo that was measured in full, or else to the
    first model that was.
    """
    whole = [r for r in results if r["inference_ms"] and not r["errors"]]
    foreign = [result for result in whole if result["name"] in ZOO]
    base = next(iter(foreign or whole), None)
    for result in results:
        for kind in ("inference", "training"):
            rounds = result[f"{kind}_ms"]
            if not rounds:
                continue
            times = [ms for row in rounds for ms in row]
            p90 = float(np.percentile(times, 90, method="inverted_cdf"))
            result[kind] = dict(ms=float(np.median(times)), p90=p90)
            # Rounds of one number; one of the two may have failed later.
            pairs = zip(rounds, base[f"{kind}_ms"] if base else [], strict=False)
            ratios = [np.median(one) / np.median(other) for one, other in pairs]
            if ratios:
                result[kind]["ratio"] = float(np.median(ratios))
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


def to_markdown(data: dict[str, Any]) -> str:
    """The table, with the setting above it and failed models below."""
    settings, found = data["settings"], data["machine"]
    ratio = f"x {data['baseline'] or 'baseline'}"
    titles = ["model", "view", "GMACs", "params (M)", "ms (p90)", "ms/GMAC", ratio]
    titles += ["train ms (p90)", ratio] if settings["train"] else []
    rows = [titles, ["---"] + ["---:"] * (len(titles) - 1)]
    for result in data["results"]:
        gmacs = result["macs"] and result["macs"] / 1e9
        run, step = (result.get(kind, {}) for kind in ("inference", "training"))
        per_view = run and gmacs and run["ms"] / settings["batch_size"] / gmacs
        row = [
            result["name"] + (" *" if result["folded"] else ""),
            result["view"] or "",
            f"{gmacs:.2f}" if gmacs else "",
            f"{result['params'] / 1e6:.2f}" if result["params"] else "",
            _times(run),
            f"{per_view:.1f}" if per_view else "",
            f"{run['ratio']:.2f}" if "ratio" in run else "",
            _times(step),
            f"{step['ratio']:.2f}" if "ratio" in step else "",
        ]
        rows.append(row[: len(titles)])
    packages = ", ".join(f"{p} {found[p]}" for p in ("torch", "mmengine", "mmaction2"))
    lines = [
        f"`{data['command']}`, {data['date'][:10]}",
        "",
        f"{found.get('gpu') or found['processor']}, {found['threads']} CPU threads, "
        f"{found['clock']}; {packages}; {settings['dtype']}, batch size "
        f"{settings['batch_size']}.",
        "",
        "One view is frames x height x width, one crop. MACs are those of "
        "convolutions, fully connected layers and attention products. Times are "
        f"medians over {settings['rounds']} rounds in which the models take turns; a "
        "training step is forward and backward. Weights are random. Models marked * "
        "run inference with batch normalisation folded into their convolutions.",
        "",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    failed = [f"- {r['name']}: {e}" for r in data["results"] for e in r["errors"]]
    if failed:
        lines += ["", "Not measured, or not in full:", "", *failed]
    return "\n".join(lines) + "\n"


def _times(figures: Mapping[str, float]) -> str:
    return f"{figures['ms']:.1f} ({figures['p90']:.1f})" if figures else ""


def save(data: dict[str, Any], folder: Path) -> list[Path]:
    """Write ``benchmark.md`` and ``benchmark.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"benchmark.{ending}" for ending in ("md", "json")]
    files[0].write_text(to_markdown(data), encoding="utf-8")
    files[1].write_text(json.dumps(data) + "\n", encoding="utf-8")
    return files
