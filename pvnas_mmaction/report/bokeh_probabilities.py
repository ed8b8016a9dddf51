# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""p of every layer over time: a map of all layers at one step, and of one layer."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from bokeh.models import (
    ColumnDataSource,
    CustomJS,
    HoverTool,
    LinearColorMapper,
    Range1d,
    Select,
    Slider,
    Span,
    TapTool,
)
from bokeh.plotting import figure

from ..space.layout import FAMILIES, BlockSpec
from .bokeh_style import add_color_bar, new_figure, share_mapper, source
from .palette import MUTED, TEXT, VERMILION
from .series import cycle_starts, thin
from .workdir import SearchRun

MAX_STEPS = 200
# Numbers of p on one page, which bounds its size: 6 bytes each.
MAX_NUMBERS = 50_000
ROW_PIXELS = 20


@dataclass(frozen=True)
class ProbabilityView:
    """What the page shows of p.

    Args:
        overview: Candidates against layers, at the step of the slider.
        detail: Candidates against steps, of the selected layer.
        step: Slider over the steps.
        layer: Selection of a layer.
    """

    overview: figure
    detail: figure
    step: Slider
    layer: Select

    @property
    def min_width(self) -> int:
        """Pixels below which the overview is scrolled instead of squeezed."""
        return 190 + 12 * round(self.overview.x_range.end + 0.5)


# Both callbacks read the cells of the chosen step or layer from one array of all p.
_ON_STEP = """
const t = step.value, n = cells.get_length();
cells.data.p = all_p.data.p.slice(t * n, (t + 1) * n);
const best = {};
for (let i = 0; i < n; i++) {
  const layer = cells.data.layer[i];
  if (!(layer in best) || cells.data.p[i] > cells.data.p[best[layer]]) best[layer] = i;
}
top_cells.data = {
  x: Object.values(best).map((i) => cells.data.x[i]),
  y: Object.values(best).map((i) => cells.data.candidate[i]),
};
cells.change.emit();
now.location = steps[t];
step.title = "Step " + steps[t] + " (cycle " + cycles[t] + ")";
"""
_ON_LAYER = """
const layer = Number(choice.value), n = cells.get_length();
const rows = [];
for (let i = 0; i < n; i++) if (cells.data.layer[i] === layer) rows.push(i);
const data = {left: [], right: [], candidate: [], p: [], step: []};
for (let t = 0; t < steps.length; t++) {
  for (const i of rows) {
    data.left.push(edges[t]); data.right.push(edges[t + 1]);
    data.candidate.push(cells.data.candidate[i]);
    data.p.push(all_p.data.p[t * n + i]); data.step.push(steps[t]);
  }
}
detail.data = data;
range.factors = rows.map((i) => cells.data.candidate[i]).reverse();
"""
_ON_TAP = """
const chosen = cells.selected.indices;
if (chosen.length > 0) {
  choice.value = String(cells.data.layer[chosen[0]]);
  cells.selected.indices = [];
}
"""


