# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Colors that a color-blind reader can tell apart, and a shape beside each color.

The categorical colors are those of Okabe and Ito, "Color Universal Design" (2008); maps
use cividis (Nunez, Anderton and Renslow, 2018), which reads the same with and without
color vision.
"""

from __future__ import annotations

FAMILY_COLORS = {
    "mb": "#0072B2",
    "mb3d": "#D55E00",
    "ts": "#009E73",
    "rb": "#E69F00",
}
# A family is told by the shape of its slabs too; see drawing.py.
FAMILY_SHAPES = {
    "mb": "slabs: a spatial and a temporal convolution",
    "mb3d": "one solid bar: a joint convolution",
    "ts": "staggered slabs: a shift",
    "rb": "hatched slabs: full convolutions",
}
OTHER_COLOR = "#8A8F98"
SKIP_COLOR = "#5B6169"

BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
VERMILION = "#D55E00"
SKY = "#56B4E9"
PURPLE = "#CC79A7"
BLACK = "#222222"

RUN_COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
RUN_MARKERS = (
    "circle", "square", "triangle", "diamond", "inverted_triangle", "hex", "star",
)  # fmt: skip
RUN_DASHES = ("solid", "dashed", "dotdash", "dotted", "dashdot", "solid", "dashed")

TEXT = "#24292F"
MUTED = "#57606A"
GRID = "#E6E8EB"
BAND = "#F4F5F7"


def run_style(index: int) -> tuple[str, str, str]:
    """Color, marker and dash of the index-th run; they repeat after seven."""
    i = index % len(RUN_COLORS)
    return RUN_COLORS[i], RUN_MARKERS[i], RUN_DASHES[i]
