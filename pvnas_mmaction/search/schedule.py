"""The learning-rate diversity schedule, as arithmetic: time and diversity go in,
learning rates come out. Steps are split into cycles, and ``u`` in [0, 1) is the
position of a step within its cycle. Formulas and modes: docs/schedule.md; defaults:
docs/reference/configs.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from ..space.checks import COUNT, POSITIVE, Rule, in_range, one_of, read, wrong
from .archive import ArchiveEntry

MODES = ("constant", "cosine", "cyclic", "diversity")
AUTO = "auto"

MISSED_PLAN = 0.1
"""How far D may be from D* at a cycle's end before a warning says so."""
SPEEDS = 0.01, 20.0
"""How many times what the plan needs the alphas' rate may be: with a faster one a
single noisy gradient decides, and after a slower one the way back takes too long."""

_RATE = (f"a number above 0, or {AUTO!r}", lambda v: v == AUTO or POSITIVE[1](v))
_SHARE = in_range("[0, 1]")
_RULES: dict[str, Rule] = dict(
    mode=one_of(*MODES),
    total_steps=COUNT,
    num_cycles=COUNT,
    accumulated=COUNT,
    weights_lr=POSITIVE,
    weights_lr_floor=_SHARE,
    alphas_lr=_RATE,
    warmup=in_range("[0, 1)"),
    settle=in_range("[0, 1)"),
    diversity_start=in_range("(0.01, 1]"),
    diversity_end=_SHARE,
    kappa=in_range("[0, inf)"),
    damping=in_range("[0, inf)"),
    min_distance=_SHARE,
    restart_diversity_step=_SHARE,
)
_STATE = ("log_gain", "last_error", "log_gain_sum", "num_observed", "diversity_start")


def num_epochs(max_epochs: int, min_steps: int, steps_per_epoch: int) -> int:
    """``max_epochs``, or more where these are less than ``min_steps`` steps."""
    return max(max_epochs, math.ceil(min_steps / steps_per_epoch))


def logit_lead(diversity: float, num_candidates: int) -> float:
    """By how much one logit leads the others, all equal, in a layer of this diversity.

    With ``p = 1/K + x (1 - 1/K)`` for the leader, ``D = 1 - x^2``.
    """
    x = math.sqrt(1 - max(diversity, 0.01))  # one-hot is infinitely far away
    return math.log((1 + (num_candidates - 1) * x) / (1 - x))


@cache
def travel_lr(num_steps: float, num_candidates: int, start: float, end: float) -> float:
    """Adam's learning rate with which the alphas of a layer travel from one diversity
    to another in so many steps: 1.2 * travel * (K / 2)^(1/4) / num_steps^(3/4).
    It is the geometric mean of those that ``two_path`` needs where gradients always
    agree and where they are noise."""
    travel = logit_lead(end, num_candidates) - logit_lead(start, num_candidates)
    width = math.pow(num_candidates / 2, 0.25)
    return 1.2 * travel * width / math.pow(num_steps, 0.75)