def probability_view(run: SearchRun, share: float = 1.0) -> ProbabilityView | None:
    """The view of a search; None without history.

    Args:
        run: The search.
        share: Of the numbers that a page may hold, those for this search.
    """
    if not run.history:
        return None
    candidates = run.candidates()
    num_cells = sum(len(row) for row in candidates)
    limit = max(2, min(MAX_STEPS, int(MAX_NUMBERS * share) // num_cells))
    history = thin(run.history, limit)
    steps = [record["step"] for record in history]
    cycles = [record["cycle"] + 1 for record in history]
    p = np.array(
        [[x for row in record["p"] for x in row] for record in history], np.float32
    )
    cells = _cells(candidates, p[-1])
    all_p = ColumnDataSource({"p": p.ravel()})
    names = _in_order({name for row in candidates for name in row})
    top_cells = ColumnDataSource(_top_cells(cells))
    # One scale for the whole search, so that colors of two steps compare.
    mapper = share_mapper(high=max(0.1, math.ceil(float(p.max()) * 10) / 10))
    overview = _overview(len(candidates), names, cells, top_cells, mapper)
    for border in _stage_borders(run):
        overview.add_layout(
            Span(location=border, dimension="height", line_color=MUTED, line_width=1)
        )
    edges = column_edges(steps)
    now = Span(
        location=steps[-1], dimension="height", line_color=VERMILION, line_width=2
    )
    detail_data = source(**_detail(candidates[0], p, steps, edges))
    most = max(len(row) for row in candidates)
    detail = _detail_plot(candidates[0], most, detail_data, edges, mapper)
    detail.add_layout(now)
    for start in cycle_starts(run.history):
        detail.add_layout(
            Span(
                location=start,
                dimension="height",
                line_color="#FFFFFF",
                line_dash="dashed",
            )
        )
    step = Slider(
        start=0,
        end=max(1, len(steps) - 1),
        value=len(steps) - 1,
        step=1,
        title=f"Step {steps[-1]} (cycle {cycles[-1]})",
        show_value=False,
        tooltips=False,
        bar_color="#0072B2",
        sizing_mode="stretch_width",
        disabled=len(steps) < 2,
        max_width=900,
        margin=(5, 16, 5, 16),
    )
    choice = Select(
        title="Layer",
        value="0",
        options=[(str(i), _layer_title(run, i)) for i in range(len(candidates))],
        sizing_mode="stretch_width",
        max_width=420,
    )
    shared = dict(cells=cells, all_p=all_p, steps=steps)
    step.js_on_change(
        "value",
        CustomJS(
            args=dict(shared, step=step, top_cells=top_cells, now=now, cycles=cycles),
            code=_ON_STEP,
        ),
    )
    choice.js_on_change(
        "value",
        CustomJS(
            args=dict(
                shared,
                choice=choice,
                detail=detail_data,
                edges=edges,
                range=detail.y_range,
            ),
            code=_ON_LAYER,
        ),
    )
    overview.add_tools(TapTool())
    cells.selected.js_on_change(
        "indices", CustomJS(args=dict(cells=cells, choice=choice), code=_ON_TAP)
    )
    return ProbabilityView(overview, detail, step, choice)


def _layer_title(run: SearchRun, index: int) -> str:
    if run.space is None:
        return f"layer {index}"
    layer = run.space.layers[index]
    return f"layer {index} (stage {layer.stage + 1}, {layer.out_channels} channels)"


def _in_order(names: set[str]) -> list[str]:
    """Candidates by family and kernels, skip last; such as parse to nothing by name."""

    def rank(name: str) -> tuple:
        try:
            spec = BlockSpec.parse(name)
        except ValueError:
            return len(FAMILIES), 0, 0, 0.0, name
        if spec.is_skip:
            return len(FAMILIES) + 1, 0, 0, 0.0, name
        family = list(FAMILIES).index(spec.family)
        kernels = spec.temporal_kernel, spec.spatial_kernel
        return family, *kernels, spec.expand_ratio, name

    return sorted(names, key=rank)


def _stage_borders(run: SearchRun) -> list[float]:
    """Between the last layer of a stage and the first of the next."""
    if run.space is None:
        return []
    layers = run.space.layers
    return [
        layer.index - 0.5
        for before, layer in itertools.pairwise(layers)
        if layer.stage != before.stage
    ]


def _cells(candidates: list[list[str]], p: np.ndarray) -> ColumnDataSource:
    layers = [i for i, row in enumerate(candidates) for _ in row]
    return source(
        layer=layers,
        x=layers,
        candidate=[name for row in candidates for name in row],
        p=p.tolist(),
    )


def _top_cells(cells: ColumnDataSource) -> dict[str, list]:
    """The most probable candidate of each layer."""
    best: dict[int, int] = {}
    p = cells.data["p"]
    for i, layer in enumerate(cells.data["layer"]):
        if layer not in best or p[i] > p[best[layer]]:
            best[layer] = i
    return {
        "x": [int(cells.data["x"][i]) for i in best.values()],
        "y": [cells.data["candidate"][i] for i in best.values()],
    }


def column_edges(steps: list[int]) -> list[float]:
    """Left edge of every step's column, and the right one of the last."""
    last = steps[-1] - steps[-2] if len(steps) > 1 else 1
    return [*map(float, steps), float(steps[-1] + last)]


def _detail(
    names: list[str], p: np.ndarray, steps: list[int], edges: list[float]
) -> dict[str, list]:
    """Columns of the detail for the first layer."""
    data: dict[str, list] = {
        key: [] for key in ("left", "right", "candidate", "p", "step")
    }
    for t, step in enumerate(steps):
        for i, name in enumerate(names):
            row = (edges[t], edges[t + 1], name, float(p[t, i]), step)
            for key, value in zip(data, row, strict=True):
                data[key].append(value)
    return data


def _overview(
    num_layers: int,
    names: list[str],
    cells: ColumnDataSource,
    top: ColumnDataSource,
    mapper: LinearColorMapper,
) -> figure:
    plot = new_figure(
        "All layers at this step",
        "layer",
        height=110 + ROW_PIXELS * len(names),
        x_range=Range1d(-0.5, num_layers - 0.5),
        y_range=list(reversed(names)),
    )
    squares = plot.rect(
        "x",
        "candidate",
        width=0.94,
        height=0.9,
        source=cells,
        fill_color={"field": "p", "transform": mapper},
        line_color=None,
    )
    plot.scatter("x", "y", source=top, size=8, fill_color="#FFFFFF", line_color=TEXT)
    plot.add_tools(
        HoverTool(
            renderers=[squares],
            tooltips=[
                ("layer", "@layer"),
                ("candidate", "@candidate"),
                ("p", "@p{0.000}"),
            ],
        )
    )
    plot.xaxis.ticker = list(range(0, num_layers, 1 if num_layers <= 12 else 5))
    plot.grid.visible = False
    add_color_bar(plot, mapper)
    return plot


def _detail_plot(
    names: list[str],
    most: int,
    data: ColumnDataSource,
    edges: list[float],
    mapper: LinearColorMapper,
) -> figure:
    plot = new_figure(
        "This layer over time",
        "step",
        height=110 + ROW_PIXELS * most,
        x_range=Range1d(edges[0], edges[-1]),
        y_range=list(reversed(names)),
    )
    strips = plot.hbar(
        "candidate",
        left="left",
        right="right",
        height=0.9,
        source=data,
        fill_color={"field": "p", "transform": mapper},
        line_color={"field": "p", "transform": mapper},
    )
    plot.add_tools(
        HoverTool(
            renderers=[strips],
            tooltips=[
                ("step", "@step"),
                ("candidate", "@candidate"),
                ("p", "@p{0.000}"),
            ],
        )
    )
    plot.grid.visible = False
    add_color_bar(plot, mapper)
    return plot
