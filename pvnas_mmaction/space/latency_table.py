"""Latency tables: measured milliseconds of every candidate at every layer, for one
space, input shape, device and number of threads."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .checks import MAPPING, Rule, in_range, is_list, one_of, read, reading
from .genotype import write_json
from .search_space import SearchSpace

FORMAT_VERSION = 2


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of a view [C, T, H, W], and how they were measured."""

    space: dict[str, Any]
    input_shape: list[int]
    fixed_ms: float
    layer_ms: list[list[float]]
    setting: dict[str, Any] = field(default_factory=dict)

    def predict(self, indices: Sequence[int]) -> float:
        chosen = (row[i] for row, i in zip(self.layer_ms, indices, strict=True))
        return self.fixed_ms + math.fsum(chosen)

    def save(self, path: str | os.PathLike[str]) -> None:
        write_json(path, {"format_version": FORMAT_VERSION, **asdict(self)})


def load_latency_table(
    path: str | os.PathLike[str], space: SearchSpace, input_shape: Sequence[int]
) -> LatencyTable:
    """Read a table about a space and an input shape; FileNotFoundError or ValueError
    where there is none, or one for something else."""
    with reading(path, "a latency table as JSON"):
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    same = f"a table of the space {space.name!r} as it is now, from `pvnas latency`"
    rules: dict[str, Rule] = dict(
        format_version=one_of(FORMAT_VERSION),
        space=(same, lambda v: v == space.to_config()),
        input_shape=(str(list(input_shape)), lambda v: v == list(input_shape)),
        fixed_ms=in_range("[0, inf)"),
        layer_ms=("rows of milliseconds", is_list),
        setting=MAPPING,
    )
    data = read(data, rules, tuple(rules), str(path))
    del data["format_version"]
    return LatencyTable(**data)
