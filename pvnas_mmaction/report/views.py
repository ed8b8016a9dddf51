# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""What the page says about a run, as text ready for the template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from ..search.archive import Archive
from ..space.genotype import Genotype
from ..space.latency_table import LatencyTable, load_latency_table
from ..space.search_space import SearchSpace
from .drawing import Drawing, dearest_layer, draw_network
from .layers import (
    LayerRow,
    format_count,
    format_shape,
    layer_rows,
    temporal_reach,
    total,
)
from .predictions import Predictions
from .provenance import (
    budget_text,
    duration,
    percent,
    search_provenance,
    training_provenance,
)
from .runlog import lookup
from .series import pareto_front
from .workdir import Network, Run, SearchRun, TrainRun


@dataclass
class NetworkCard:
    """One network: words, drawing, file. Cycles that found the same one share a card.

    Args:
        title: E.g. ``Cycles 1, 3``.
        badges: Short praise, e.g. ``chosen``.
        facts: Pairs of label and value.
        rows: Its layers.
        drawing: Their geometry.
        file_name: Name for the download; empty where there is no file.
        text: The genotype file's text.
    """

    title: str
    badges: list[str]
    facts: list[tuple[str, str]]
    rows: Sequence[LayerRow]
    drawing: Drawing
    file_name: str
    text: str

    @property
    def href(self) -> str:
        """The file as a link that needs no server."""
        return "data:application/json;charset=utf-8," + quote(self.text)


@dataclass
class RunView:
    """Everything about one run but its plots.

    Args:
        run: The run.
        anchor: Its id on the page.
        status: ``finished``, ``not finished`` or ``training``.
        tiles: Key figures: label, value, remark.
        cards: Its networks.
        provenance: Pairs of label and value.
        reach: Largest temporal kernel among its networks, at least 5 frames.
    """

    run: Run
    anchor: str
    status: str
    tiles: list[tuple[str, str, str]] = field(default_factory=list)
    cards: list[NetworkCard] = field(default_factory=list)
    provenance: list[tuple[str, str]] = field(default_factory=list)
    reach: int = 5

    @property
    def is_search(self) -> bool:
        return isinstance(self.run, SearchRun)


def table_space(table: LatencyTable) -> SearchSpace:
    """The space that a latency table is about."""
    return SearchSpace.from_config(table.space)


def latency_of(
    genotype: Genotype, table: LatencyTable | None = None
) -> tuple[float, list[float] | None] | None:
    """Milliseconds of a network and of each of its layers, or None where not known.

    With a table of the genotype's space, and of its input shape where that is known:
    its prediction. Without one, or with another: what the provenance says, and None for
    the layers.
    """
    shape = genotype.provenance.get("input_shape")
    if table is not None and shape in (None, table.input_shape):
        try:
            indices = table_space(table).indices(genotype)
        except ValueError:
            pass
        else:
            rows = zip(table.layer_ms, indices, strict=True)
            return table.predict(indices), [row[i] for row, i in rows]
    measured = genotype.provenance.get("latency_ms")
    return None if measured is None else (float(measured), None)


def search_view(run: SearchRun, anchor: str, table: LatencyTable | None) -> RunView:
    """What the page says about a search."""
    view = RunView(run, anchor, "finished" if run.finished else "not finished")
    view.tiles = _search_tiles(run)
    view.cards = _cards(run, table)
    kernels = [
        slot.reach
        for card in view.cards
        for slot in card.drawing.slots
        if slot.row.spec
    ]
    view.reach = max([5, *kernels])
    view.provenance = search_provenance(run)
    return view


def training_view(
    run: TrainRun, anchor: str, predictions: Predictions | None
) -> RunView:
    """What the page says about a training."""
    view = RunView(run, anchor, "training")
    measured = [r["acc/top1"] for r in run.launches.scalars if "acc/top1" in r]
    if measured:
        view.tiles.append(
            (
                "best validation",
                percent(max(measured)),
                f"last: {percent(measured[-1])}",
            )
        )
    if predictions is not None:
        view.tiles.append(
            ("predictions", percent(predictions.accuracy),
             f"{predictions.num_clips} clips")
        )  # fmt: skip
    if run.genotype is not None:
        classes = lookup(run.launches.config, "model.cls_head.num_classes")
        known = classes if isinstance(classes, int) else None
        rows = layer_rows(run.genotype, num_classes=known)
        drawing = draw_network(rows)
        view.reach = max(5, *(slot.reach for slot in drawing.slots))
        view.cards = [
            NetworkCard(
                f"Network of space {run.genotype.space}",
                [],
                _facts(run.genotype, rows, None),
                rows,
                drawing,
                "genotype.json",
                run.genotype.to_json(),
            )
        ]
    if run.launches.seconds is not None:
        view.tiles.append(("duration", duration(run.launches.seconds), _starts(run)))
    view.provenance = training_provenance(run)
    return view