@dataclass(frozen=True)
class LRDiversityConfig:
    """Settings of the schedule; those of ``LRDiversityHook`` are explained, with their
    defaults, in docs/reference/configs.md.

    Args:
        total_steps: Number of weights steps of all cycles.
        weights_lr: Peak learning rate of the weights.
        alphas_lr: Learning rate of the alphas at gain 1, or ``"auto"``: the mean over
            the layers of :func:`travel_lr` from a cycle's start to its end.
        num_candidates: Candidates of each layer; for ``"auto"``, as the next one.
        accumulated: Alpha steps per update of the alphas.
        tune_steps: Weights steps before the cycles, which tune a donor; after them the
            first cycle starts at ``diversity_start``, not uniform.
    """

    total_steps: int
    mode: str = "diversity"
    num_cycles: int = 4
    weights_lr: float = 0.05
    weights_lr_floor: float = 0.01
    alphas_lr: float | str = AUTO
    num_candidates: tuple[int, ...] = ()
    accumulated: int = 1
    tune_steps: int = 0
    warmup: float = 1 / 3
    settle: float = 0.05
    diversity_start: float = 0.95
    diversity_end: float = 0.1
    kappa: float = 100.0
    damping: float = 15.0
    min_distance: float = 0.2
    restart_diversity_step: float = 0.5

    def __post_init__(self) -> None:
        where = "LRDiversityHook"
        read({name: getattr(self, name) for name in _RULES}, _RULES, (), where)
        if self.diversity_end >= self.diversity_start:
            expected = f"less than diversity_start ({self.diversity_start})"
            raise wrong(f"{where}: diversity_end", expected, str(self.diversity_end))
        cycles, needed = self.effective_cycles, 1
        while needed - math.ceil(self.warmup * needed) < self.accumulated:
            needed += 1
        if self.total_steps < cycles * needed:
            expected = f"{cycles * needed} or more, so that each cycle moves the alphas"
            hint = "raise train_cfg.min_steps or max_epochs, or lower num_cycles, "
            hint += "warmup, or optim_wrapper.alphas.accumulative_counts"
            raise wrong(f"{where}: total_steps", expected, str(self.total_steps), hint)

    @property
    def effective_cycles(self) -> int:
        return self.num_cycles if self.mode in ("cyclic", "diversity") else 1


