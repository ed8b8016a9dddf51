"""The archive: genotypes that a search found, with costs and accuracy."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .diversity import hamming


@dataclass(frozen=True)
class ArchiveEntry:
    """One genotype of the archive.

    Args:
        cycle: Cycle that ended in it, from 0; -1: before the first one, from a donor.
        step: Weights steps taken when it was derived.
        costs: Cost by kind.
        accuracy: Validation accuracy, a share, when it was judged last, or None.
        distance: Share of layers that differ from the nearest earlier entry, or None.
        diversity, planned_diversity: D(p) and D* when it was derived.
        file: Genotype file, relative to the folder of the archive.
    """

    cycle: int
    step: int
    blocks: tuple[str, ...]
    costs: dict[str, float]
    accuracy: float | None
    distance: float | None
    diversity: float
    planned_diversity: float
    file: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))

    @property
    def macs(self) -> int:
        return int(self.costs["flops"])

    @property
    def params(self) -> int:
        return int(self.costs["params"])


@dataclass
class Archive:
    """Genotypes found so far, in order, and ``final``, the network that the search
    ended in, which may be one of them (None: it has not ended)."""

    entries: list[ArchiveEntry] = field(default_factory=list)
    final: ArchiveEntry | None = None

    def distance(self, blocks: Sequence[str]) -> float | None:
        """Share of layers that differ from the nearest entry; None without one."""
        return min((hamming(blocks, e.blocks) for e in self.entries), default=None)

    def best(self) -> ArchiveEntry | None:
        """``final``, or while there is none the entry of highest accuracy, of several
        the one of fewest multiply-accumulates; the latest where none has an accuracy;
        None for an empty archive."""
        if self.final is not None:
            return self.final
        judged = [(e.accuracy, e) for e in self.entries if e.accuracy is not None]
        if not judged:
            return self.entries[-1] if self.entries else None
        return max(judged, key=lambda pair: (pair[0], -pair[1].macs))[1]

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict) -> "Archive":
        """Read what :meth:`to_dict` gave."""
        final = data["final"] and ArchiveEntry(**data["final"])
        return cls([ArchiveEntry(**item) for item in data["entries"]], final)

    @classmethod
    def load(cls, path: Path) -> "Archive":
        """Read :meth:`to_dict` from a file."""
        return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
