#!/usr/bin/env python
"""The diversity schedule on simulated alphas: does D keep its plan, and does what the
alphas decide get worse?

    python benchmarks/simulated_schedule.py

A decision's regret is the merit of the best candidate of a layer minus that of the most
probable one, at the ends of cycles, in units of a merit's mean size. 0 is perfect.
"""

import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from pvnas_mmaction.search.diversity import shrink_to_diversity
from pvnas_mmaction.search.donor_warmup import NEAR
from pvnas_mmaction.search.schedule import (
    AUTO,
    MISSED_PLAN,
    LRDiversityConfig,
    LRDiversitySchedule,
)

SNRS = [0.05, 0.1, 0.2, 0.5, 1, math.inf] * 60
# Layers and candidates, steps and cycles as those of shipped searches on few clips.
TINY = dict(warmup=0.5, diversity_start=0.6, diversity_end=0.45, num_cycles=3)
DONOR = dict(diversity_start=0.8, diversity_end=0.6, num_cycles=2, tune_steps=1)
SEARCHES: dict[str, tuple[list[int], int, dict[str, Any]]] = {
    "tiny": ([4] * 4, 1024, TINY),
    "compact": ([9] * 10, 400, dict(num_cycles=3)),
    "from a donor": ([9] * 16, 200, DONOR),
}
FEEDBACKS: dict[str, dict[str, Any]] = {
    "default": {},
    "default, rate 0.005": dict(alphas_lr=0.005),
    "default, rate 0.5": dict(alphas_lr=0.5),
    "none": dict(kappa=0, damping=0),
    "none, rate 0.005": dict(kappa=0, damping=0, alphas_lr=0.005),
    "none, rate 0.5": dict(kappa=0, damping=0, alphas_lr=0.5),
}


class Alphas:
    """Alphas under Adam on the gradients that ``two_path`` gives, many runs at once.

    Every candidate has a hidden merit, and what a step measures of it comes with noise:
    ``snr`` is the ratio of the two, 0 noise alone, infinity none. Written without the
    code under test, but for the shrinking at a restart. ``near`` is the share of the
    layers that a step draws.
    """

    def __init__(self, sizes, snrs, seed=0, near=1.0) -> None:
        self.near = near
        self.random = np.random.default_rng(seed)
        shape = (len(snrs), len(sizes), max(sizes))
        self.sizes = np.array(sizes)
        self.offered = np.arange(max(sizes)) < self.sizes[:, None]
        snrs = np.array(snrs, dtype=float)[:, None, None]
        self.noise = np.where(np.isinf(snrs), 0.0, 1.0)
        self.merit = np.where(np.isinf(snrs), 1.0, snrs)
        self.merit = self.merit * self.random.standard_normal(shape)
        self.alphas = np.zeros(shape)
        self.first, self.second = np.zeros(shape), np.zeros(shape)
        self.count = np.zeros(len(snrs))

    def diversity(self) -> np.ndarray:
        logits = np.where(self.offered, self.alphas, -np.inf)
        power = np.exp(logits - logits.max(-1, keepdims=True))
        p = power / power.sum(-1, keepdims=True)
        choice = self.sizes > 1
        share = (1 - (p**2).sum(-1))[:, choice] / (1 - 1 / self.sizes[choice])
        return share.mean(-1)

    def gradient(self, drawn: np.ndarray) -> np.ndarray:
        """That of minus the merit of what the pair (runs, layers, 2) mixes."""
        pair = np.take_along_axis(self.alphas, drawn, -1)
        ahead = 1 / (1 + np.exp(pair[..., 1:] - pair[..., :1]))
        weights = np.concatenate([ahead, 1 - ahead], -1)
        seen = np.take_along_axis(self.merit, drawn, -1)
        seen = seen + self.noise * self.random.standard_normal(drawn.shape)
        change = -weights * (seen - (weights * seen).sum(-1, keepdims=True))
        if self.near < 1:
            free = max(1, round(self.near * len(self.sizes)))
            order = self.random.random(drawn.shape[:2]).argsort(-1)
            change *= (order < free)[..., None]
        gradient = np.zeros_like(self.alphas)
        np.put_along_axis(gradient, drawn, change, -1)
        return gradient

    def draw(self) -> np.ndarray:
        noisy = self.alphas + self.random.gumbel(size=self.alphas.shape)
        noisy = np.where(self.offered, noisy, -np.inf)
        return np.argpartition(-noisy, 1, axis=-1)[..., :2]

    def step(self, rates: list[float]) -> None:
        gradient = self.gradient(self.draw())
        self.count += 1
        self.first = 0.5 * self.first + 0.5 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        count = self.count[:, None, None]
        scale = np.sqrt(self.second / (1 - 0.999**count)) + 1e-8
        update = self.first / (1 - 0.5**count) / scale
        self.alphas = self.alphas - np.array(rates)[:, None, None] * update

    def restart(self, run: int, target: float) -> None:
        layers = zip(self.alphas[run], self.sizes, strict=True)
        rows = [row[:size] for row, size in layers]
        factor = shrink_to_diversity([row.tolist() for row in rows], target)
        for row in rows:
            row += (factor - 1) * (row - row.mean())
        self.first[run] = self.second[run] = self.count[run] = 0


