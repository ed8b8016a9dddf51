"""What ``pvnas fit`` is asked for."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..profiling.clock import check_device
from ..space.checks import wrong
from .video_folder import EXPECTED

CONFIGS = "pvnas_mmaction::pvnas/pvnas-{}_custom-rgb.py"
# Space: config of the search, and of a network's training.
SPACES = {
    "lite0": ("s_search_1xb8-u8-12e", "s_retrain_1xb8-u8-12e"),
    "lite2": ("l_search_1xb8-u8-12e", "l_retrain_1xb8-u8-12e"),
    "tiny": ("tiny_search_1xb16-u8-30e", "tiny_retrain_1xb16-u8-60e"),
}
# Option: kind of cost, one unit of it, and how it is written.
BUDGETS = {
    "ms": ("latency", 1, "{:.4g} ms"),
    "gflops": ("flops", 1e9, "{:.4g} GFLOPs"),
    "params": ("params", 1, "{:,.0f} parameters"),
}


@dataclass
class Settings:
    """What is asked for, as ``pvnas fit --help`` says."""

    videos: Path
    out: Path
    budget_ms: float | None = None
    budget_gflops: float | None = None
    budget_params: float | None = None
    space: str = "lite0"
    config: str | None = None
    train_config: str | None = None
    lists: Sequence[str] = ()
    group_regex: str | None = None
    flip: bool = True
    num_networks: int = 2
    seed: int = 0
    device: str | None = None
    threads: int = 1
    dry_run: bool = False

    def __post_init__(self) -> None:
        if not self.videos.is_dir():
            raise wrong("VIDEOS", EXPECTED, f"{self.videos}, which is no folder")
        limits = {name: getattr(self, f"budget_{name}") for name in BUDGETS}
        given = {name: v for name, v in limits.items() if v is not None}
        if len(given) != 1 or not all(0 < v < math.inf for v in given.values()):
            options = ", ".join(f"--budget-{name}" for name in BUDGETS)
            raise wrong("budget", f"a number above 0 for one of {options}", str(given))
        ((self.unit, self.limit),) = given.items()
        self.kind, self.one, self.form = BUDGETS[self.unit]
        exact = self.limit * self.one
        self.budget = exact if self.unit == "ms" else round(exact)
        if (self.config is None) != (self.train_config is None):
            raise wrong("--config", "--train-config as well", "one of the two")
        search, train = map(CONFIGS.format, SPACES[self.space])
        self.config = self.config or search
        self.train_config = self.train_config or train
        if self.num_networks < 1:
            raise wrong("--num-networks", "1 or more", str(self.num_networks))
        if self.device:
            check_device(self.device)

    def identity(self) -> dict[str, Any]:
        """What a call has to share with the one that it continues."""
        found = asdict(self)
        for name in ("out", "device", "dry_run"):
            del found[name]
        return {**found, "videos": str(self.videos.resolve()), "lists": [*self.lists]}

    @property
    def on_gpu(self) -> bool:
        return (self.device or "cpu") != "cpu"

    def show(self, cost: float) -> str:
        """A cost in words."""
        return self.form.format(cost / self.one)
