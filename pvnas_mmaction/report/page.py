# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The report: one HTML file that needs neither network nor server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import bokeh
from bokeh.document import Document
from bokeh.embed import components
from bokeh.models import GlyphRenderer, UIElement
from bokeh.resources import Resources
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .. import __version__
from ..space.latency_table import LatencyTable
from .bokeh_archive import archive_plot, cost_kinds, distance_plot
from .bokeh_network import min_width, network_plot
from .bokeh_probabilities import probability_view
from .bokeh_search import comparison_plot, search_plots
from .bokeh_training import class_accuracy_plot, confusion_plot, training_plots
from .layers import format_count, format_shape
from .palette import FAMILY_COLORS, FAMILY_SHAPES
from .predictions import Predictions
from .views import RunView, age, latency_of, search_view, training_view
from .workdir import Network, Run, SearchRun, TrainRun


@dataclass
class Plots:
    """The plots of a page; each gets a key, by which the template places it."""

    models: dict[str, UIElement] = field(default_factory=dict)

    def add(self, key: str, model: UIElement | None) -> str | None:
        """Keep a plot; gives its key, or None where there is none."""
        if model is None:
            return None
        self.models[key] = model
        for renderer in model.select({"type": GlyphRenderer}):
            # Looks of states that the page does not use, and half of its size.
            renderer.nonselection_glyph = renderer.muted_glyph = None
        return key

    def embed(self) -> tuple[str, dict[str, Markup], str]:
        """Script, a place for each plot, and the library, all as HTML."""
        if not self.models:
            return "", {}, ""
        # One document, as plots that share a range or a slider need; its models are
        # counted once at the end, not anew for every plot, which takes a minute.
        document = Document()
        with document.models.freeze():
            for model in self.models.values():
                document.add_root(model)
        script, places = components(self.models)
        library = Resources(
            mode="inline", components=["bokeh", "bokeh-widgets"], log_level="error"
        )
        marked = {key: Markup(place) for key, place in places.items()}
        return Markup(script), marked, Markup(library.render())


@dataclass
class Section:
    """A run with its plots' keys, as the template takes it."""

    view: RunView
    age: str
    networks: list[tuple[str, int]] = field(default_factory=list)
    probabilities: dict[str, str] | None = None
    map_width: int = 0
    course: list[str] = field(default_factory=list)
    archive: list[str] = field(default_factory=list)
    archive_notes: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)


