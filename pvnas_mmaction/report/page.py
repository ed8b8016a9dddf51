"""The report: one HTML file that needs neither network nor server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from mmengine.config import Config

from .. import __version__
from ..models.recognizers import view_of
from ..search.diagnostics import MEANINGS
from ..search.diversity import mean_pairwise_hamming
from ..search.schedule import MISSED_PLAN
from ..space.cost_table import KINDS
from ..space.genotype import Genotype
from . import figures, layers
from .data import Network, Run, SearchRun, TrainRun, lookup
from .drawing import family_colors, network_plot
from .plot import Plot, scripts
from .predictions import Predictions, predictions_of


@dataclass
class Card:
    """One network. Cycles that found the same one share a card."""

    genotype: Genotype
    rows: list[layers.LayerRow]
    title: str
    networks: list[Network] = field(default_factory=list)
    badges: list[str] = field(default_factory=list)
    key: str = ""


@dataclass
class Section:
    """A run, its networks, and the keys of its plots; ``columns`` are step and cycle of
    each column of the plots of p, ``missed`` the networks of cycles far from plan."""

    run: Run
    anchor: str
    predictions: Predictions | None = None
    cards: list[Card] = field(default_factory=list)
    missed: list[Network] = field(default_factory=list)
    columns: list[tuple[int, int]] = field(default_factory=list)
    course: list[str] = field(default_factory=list)
    archive: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)


class Report:
    """The page of some runs, and its plots by their id on the page."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.plots: dict[str, Plot] = {}
        self.searches = [run for run in runs if isinstance(run, SearchRun)]
        self.sections = [Section(run, f"run-{i}") for i, run in enumerate(runs, 1)]
        for section in self.sections:
            if isinstance(section.run, SearchRun):
                self._add_search(section, section.run)
            elif isinstance(section.run, TrainRun):
                self._add_training(section, section.run)
        self.comparison: list[str] = []
        if len(self.searches) > 1:
            plots = figures.archive_plots(self.searches)
            plots |= figures.comparison_plots(self.searches)
            self.comparison = self._add("compare", plots)

    def render(self, title: str = "") -> str:
        kind = "Search report" if self.searches else "Training report"
        names = [section.run.name for section in self.sections]
        what = names[0] if len(names) == 1 else f"{len(names)} runs"
        environment = Environment(
            loader=PackageLoader("pvnas_mmaction.report", "templates"), autoescape=True,
            undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        environment.filters.update(
            count=layers.format_count,
            shape=layers.format_shape,
            total=layers.total,
            reach=layers.temporal_reach,
            percent=layers.percent,
            duration=lambda seconds: timedelta(seconds=round(seconds)),
            mean_distance=mean_pairwise_hamming,
        )
        library, specs = scripts(self.plots) if self.plots else ("", "")
        return environment.get_template("report.html.jinja").render(
            report=self,
            title=title or f"{kind}: {what}",
            now=datetime.now().replace(microsecond=0),
            version=__version__,
            families=family_colors(),
            kinds=KINDS,
            missed_plan=MISSED_PLAN,
            diagnostics=MEANINGS,
            lookup=lookup,
            library=Markup(library),
            specs=Markup(specs),
        )

    def _add(self, prefix: str, plots: Mapping[str, Plot]) -> list[str]:
        """Keep plots; gives their keys."""
        added = {f"{prefix}-{name}": plot for name, plot in plots.items()}
        self.plots |= added
        return list(added)

    def _add_search(self, section: Section, run: SearchRun) -> None:
        self._add_cards(section, _cards(run))
        # Other modes have no feedback to follow the plan with.
        if lookup(run.record, "schedule.mode") in (None, "diversity"):
            for network in run.networks:
                entry = network.entry
                if abs(entry.diversity - entry.planned_diversity) > MISSED_PLAN:
                    section.missed.append(network)
        if run.history and run.space:
            plots, section.columns = figures.probability_plots(run)
            self._add(section.anchor, plots)
        section.course = self._add(section.anchor, figures.search_plots(run))
        plots = figures.archive_plots([run]) if len(self.searches) == 1 else {}
        if len(run.networks) > 1:
            plots["distances"] = figures.distance_plot(run)
        section.archive = self._add(section.anchor, plots)

    def _add_training(self, section: Section, run: TrainRun) -> None:
        if run.genotype is not None:
            classes = lookup(run.config, "model.cls_head.num_classes")
            try:
                shape, _ = view_of(Config(run.config))
            except ValueError:  # a pipeline that does not say it
                shape = None
            rows = layers.layer_rows(run.genotype, shape, classes)
            title = f"Network of space {run.genotype.space}"
            self._add_cards(section, [Card(run.genotype, rows, title)])
        section.course = self._add(section.anchor, figures.training_plots(run))
        if predictions := predictions_of(run):
            section.predictions = predictions
            plots = figures.class_plots(predictions)
            section.classes = self._add(section.anchor, plots)

    def _add_cards(self, section: Section, cards: list[Card]) -> None:
        """Add networks, drawn on one scale."""
        section.cards = cards
        for i, card in enumerate(cards, start=1):
            plot = network_plot(card.rows, card.title, [one.rows for one in cards])
            (card.key,) = self._add(section.anchor, {f"network-{i}": plot})


def _cards(run: SearchRun) -> list[Card]:
    groups: dict[tuple[str, ...], list[Network]] = {}
    for network in run.judged:
        groups.setdefault(network.genotype.blocks, []).append(network)
    measured = [n for n in run.judged if n.entry.accuracy is not None]
    points = [(n.entry.macs, n.entry.accuracy or 0.0) for n in measured]
    front = [measured[i] for i in figures.pareto_front(points)]
    best, cards = run.best(), []
    for group in groups.values():
        cycles = ", ".join(str(network.entry.cycle + 1) for network in group)
        title = f"Cycle{'s' if len(group) > 1 else ''} {cycles}"
        if group[0] not in run.networks:
            title = "End of search"
        genotype = group[0].genotype
        rows = layers.layer_rows(genotype, run.input_shape, run.num_classes)
        card = Card(genotype, rows, title, group)
        if best in group:
            card.badges.append("chosen")
        if any(network in front for network in group):
            card.badges.append("Pareto front")
        cards.append(card)
    return cards
