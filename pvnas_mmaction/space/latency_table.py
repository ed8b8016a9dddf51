# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
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
from .genotype import write_atomically
from .search_space import SearchSpace

FORMAT_VERSION = 2
TIME = in_range("[0, inf)")
REBUILD = "build the table again with tools/build_latency_table.py"


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
        data = {"format_version": FORMAT_VERSION, **asdict(self)}
        write_atomically(path, json.dumps(data, indent=1) + "\n")


def load_latency_table(
    path: str | os.PathLike[str], space: SearchSpace, input_shape: Sequence[int]
) -> LatencyTable:
    """Read a table about a space and an input shape; FileNotFoundError or ValueError
    where there is none, or one for something else."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such latency table; make it with tools/build_latency_table.py"
        )
    with reading(path, "a latency table as JSON"):
        data = json.loads(path.read_text(encoding="utf-8"))
    counts = [len(candidates) for candidates in space.candidates]
    same = f"the space {space.name!r} with the same stages and candidates"
    rules: dict[str, Rule] = dict(
        format_version=one_of(FORMAT_VERSION),
        space=(same, lambda v: v == space.to_config()),
        input_shape=(str(list(input_shape)), lambda v: v == list(input_shape)),
        fixed_ms=TIME,
        layer_ms=(
            f"rows of {counts} milliseconds of 0 or more",
            lambda rows: (
                is_list(rows)
                and all(map(is_list, rows))
                and [len(row) for row in rows] == counts
                and all(TIME[1](ms) for row in rows for ms in row)
            ),
        ),
        setting=MAPPING,
    )
    data = read(data, rules, tuple(rules), str(path), REBUILD)
    del data["format_version"]
    return LatencyTable(**data)
