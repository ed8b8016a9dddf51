# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Results of a benchmark as a table, as JSON and as a picture."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .timing import Clock, machine_facts
from .zoo import OURS, ZOO
from .zoo_measure import Result, Settings, Timing

FilePath = str | os.PathLike[str]


def machine(settings: Settings) -> dict[str, Any]:
    """Device, thread count, clock and versions of this run."""
    return dict(
        machine_facts(settings.device),
        threads=torch.get_num_threads(),
        clock=Clock(settings.device).kind,
        mmengine=version("mmengine"),
        mmaction2=version("mmaction2"),
    )


def check_baseline(name: str | None, names: Sequence[str]) -> None:
    """Check that a baseline is one of the models.

    Raises:
        ValueError: It is none of them.
    """
    if name is not None and name not in names:
        raise ValueError(
            f"--baseline: found {name!r}, expected one of {', '.join(names)}"
        )


def find_baseline(results: Sequence[Result], name: str | None) -> Result | None:
    """The result that others are compared with.

    Args:
        results: All results.
        name: Its name, or None for the first model of the zoo that was measured in
            full (the first of all, if only ours were, or none in full).

    Raises:
        ValueError: There is none of that name.
    """
    measured = [result for result in results if result.measured]
    if name is None:
        whole = [result for result in measured if not result.errors]
        foreign = [result for result in whole if result.entry.name in ZOO]
        return next(iter(foreign or whole or measured), None)
    check_baseline(name, [result.entry.name for result in results])
    return next((result for result in measured if result.entry.name == name), None)


def to_dict(
    results: Sequence[Result],
    settings: Settings,
    baseline: Result | None,
    command: str,
) -> dict[str, Any]:
    """All figures as plain data: times in ms, memory in MiB, MACs per view."""
    return dict(
        command=command,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        machine=machine(settings),
        settings=asdict(settings),
        baseline=baseline.entry.name if baseline else None,
        results=[_result_dict(result, baseline) for result in results],
    )


def _result_dict(result: Result, baseline: Result | None) -> dict[str, Any]:
    others = baseline.inference if baseline else {}
    return dict(
        name=result.entry.name,
        config=result.entry.config,
        view=asdict(result.view) if result.view else None,
        macs=result.macs,
        params=result.params,
        batch_norm_folded=result.folded,
        inference=[
            _timing_dict(timing, others.get(size), result.macs)
            for size, timing in result.inference.items()
            if timing.rounds
        ],
        training=_timing_dict(
            result.training, baseline.training if baseline else None, result.macs
        )
        if result.training and result.training.rounds
        else None,
        inference_memory_mib=result.inference_memory,
        training_memory_mib=result.training_memory,
        errors=result.errors,
    )


def _timing_dict(
    timing: Timing, baseline: Timing | None, macs: int | None
) -> dict[str, Any]:
    gmacs = timing.batch_size * (macs or 0) / 1e9
    return dict(
        batch_size=timing.batch_size,
        median_ms=timing.median,
        p90_ms=timing.p90,
        views_per_second=timing.throughput,
        ms_per_gmac=timing.median / gmacs if gmacs else None,
        ratio=timing.ratio(baseline) if baseline and baseline.rounds else None,
        rounds_ms=timing.rounds,
    )


