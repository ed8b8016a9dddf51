# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Where a run came from, in words: config, seed, versions, command, duration."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ..space.genotype import Genotype
from .layers import format_count
from .runlog import lookup
from .workdir import Run, SearchRun, TrainRun

NOT_RECORDED = "not recorded"


def percent(share: float | None) -> str:
    """A share in percent; n/a for None."""
    return "n/a" if share is None else f"{100 * share:.1f} %"


def duration(seconds: float | None) -> str:
    """Days, hours and minutes; seconds below an hour."""
    if seconds is None:
        return NOT_RECORDED
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {left:02d} s"


def budget_text(run: SearchRun) -> str:
    """A search's budget with its unit."""
    if not run.budget:
        return "no budget"
    unit = {"flops": "MACs", "params": "parameters", "latency": "ms"}
    kind = run.budget.get("kind", "")
    amount = format_count(run.budget.get("budget"))
    return f"budget {amount} {unit.get(kind, kind)}".replace("  ", " ")


def search_provenance(run: SearchRun) -> list[tuple[str, str]]:
    """Pairs of label and value."""
    genotype = run.networks[-1].genotype if run.networks else None
    pairs = _common(run, genotype, run.seed)
    if run.space is not None:
        layers = len(run.space.layers)
        pairs.append(
            ("Search space",
             f"{run.space.name}: {run.space.size:.4g} networks of {layers} layers")
        )  # fmt: skip
    if run.input_shape is not None:
        shape = " x ".join(map(str, run.input_shape))
        pairs.append(("Input (C, T, H, W)", shape))
    if run.space is not None:
        pairs.append(("Budget", budget_text(run).removeprefix("budget ")))
    schedule = next(
        (
            hook
            for hook in run.launches.config.get("custom_hooks") or ()
            if isinstance(hook, dict) and hook.get("type") == "LRDiversityHook"
        ),
        None,
    )
    if run.earlier:
        names = ", ".join(path.name for path in run.earlier)
        hint = "tools/report.py DIRECTORY/NAME reports each"
        pairs.append(("Earlier searches here", f"{names} ({hint})"))
    if schedule is not None:
        settings = ", ".join(f"{k}={v}" for k, v in schedule.items() if k != "type")
        pairs.append(("Schedule", settings))
    return pairs


def _config_name(run: Run) -> str | None:
    """The copy of the config in the work directory; with several, that of the run."""
    configs = sorted(run.path.glob("*.py"))
    same = [
        path
        for path in configs
        if path.read_text(encoding="utf-8", errors="replace")
        == run.launches.config_text
    ]
    return next((path.name for path in same or configs), None)


def _common(
    run: Run, genotype: Genotype | None, seed: int | None = None
) -> list[tuple[str, str]]:
    launches = run.launches
    known: dict[str, Any] = genotype.provenance if genotype else {}
    search = isinstance(run, SearchRun)
    if isinstance(run, SearchRun):
        data = run.ann_file or known.get("data")
    else:
        data = _annotations(run)
    config = _config_name(run) or (known.get("config") if search else None)
    command = launches.command or (known.get("command") if search else None)
    version = launches.code_version or (known.get("code_version") if search else None)
    environment = launches.environment
    seed_text = environment.get("seed") if seed is None else str(seed)
    devices = [v for k, v in environment.items() if k.startswith("GPU ")
               and k != "GPU number"]  # fmt: skip
    device = ", ".join(devices) or ("CPU" if environment else None)
    pairs = [
        ("Directory", str(run.path)),
        ("Config", config),
        ("Command", command),
        ("Seed", seed_text),
        ("Data", data),
        ("Started", _time(launches.started)),
        ("Last log line", _time(launches.ended)),
        ("Duration", duration(launches.seconds)),
        ("Device", device),
        ("pvnas_mmaction", version),
        *(
            (name, environment.get(name, "").split(" (")[0])
            for name in ("PyTorch", "MMEngine", "OpenCV", "Python")
        ),
    ]
    if not launches.folders and not known:
        pairs = [(label, value) for label, value in pairs if label == "Directory"]
    return [(label, str(value) if value else NOT_RECORDED) for label, value in pairs]


def _annotations(run: Run) -> str | None:
    return lookup(run.launches.config, "train_dataloader.dataset.ann_file")


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%d %H:%M:%S")


def training_provenance(run: TrainRun) -> list[tuple[str, str]]:
    """Pairs of label and value."""
    return _common(run, run.genotype)
