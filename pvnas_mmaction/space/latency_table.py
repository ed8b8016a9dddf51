# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Latency tables: measured milliseconds of every candidate at every layer.

A table belongs to one space, one input shape, one device and one number of threads.
``tools/build_latency_table.py`` writes it; searches and derivation read it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .genotype import write_atomically
from .search_space import SearchSpace

FORMAT_VERSION = 1


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds per view, batch size 1 unless ``setting`` says otherwise.

    Args:
        space: Config data of the space.
        input_shape: [C, T, H, W].
        fixed_ms: What every network takes outside its layers.
        layer_ms: Milliseconds of each candidate of each layer.
        setting: How it was measured: device, threads, dtype, rounds, versions.
    """

    space: dict[str, Any]
    input_shape: list[int]
    fixed_ms: float
    layer_ms: list[list[float]]
    setting: dict[str, Any] = field(default_factory=dict)

    def predict(self, indices: Sequence[int]) -> float:
        """Predicted milliseconds of one network: the sum over its layers."""
        chosen = (row[i] for row, i in zip(self.layer_ms, indices, strict=True))
        return self.fixed_ms + math.fsum(chosen)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as JSON, whole or not at all."""
        data = {"format_version": FORMAT_VERSION, **asdict(self)}
        write_atomically(path, json.dumps(data, indent=1) + "\n")


def load_latency_table(
    path: str | os.PathLike[str], space: SearchSpace, input_shape: Sequence[int]
) -> LatencyTable:
    """Read a table and check that it is about a space and an input shape.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no latency table, or one for something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such latency table; make it with tools/build_latency_table.py"
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, found {error}") from error
    version = data.pop("format_version", None) if isinstance(data, dict) else None
    if version is not None:  # before its keys, which may be others
        same = version == FORMAT_VERSION
        _expect(same, path, "format_version", version, FORMAT_VERSION)
    expected = {f.name for f in fields(LatencyTable)}
    if version is None or set(data) != expected:
        found = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise ValueError(
            f"{path}: found {found}, expected an object with the keys "
            f"{sorted({'format_version', *expected})}"
        )
    table = LatencyTable(**data)
    for name in ("space", "setting"):
        _expect(isinstance(data[name], dict), path, name, data[name], "an object")
    if table.space != space.to_config():
        raise ValueError(
            f"{path}: found a table for space {table.space.get('name')!r} with other "
            f"stages or candidates, expected the space {space.name!r}; build the table "
            "anew"
        )
    shape = list(input_shape)
    _expect(table.input_shape == shape, path, "input_shape", table.input_shape, shape)
    rows = table.layer_ms
    _expect(isinstance(rows, list), path, "layer_ms", rows, "a list of rows")
    for layer, row in enumerate(rows):
        place = f"layer_ms[{layer}]"
        _expect(isinstance(row, list), path, place, row, "a list of milliseconds")
    counts = [len(row) for row in rows]
    if counts != [len(c) for c in space.candidates]:
        raise ValueError(
            f"{path}: layer_ms: found rows of {counts} entries, expected one entry for "
            "each candidate of each layer"
        )
    times = {"fixed_ms": table.fixed_ms}
    for layer, row in enumerate(rows):
        times.update((f"layer_ms[{layer}][{i}]", ms) for i, ms in enumerate(row))
    for place, ms in times.items():
        is_number = isinstance(ms, int | float) and not isinstance(ms, bool)
        expected = "milliseconds, a finite number of 0 or more"
        _expect(is_number and 0 <= ms < math.inf, path, place, ms, expected)
    return table


def _expect(
    holds: bool, path: Path, place: str, found: object, expected: object
) -> None:
    if not holds:
        raise ValueError(
            f"{path}: {place}: found {found!r}, expected {expected}; build the table "
            "anew"
        )