def _search_tiles(run: SearchRun) -> list[tuple[str, str, str]]:
    tiles = []
    best = run.best()
    if best is not None:
        tiles.append(
            ("chosen, validation", percent(best.entry.accuracy),
             f"{_when(run, best).lower()}, inherited weights")
        )  # fmt: skip
        tiles.append(
            (
                "its MACs per view",
                format_count(best.entry.macs),
                budget_text(run) if run.space else "budget not recorded",
            )
        )
        distinct = len({network.genotype.blocks for network in run.judged})
        tiles.append(("networks found", str(len(run.judged)), f"{distinct} different"))
        if len(run.networks) > 1:
            summary = Archive([n.entry for n in run.networks]).summary()
            mean = percent(summary["mean_pairwise_hamming"])
            tiles.append(("mean distance", mean, "of layers differ between two cycles"))
    if run.history:
        last = run.history[-1]
        tiles.append(("steps", str(last["step"] + 1), f"cycle {last['cycle'] + 1}"))
    if run.launches.seconds is not None:
        tiles.append(("duration", duration(run.launches.seconds), _starts(run)))
    return tiles


def _starts(run: Run) -> str:
    number = len(run.launches.folders)
    return f"{number} start{'s' if number != 1 else ''}" if number else ""


def _when(run: SearchRun, *networks: Network) -> str:
    """When networks were found: "Cycle 1", "Cycles 1, 3" or "End of search"."""
    if networks[0] is run.final and run.final not in run.networks:
        return "End of search"
    cycles = ", ".join(str(network.entry.cycle + 1) for network in networks)
    return f"Cycle{'s' if len(networks) > 1 else ''} {cycles}"


def _cards(run: SearchRun, table: LatencyTable | None) -> list[NetworkCard]:
    groups: dict[tuple[str, ...], list[Network]] = {}
    for network in run.judged:
        groups.setdefault(network.genotype.blocks, []).append(network)
    described = {}
    for blocks, group in groups.items():
        known = latency_of(group[0].genotype, table)
        described[blocks] = layer_rows(
            group[0].genotype,
            run.input_shape,
            run.num_classes,
            known[1] if known else None,
        )
    widest = dearest_layer(list(described.values()))
    measured = [n for n in run.judged if n.entry.accuracy is not None]
    points = [(n.entry.macs, n.entry.accuracy or 0.0) for n in measured]
    front = [measured[i] for i in pareto_front(points)]
    best = run.best()
    cards = []
    for blocks, group in groups.items():
        first = group[0]
        badges = []
        if best in group:
            badges.append("chosen")
        if any(network in front for network in group):
            badges.append("Pareto front")
        accuracy = ", ".join(percent(n.entry.accuracy) for n in group)
        facts = [("validation", accuracy)]
        facts += _facts(first.genotype, described[blocks], latency_of(
            first.genotype, table))  # fmt: skip
        if first.entry.distance is not None:
            facts.append(("distance to earlier", percent(first.entry.distance)))
        facts.append(("D at the time", f"{first.entry.diversity:.3f}"))
        cards.append(
            NetworkCard(
                _when(run, *group),
                badges,
                facts,
                described[blocks],
                draw_network(described[blocks], widest),
                Path(first.entry.file).name,
                first.text,
            )
        )
    return cards


def _facts(
    genotype: Genotype,
    rows: Sequence[LayerRow],
    latency: tuple[float, list[float] | None] | None,
) -> list[tuple[str, str]]:
    macs, params = total(rows)
    shape = rows[0].in_shape
    of = "" if shape is None else f" of {format_shape(shape)}"
    facts = [
        (f"MACs per view{of}", format_count(macs)),
        ("parameters", format_count(params)),
    ]
    if latency is not None:
        facts.append(("latency", f"{latency[0]:.2f} ms"))
    frames = temporal_reach(genotype)
    facts.append(("temporal reach", f"{frames} frame{'s' if frames > 1 else ''}"))
    skips = genotype.blocks.count("skip")
    facts.append(("skipped layers", f"{skips} of {len(genotype.blocks)}"))
    return facts


def age(moment: datetime | None, now: datetime) -> str:
    """How long ago a run wrote its last line."""
    if moment is None:
        return ""
    seconds = max(timedelta(0), now - moment).total_seconds()
    return f"last log line {duration(seconds)} before this page was made"


def read_table(path: str | Path | None) -> LatencyTable | None:
    """A latency table, checked against the space and shape that it names itself.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no latency table.
    """
    if path is None:
        return None
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        space = SearchSpace.from_config(data["space"]) if data else None
        shape = data.get("input_shape", ()) if data else ()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: {error}; expected a table of tools/build_latency_table.py"
        ) from error
    return load_latency_table(path, space, shape)
