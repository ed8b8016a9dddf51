"""Plots as Vega-Lite specifications, the templates in ``plots/`` filled with data.
Color-blind readers can tell the colors apart (Okabe and Ito, 2008; cividis)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined

from ..space.checks import wrong

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7")
FORMATS = (".png", ".svg", ".pdf")
FIGURE_WIDTH = 420

_TEMPLATES = Environment(
    loader=PackageLoader("pvnas_mmaction.report", "plots"), undefined=StrictUndefined
)
CONFIG = json.loads(_TEMPLATES.get_template("config.json").render())
CONFIG["range"] = {"category": [*PALETTE, "#222222"]}
COURSE = json.loads(_TEMPLATES.get_template("course.json").render())


@dataclass
class Plot:
    """A title, a Vega-Lite specification, and the pixels below which it is scrolled."""

    title: str
    spec: dict[str, Any]
    min_width: int = 200


def make_plot(template: str, title: str, min_width: int = 200, **values: Any) -> Plot:
    """A plot out of ``plots/TEMPLATE.json.jinja``."""
    text = _TEMPLATES.get_template(f"{template}.json.jinja").render(**values)
    spec = json.loads(text)
    if "layer" in spec:  # Vega warns of layers without data
        spec["layer"] = [x for x in spec["layer"] if x.get("data") != {"values": []}]
    return Plot(title, spec, min_width)


def figure_bytes(plot: Plot, kind: str) -> bytes:
    """A plot as the content of a file, one of :data:`FORMATS`."""
    width = max(FIGURE_WIDTH, plot.min_width)
    spec = {"title": plot.title, **plot.spec, "width": width}
    if kind == ".svg":
        return vl_convert.vegalite_to_svg(spec, config=CONFIG).encode()
    if kind == ".pdf":
        return vl_convert.vegalite_to_pdf(spec, config=CONFIG)
    return vl_convert.vegalite_to_png(spec, scale=2, config=CONFIG)


def save_figure(plot: Plot, path: Path) -> None:
    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise wrong(str(path), f"one of the endings {', '.join(FORMATS)}", repr(kind))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(figure_bytes(plot, kind))


def scripts(plots: Mapping[str, Plot]) -> tuple[str, str]:
    """For a page: Vega's library, and the specifications as JSON by key."""
    data = dict(config=CONFIG, specs={key: plot.spec for key, plot in plots.items()})
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return vl_convert.javascript_bundle(), text.replace("</", "<\\/")
