# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The archive: genotypes that a search found, with cost and accuracy.

Every cycle of a search ends in one genotype, and the archive keeps them all in
the order in which they were found. It is plain data: one JSON file, written
atomically, so that a search killed at any moment leaves a whole file behind.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from ..space.genotype import write_atomically
from .diversity import hamming, mean_pairwise_hamming

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ArchiveEntry:
    """One genotype of the archive.

    Args:
        cycle: Cycle that ended in this genotype, from 0.
        step: Weights steps taken when it was derived.
        blocks: One block spec per layer.
        macs: Multiply-accumulate count for the input shape of the search.
        params: Number of parameters.
        accuracy: Validation accuracy with inherited weights, in [0, 1], or None
            where it was not measured: with those of the cycle's end and, once the
            search is done, with those of its end.
        distance: Share of layers that differ from the nearest earlier entry, or
            None for the first.
        diversity: D(p) when the genotype was derived.
        file: Genotype file, relative to the folder of the archive.

    Raises:
        ValueError: Naming the field, what was expected and what was found.
    """

    cycle: int
    step: int
    blocks: tuple[str, ...]
    macs: int
    params: int
    accuracy: float | None
    distance: float | None
    diversity: float
    file: str

    def __post_init__(self) -> None:
        if isinstance(self.blocks, str) or not all(
            isinstance(block, str) for block in self.blocks
        ):
            raise ValueError(
                f"blocks: expected one block spec per layer, found {self.blocks!r}"
            )
        object.__setattr__(self, "blocks", tuple(self.blocks))
        if not self.blocks:
            raise ValueError("blocks: expected at least one layer, found none")
        for name in ("cycle", "step", "macs", "params"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(
                    f"{name}: expected an integer of 0 or more, found {value!r}"
                )
        for name in ("accuracy", "distance", "diversity"):
            value = getattr(self, name)
            if value is None and name in ("accuracy", "distance"):
                continue
            if (
                not isinstance(value, int | float)
                or isinstance(value, bool)
                or not -1e-4 <= value <= 1 + 1e-4
            ):
                raise ValueError(
                    f"{name}: expected a number in [0, 1], found {value!r}"
                )
        if not isinstance(self.file, str):
            raise ValueError(f"file: expected a path, found {self.file!r}")


class Archive:
    """Genotypes found so far, in order.

    Args:
        entries: Entries to start with. Defaults to none.
        final: The network that the search ended in; it may be one of the archive, or
            lie near to those. Default None: the search goes on.
    """

    def __init__(
        self, entries: Sequence[ArchiveEntry] = (), final: ArchiveEntry | None = None
    ) -> None:
        self.entries: list[ArchiveEntry] = []
        self.final = final
        for entry in entries:
            self.add(entry)

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, entry: ArchiveEntry) -> None:
        """Append an entry. A genotype that was found before is kept again.

        Raises:
            ValueError: If the entry has another number of layers than the rest.
        """
        if self.entries and len(entry.blocks) != len(self.entries[0].blocks):
            raise ValueError(
                f"blocks: expected {len(self.entries[0].blocks)} layers as in the "
                f"archive, found {len(entry.blocks)}"
            )
        self.entries.append(entry)

    def judge(self, cycle: int, accuracy: float) -> None:
        """Give the genotype of a cycle another validation accuracy.

        Args:
            cycle: Number of the cycle, from 0.
            accuracy: A share.

        Raises:
            ValueError: The archive has no genotype of this cycle.
        """
        for position, entry in enumerate(self.entries):
            if entry.cycle == cycle:
                self.entries[position] = replace(entry, accuracy=accuracy)
                return
        cycles = [entry.cycle for entry in self.entries]
        raise ValueError(f"cycle: expected one of {cycles}, found {cycle}")

    def distance(self, blocks: Sequence[str]) -> float | None:
        """Return the share of layers that differ from the nearest entry.

        Args:
            blocks: One block spec per layer.

        Returns:
            A share in [0, 1], or None while the archive is empty.

        Raises:
            ValueError: If the number of layers differs from the archive's.
        """
        if not self.entries:
            return None
        return min(hamming(blocks, entry.blocks) for entry in self.entries)

    def best(self) -> ArchiveEntry | None:
        """Return ``final``, or while there is none the entry of highest accuracy; where
        several tie, the cheapest in multiply-accumulates, and of these the earliest.

        Entries without accuracy count only where none has one; then the latest
        is the best. None for an empty archive.
        """
        if self.final is not None:
            return self.final
        judged = [(e.accuracy, e) for e in self.entries if e.accuracy is not None]
        if not judged:
            return self.entries[-1] if self.entries else None
        return max(judged, key=lambda pair: (pair[0], -pair[1].macs))[1]

    def summary(self) -> dict:
        """Return ``mean_pairwise_hamming``, ``distinct`` and ``best_accuracy``.

        Returns:
            The mean share of differing layers over all pairs of entries (0 below
            two entries), the number of different genotypes among them, and the
            highest accuracy, that of ``final`` included (None where none was
            measured).
        """
        found = [*self.entries, *([self.final] if self.final else [])]
        accuracies = [e.accuracy for e in found if e.accuracy is not None]
        return {
            "mean_pairwise_hamming": mean_pairwise_hamming(
                [entry.blocks for entry in self.entries]
            ),
            "distinct": len({entry.blocks for entry in self.entries}),
            "best_accuracy": max(accuracies, default=None),
        }

    def to_dict(self) -> dict:
        """Return plain data, fit for JSON, that :meth:`from_dict` reads."""
        return {
            "format_version": FORMAT_VERSION,
            "entries": [
                {**asdict(entry), "blocks": list(entry.blocks)}
                for entry in self.entries
            ],
            "final": self.final
            and {**asdict(self.final), "blocks": list(self.final.blocks)},
            "summary": self.summary(),
        }

    @classmethod
    def from_dict(cls, data: dict, where: str = "archive") -> Archive:
        """Read what :meth:`to_dict` wrote.

        Args:
            data: The parsed JSON object. Its summary is computed anew.
            where: Name of the source in error messages.

        Raises:
            ValueError: Naming source, place, what was expected and found.
        """
        if isinstance(data, dict):
            data = {"final": None, **data}  # earlier files do not have it
            version = data.get("format_version", FORMAT_VERSION)
            if version != FORMAT_VERSION:  # before its keys, which may be others
                raise ValueError(
                    f"{where}, format_version: expected {FORMAT_VERSION}, found "
                    f"{version!r}; use the release that wrote the file"
                )
        _check_keys(data, ("format_version", "entries", "final", "summary"), where)
        if not isinstance(data["entries"], list):
            raise ValueError(
                f"{where}, entries: expected a list, found {data['entries']!r}"
            )
        archive = cls()
        for index, item in enumerate(data["entries"]):
            place = f"{where}, entry {index}"
            entry = _read_entry(item, place)
            try:
                archive.add(entry)
            except ValueError as error:
                raise ValueError(f"{place}, {error}") from error
        if data["final"] is not None:
            archive.final = _read_entry(data["final"], f"{where}, final")
        return archive

    def save(self, path: str | os.PathLike) -> None:
        """Write the archive as JSON; the file is replaced whole or not at all.

        Args:
            path: File to write. Its folder is made where missing.
        """
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
        write_atomically(path, text)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Archive:
        """Read an archive file.

        Raises:
            ValueError: If the file is not JSON, or as in :meth:`from_dict`.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: expected JSON, found {error}") from error
        return cls.from_dict(data, where=str(path))


def _read_entry(item: object, place: str) -> ArchiveEntry:
    if isinstance(item, dict):
        # Earlier files have a tolerance, which nothing uses any more.
        item = {key: value for key, value in item.items() if key != "tolerance"}
    _check_keys(item, tuple(f.name for f in fields(ArchiveEntry)), place)
    assert isinstance(item, dict)
    if not isinstance(item["blocks"], list | tuple):
        raise ValueError(f"{place}, blocks: expected a list, found {item['blocks']!r}")
    try:
        return ArchiveEntry(**item)
    except ValueError as error:
        raise ValueError(f"{place}, {error}") from error


def _check_keys(data: object, expected: tuple[str, ...], where: str) -> None:
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected an object, found {data!r}")
    if set(data) != set(expected):
        missing = sorted(set(expected) - set(data))
        unknown = sorted(set(data) - set(expected))
        raise ValueError(
            f"{where}: expected the keys {sorted(expected)}, found missing "
            f"{missing} and unknown {unknown}"
        )