class LRDiversitySchedule:
    """Learning rates and planned diversity of a search, with feedback, by weights step,
    counted from 0. ``archive_distance`` is the share of layers in which a new genotype
    has to differ from every archived one."""

    def __init__(self, config: LRDiversityConfig) -> None:
        self.config = config
        self.num_steps = config.tune_steps + config.total_steps
        self.num_cycles = config.effective_cycles
        self.has_feedback = config.mode == "diversity"
        self.archive_distance = config.min_distance if self.has_feedback else 0.0
        self.log_gain = self.last_error = self.log_gain_sum = 0.0
        self.num_observed = 0  # in this cycle, as the sum
        self.diversity_start = float(config.diversity_start)

    @property
    def gain(self) -> float:
        """Factor on the alphas' learning rate; 1 in modes without feedback."""
        return math.exp(self.log_gain)

    @property
    def updates_per_cycle(self) -> float:
        """Updates of the alphas in a cycle, not rounded."""
        config = self.config
        length = config.total_steps / self.num_cycles
        return length * (1 - config.warmup) / config.accumulated

    def cycle_start(self, cycle: int) -> int:
        """First step of a cycle; cycles differ by one step at most."""
        config = self.config
        return config.tune_steps + cycle * config.total_steps // self.num_cycles

    def cycle_of(self, step: int) -> int:
        done = max(step - self.config.tune_steps, 0) + 1
        return (done * self.num_cycles - 1) // self.config.total_steps

    def position(self, step: int) -> float:
        """``u`` in [0, 1), the position of a step in its cycle; 0 before the first."""
        cycle = self.cycle_of(step)
        start = self.cycle_start(cycle)
        return max(step - start, 0) / (self.cycle_start(cycle + 1) - start)

    def is_tuning(self, step: int) -> bool:
        return step < self.config.tune_steps

    def is_warmup(self, step: int) -> bool:
        """Whether the alphas rest at this step."""
        return self.is_tuning(step) or self.position(step) < self.config.warmup

    def is_cycle_end(self, step: int) -> bool:
        return step + 1 == self.cycle_start(self.cycle_of(step) + 1)

    def planned_diversity(self, step: int) -> float:
        """D*, the diversity that p should have at this step."""
        config, start = self.config, self._start(step)
        moving = (1 - config.warmup) * (1 - config.settle)
        progress = (self.position(step) - config.warmup) / moving
        fall = _cosine(min(max(progress, 0.0), 1.0))
        return config.diversity_end + (start - config.diversity_end) * fall

    def _start(self, step: int) -> float:
        uniform = self.cycle_of(step) == 0 and self.config.tune_steps == 0
        return 1.0 if uniform else self.diversity_start

    def weights_lr(self, step: int) -> float:
        if self.is_tuning(step):
            return self.short_lr(step, self.config.tune_steps)
        if self.config.mode == "constant":
            return self.config.weights_lr
        peak = self.config.weights_lr
        floor = peak * self.config.weights_lr_floor
        return floor + (peak - floor) * _cosine(self.position(step))

    def short_lr(self, step: int, num_steps: int) -> float:
        """That of a short training: a rise over a tenth of the steps, then a cosine."""
        rise, floor = max(1, round(0.1 * num_steps)), self.config.weights_lr_floor
        if step < rise:
            share = (step + 1) / (rise + 1)
        else:
            fall = _cosine((step - rise) / max(1, num_steps - rise))
            share = floor + (1 - floor) * fall
        return self.config.weights_lr * share

    def needed_lr(self, step: int) -> float:
        """The alphas' rate that the plan of this cycle needs, see :func:`travel_lr`."""
        counts = [k for k in self.config.num_candidates if k > 1] or [2]
        ends = (self._start(step), self.config.diversity_end)
        rates = [travel_lr(self.updates_per_cycle, k, *ends) for k in counts]
        return sum(rates) / len(rates)

    def base_lr(self, step: int) -> float:
        """That of the alphas at gain 1."""
        rate = self.config.alphas_lr
        return self.needed_lr(step) if rate == AUTO else float(rate)

    def alphas_lr(self, step: int) -> float:
        """Learning rate of the alphas at this step; 0 in warm-up."""
        return 0.0 if self.is_warmup(step) else self.base_lr(step) * self.gain

    def observe(self, step: int, diversity: float) -> float:
        """Feed back D(p), measured after the alphas moved; gives the gain."""
        if not self.is_warmup(step) and self.has_feedback:
            config, error = self.config, self.planned_diversity(step) - diversity
            change, self.last_error = error - self.last_error, error
            pull = config.kappa * error / self.updates_per_cycle
            log_gain = self.log_gain - pull - config.damping * change
            needed = self.needed_lr(step) / self.base_lr(step)
            low, high = (math.log(speed * needed) for speed in SPEEDS)
            self.log_gain = min(max(log_gain, low), high)
            self.log_gain_sum += self.log_gain
            self.num_observed += 1
        return self.gain

    def missed(self, entries: Sequence[ArchiveEntry]) -> str | None:
        """One line with what to change if cycles that ended in these genotypes missed
        their plan; else None, as in modes without feedback."""
        missed = [
            f"cycle {e.cycle + 1} at {e.diversity:.2f}, planned "
            f"{e.planned_diversity:.2f}: p decided too "
            + ("little" if e.diversity > e.planned_diversity else "early")
            for e in entries
            if abs(e.diversity - e.planned_diversity) > MISSED_PLAN
        ]
        if not self.has_feedback or not missed:
            return None
        hint = "raise train_cfg.min_steps or max_epochs"
        if self.config.alphas_lr != AUTO:
            hint = f"set optim_wrapper.alphas.optimizer.lr={AUTO!r}, or {hint}"
        return (
            f"LRDiversityHook: {len(missed)} of {len(entries)} cycle(s) ended far from "
            f"the planned D ({'; '.join(missed)}); {hint}"
        )

    def restart(self, distance: float | None) -> float:
        """Prepare the next cycle; its gain starts at the geometric mean of this one's;
        gives the diversity to which the alphas have to be shrunk. ``distance`` is the
        share of layers in which the most probable network differs from the nearest
        archived one; None for an empty archive."""
        self.log_gain = self.log_gain_sum / max(1, self.num_observed)
        self.last_error = self.log_gain_sum = 0.0
        self.num_observed = 0
        config = self.config
        if distance is not None and distance < config.min_distance:
            step = config.restart_diversity_step * (1 - self.diversity_start)
            self.diversity_start = min(self.diversity_start + step, 1.0)
        return self.diversity_start

    def state_dict(self) -> dict:
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: dict) -> None:
        """Continue from :meth:`state_dict`, under the same settings."""
        for name in _STATE:
            setattr(self, name, state[name])


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))
