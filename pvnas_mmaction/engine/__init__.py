# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Search in a runner: loop, hooks, optimisers; importing it registers them."""

from ..search.distributed import SearchDataParallel
from .lr_diversity_hook import LRDiversityHook
from .muon import MuonAdamW
from .optim import BFloat16OptimWrapper, SearchOptimWrapperConstructor
from .search_history_hook import SearchHistoryHook
from .search_loop import SearchLoop
from .warmup_cosine_lr import WarmupCosineLR

__all__ = [
    "BFloat16OptimWrapper",
    "LRDiversityHook",
    "MuonAdamW",
    "SearchDataParallel",
    "SearchHistoryHook",
    "SearchLoop",
    "SearchOptimWrapperConstructor",
    "WarmupCosineLR",
]