def to_markdown(data: dict[str, Any]) -> str:
    """The table, with the setting above it and failed models below."""
    settings, found = data["settings"], data["machine"]
    size = settings["batch_sizes"][0]
    header = ["model", "view", "GMACs", "params (M)"]
    for batch in settings["batch_sizes"]:
        header += [f"ms b{batch} (p90)", f"views/s b{batch}"]
    header += [f"ms/GMAC b{size}", f"x {data['baseline'] or 'baseline'}"]
    if settings["train_batch_size"]:
        train = settings["train_batch_size"]
        header += [f"train ms b{train} (p90)", "train ms/GMAC", "train x"]
    if settings["memory"]:
        header += [f"MiB b{size}"]
        header += ["train MiB"] if settings["train_batch_size"] else []
    rows = [header, ["---"] + ["---:"] * (len(header) - 1)]
    rows += [_row(result, settings) for result in data["results"]]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    packages = ("torch", "mmengine", "mmaction2")
    versions = ", ".join(f"{name} {found[name]}" for name in packages)
    cast = "" if settings["dtype"] == "float32" else " (training steps: autocast)"
    notes = [
        f"`{data['command']}`, {data['date'][:10]}",
        "",
        f"{found.get('gpu') or found['processor']}, {found['threads']} CPU threads, "
        f"{found['clock']}; {versions}; {settings['dtype']}{cast}; "
        f"channels-last conversion {_on(settings['channels_last'])}, torch.compile "
        f"{_on(settings['compile'])}.",
        "",
        "One view is frames x height x width, one crop. MACs are those of "
        "convolutions, fully connected layers and attention products. Times are "
        f"medians over {settings['rounds']} rounds in which the models take turns; a "
        "training step is forward and backward. Weights are random. Models marked * "
        "run inference with batch normalisation folded into their convolutions.",
        "",
    ]
    failed = [
        f"- {result['name']}: {error}"
        for result in data["results"]
        for error in result["errors"]
    ]
    if failed:
        lines += ["", "Not measured, or not in full:", "", *failed]
    return "\n".join([*notes, *lines]) + "\n"


def _on(value: bool) -> str:
    return "on" if value else "off"


def _row(result: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    view = result["view"]
    shape = f"{view['frames']}x{view['height']}x{view['width']}" if view else ""
    cells = [
        result["name"] + (" *" if result["batch_norm_folded"] else ""),
        shape,
        _number(result["macs"], 1e9, 2),
        _number(result["params"], 1e6, 2),
    ]
    timings = {timing["batch_size"]: timing for timing in result["inference"]}
    for batch in settings["batch_sizes"]:
        timing = timings.get(batch)
        cells += [_time(timing), _number(timing and timing["views_per_second"])]
    first = timings.get(settings["batch_sizes"][0]) or {}
    cells += [_number(first.get("ms_per_gmac")), _number(first.get("ratio"), 1, 2)]
    if settings["train_batch_size"]:
        training = result["training"] or {}
        cells += [
            _time(training or None),
            _number(training.get("ms_per_gmac")),
            _number(training.get("ratio"), 1, 2),
        ]
    if settings["memory"]:
        cells.append(_number(result["inference_memory_mib"], 1, 0))
        if settings["train_batch_size"]:
            cells.append(_number(result["training_memory_mib"], 1, 0))
    return cells


def _number(value: float | None, unit: float = 1, digits: int = 1) -> str:
    return "" if value is None else f"{value / unit:.{digits}f}"


def _time(timing: dict[str, Any] | None) -> str:
    return f"{timing['median_ms']:.1f} ({timing['p90_ms']:.1f})" if timing else ""


def save_plot(data: dict[str, Any], path: FilePath) -> None:
    """Cost against latency, at the first batch size, both axes logarithmic."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for result in data["results"]:
        if not result["inference"] or not result["macs"]:
            continue
        point = (result["macs"] / 1e9, result["inference"][0]["median_ms"])
        ours = result["batch_norm_folded"] or result["name"] in OURS
        axes.plot(*point, "o" if ours else "s", color="C3" if ours else "C0")
        axes.annotate(
            result["name"], point, xytext=(5, 3), textcoords="offset points", fontsize=8
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):  # 2e-02: powers of ten are too wide
        axis.set_major_formatter(LogFormatter())
        axis.set_minor_formatter(LogFormatter(labelOnlyBase=False))
    axes.set_xlabel("GMACs per view")
    axes.set_ylabel(f"ms, batch size {data['settings']['batch_sizes'][0]}")
    device = data["machine"].get("gpu") or (
        f"{data['machine']['processor']}, {data['machine']['threads']} threads"
    )
    axes.set_title(f"{device}, {data['settings']['dtype']}", fontsize=9)
    axes.grid(True, which="both", alpha=0.2)
    figure.savefig(path, dpi=150)


def save(data: dict[str, Any], folder: FilePath) -> list[Path]:
    """Write ``benchmark.md``, ``benchmark.json`` and ``benchmark.png``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"benchmark.{ending}" for ending in ("md", "json", "png")]
    files[0].write_text(to_markdown(data), encoding="utf-8")
    files[1].write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    save_plot(data, files[2])
    return files
