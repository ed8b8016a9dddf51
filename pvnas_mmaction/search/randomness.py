"""Random numbers that follow from a seed and a place, and not from what was drawn
before: a search that was killed continues as it would have. Blendings and augmentations
draw from Python's generator, NumPy's or torch's: all are seeded together."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """Streams of random numbers, so that none depends on how much another has drawn;
    ``..._STEP`` is what a step draws itself, by dropout and blending."""

    SPLIT = 0
    WEIGHTS_DATA = 1
    ALPHA_DATA = 2
    CALIBRATION = 3
    WEIGHTS_PATH = 4
    ALPHA_PATH = 5
    WEIGHTS_STEP = 6
    ALPHA_STEP = 7
    SENSITIVITY_DATA = 9
    RACE_DATA = 10
    RACE_STEP = 11


def derived_seed(*numbers: int) -> int:
    """A 32-bit seed out of several numbers, none of them negative."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def seed_all(seed: int, accelerators: bool = True) -> None:
    """Seed Python's generator, NumPy's, and torch's on the CPU and on accelerators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if accelerators and torch.accelerator.is_available():
        torch.manual_seed(seed)


@contextmanager
def seeded(seed: int, device: str | torch.device = "cpu") -> Iterator[None]:
    """In this context all generators draw from ``seed``; afterwards they continue as
    if nothing had been drawn. With the CPU as device no accelerator is touched, as it
    must be in a worker of a data loader."""
    devices = [device] if torch.device(device).type == "cuda" else []
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices):
            seed_all(seed, accelerators=bool(devices))
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
