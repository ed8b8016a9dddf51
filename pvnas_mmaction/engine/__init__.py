"""Search in a runner: loop, hooks, optimisers; importing it registers them."""

# ruff: noqa: F401

from ..search import distributed
from . import (
    lr_diversity_hook,
    muon,
    optim,
    search_history_hook,
    search_loop,
    sync_statistics_hook,
    warmup_cosine_lr,
)