def run_search(
    plans: list[LRDiversitySchedule], alphas: Alphas, steps: range, restart: bool = True
) -> list[list[tuple[float, float]]]:
    """Drive simulated alphas by schedules, one for each run; gives D* and D."""
    history = []
    for step in steps:
        if not plans[0].is_warmup(step):
            alphas.step([plan.alphas_lr(step) for plan in plans])
        reached = alphas.diversity().tolist()
        for plan, value in zip(plans, reached, strict=True):
            plan.observe(step, value)
        planned = [plan.planned_diversity(step) for plan in plans]
        history.append(list(zip(planned, reached, strict=True)))
        is_last = step + 1 == plans[0].num_steps
        if restart and plans[0].is_cycle_end(step) and not is_last:
            for run, plan in enumerate(plans):
                alphas.restart(run, plan.restart(0.1 if run % 2 else None))
    return history


def simulate(sizes: list[int], steps: int, **settings: Any) -> tuple[float, float]:
    """Share of cycles that miss their plan, and the mean regret of a decision."""
    config = LRDiversityConfig(
        steps, num_candidates=tuple(sizes), **{"alphas_lr": AUTO, **settings}
    )
    plans = [LRDiversitySchedule(config) for _ in SNRS]
    alphas = Alphas(sizes, SNRS, seed=1, near=NEAR if config.tune_steps else 1.0)
    misses, regrets = [], []
    for cycle in range(plans[0].num_cycles):
        first, last = map(plans[0].cycle_start, (cycle, cycle + 1))
        history = run_search(plans, alphas, range(first, last), restart=False)
        misses += [abs(plan - found) > MISSED_PLAN for plan, found in history[-1]]
        decided = alphas.alphas.argmax(-1)[..., None]
        lost = (
            alphas.merit.max(-1) - np.take_along_axis(alphas.merit, decided, -1)[..., 0]
        )
        regrets.append(lost / np.abs(alphas.merit).mean((1, 2))[:, None])
        for run, plan in enumerate(plans):
            alphas.restart(run, plan.restart(None))
    return float(np.mean(misses)), float(np.mean(regrets))


if __name__ == "__main__":
    print("| feedback |" + "".join(f" {n}: missed, % | regret |" for n in SEARCHES))
    print("| --- |" + " ---: |" * 2 * len(SEARCHES))
    for name, feedback in FEEDBACKS.items():
        row = [simulate(n, steps, **s | feedback) for n, steps, s in SEARCHES.values()]
        cells = (f" {100 * missed:.1f} | {regret:.2f} |" for missed, regret in row)
        print(f"| {name} |" + "".join(cells), flush=True)