def render_report(
    runs: Sequence[Run],
    predictions: dict[Path, Predictions] | None = None,
    table: LatencyTable | None = None,
    title: str = "",
    now: datetime | None = None,
) -> str:
    """The page as text.

    Args:
        runs: What was read, in the order to show; see :func:`read_work_dirs`.
        predictions: Predictions by work directory, for trainings.
        table: Latency table to predict latencies with. Default: none.
        title: Headline. Default: one made from the runs' names.
        now: Time of writing. Default: the clock's.
    """
    now = now or datetime.now()
    plots = Plots()
    searches = [run for run in runs if isinstance(run, SearchRun)]
    compared = len(searches) > 1
    sections = []
    for i, run in enumerate(runs):
        if isinstance(run, SearchRun):
            view = search_view(run, f"run-{i + 1}", table)
            section = Section(
                view, "" if run.finished else age(run.launches.ended, now)
            )
            _add_search(section, run, plots, table, not compared, 1 / len(searches))
        else:
            found = (predictions or {}).get(run.path)
            view = training_view(run, f"run-{i + 1}", found)
            section = Section(view, "")
            _add_training(section, run, plots, found)
        for n, card in enumerate(view.cards):
            key = plots.add(
                f"{view.anchor}-network-{n + 1}", network_plot(card.drawing, view.reach)
            )
            section.networks.append((str(key), min_width(card.drawing)))
        sections.append(section)
    comparison = _comparison(searches, sections, plots, table) if compared else None
    script, places, library = plots.embed()
    environment = Environment(
        loader=PackageLoader("pvnas_mmaction.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = format_count
    environment.filters["shape"] = format_shape
    names = [run.name for run in runs]
    return environment.get_template("report.html.jinja").render(
        title=title or _title(searches, names),
        names=names,
        written=now.strftime("%Y-%m-%d %H:%M"),
        version=__version__,
        bokeh_version=bokeh.__version__,
        sections=sections,
        comparison=comparison,
        families=[(f, FAMILY_COLORS[f], FAMILY_SHAPES[f]) for f in FAMILY_COLORS],
        places=places,
        titles={key: getattr(m, "name", None) for key, m in plots.models.items()},
        script=script,
        library=library,
    )


def _title(searches: Sequence[SearchRun], names: Sequence[str]) -> str:
    kind = "Search report" if searches else "Training report"
    return f"{kind}: {names[0]}" if len(names) == 1 else f"{kind}: {len(names)} runs"


def _add_search(
    section: Section,
    run: SearchRun,
    plots: Plots,
    table: LatencyTable | None,
    alone: bool,
    share: float,
) -> None:
    anchor = section.view.anchor
    view = probability_view(run, share)
    if view is not None:
        parts = {
            "step": view.step,
            "overview": view.overview,
            "layer": view.layer,
            "detail": view.detail,
        }
        section.probabilities = {
            name: str(plots.add(f"{anchor}-p-{name}", part))
            for name, part in parts.items()
        }
        section.map_width = view.min_width
    for name, plot in search_plots(run).items():
        section.course.append(str(plots.add(f"{anchor}-{name}", plot)))
    if alone:
        section.archive, section.archive_notes = _archive(
            [run], plots, f"{anchor}-archive", table
        )
    distances = plots.add(f"{anchor}-distances", distance_plot(run))
    if distances is not None:
        section.archive.append(distances)
    elif run.networks:
        section.archive_notes.append(
            "Distances between networks are drawn from the second network on."
        )


def _archive(
    runs: Sequence[SearchRun], plots: Plots, prefix: str, table: LatencyTable | None
) -> tuple[list[str], list[str]]:
    """Keys of the plots of accuracy against cost, and what can't be plotted."""

    def latency(network: Network) -> float | None:
        known = latency_of(network.genotype, table)
        return None if known is None else known[0]

    keys, notes = [], []
    for kind in cost_kinds(latency):
        key = plots.add(f"{prefix}-{kind.name.lower()}", archive_plot(runs, kind))
        if key is not None:
            keys.append(key)
        elif kind.name == "latency":
            known = [kind.of(network) for run in runs for network in run.judged]
            if known and known == [None] * len(known):
                notes.append(
                    "No latency is known of these networks: give --latency-table a "
                    "table of tools/build_latency_table.py of their space and input."
                )
    if not keys and any(run.networks for run in runs):
        notes.append("No network has a validation accuracy: there is no plot of it.")
    return keys, notes


def _add_training(
    section: Section, run: TrainRun, plots: Plots, predictions: Predictions | None
) -> None:
    anchor = section.view.anchor
    for name, plot in training_plots(run).items():
        section.course.append(str(plots.add(f"{anchor}-{name}", plot)))
    if predictions is not None:
        made = {
            "confusion": confusion_plot(predictions),
            "class-accuracy": class_accuracy_plot(predictions),
        }
        section.classes = [
            str(plots.add(f"{anchor}-{name}", plot)) for name, plot in made.items()
        ]


@dataclass
class Comparison:
    """Several searches side by side.

    Args:
        labels: Of the key figures, in order.
        plots: Keys of plots that hold all of them.
        notes: What can't be plotted.
    """

    labels: list[str]
    plots: list[str]
    notes: list[str]


def _comparison(
    runs: Sequence[SearchRun],
    sections: Sequence[Section],
    plots: Plots,
    table: LatencyTable | None,
) -> Comparison:
    keys, notes = _archive(runs, plots, "compare-archive", table)
    for column, title in (
        ("diversity", "Diversity D"),
        ("argmax_share", "Mean probability of the most probable candidate"),
    ):
        plot = comparison_plot(runs, column, title, "share")
        if plot is not None:
            keys.append(str(plots.add(f"compare-{column}", plot)))
    labels = dict.fromkeys(
        label for section in sections for label, _, _ in section.view.tiles
    )
    return Comparison(list(labels), keys, notes)
