# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The learning-rate diversity schedule, as arithmetic.

Time and diversity go in, learning rates come out; nothing here knows a runner,
an optimizer or a tensor. A run of ``total_steps`` steps is split into cycles,
and ``u`` in [0, 1) is the position of a step within its cycle.

==============  ============================================================
weights         cosine from peak to floor over u, in each cycle
alphas          0 while ``u < warmup``, then ``alphas_lr * gain``: the base
                shape is constant, so all that changes the rate is the gain
planned D*      ``diversity_start`` while ``u < warmup``, then a cosine that
                ends in ``diversity_end``
feedback        ``e = D* - D``; ``log g <- clip(log g - kappa * e)`` at every
                alpha step: a p that collapses too early lowers the gain, one
                that lags behind the plan raises it
restart         the gain returns to 1; when the most probable network lies
                closer than ``min_distance`` to the archive, the next cycle
                starts more diverse and with a higher peak
archive         with feedback, a new genotype differs from every archived one
                in the share ``min_distance`` of its layers, where such
                networks keep the budget
==============  ============================================================

Modes, so that the parts can be compared:

=============  ======  ===================  ========  ========
mode           cycles  weights              feedback  restarts
=============  ======  ===================  ========  ========
``constant``   1       constant             no        no
``cosine``     1       cosine               no        no
``cyclic``     C       cosine, per cycle    no        yes
``diversity``  C       cosine, per cycle    yes       yes
=============  ======  ===================  ========  ========

The warm-up is the same share of a cycle in every mode, and the modes with one
cycle warm up for that share of the whole run. All modes therefore take the
same number of weights steps and (up to rounding) of alpha steps, and so cost the
same; docs/schedule.md gives the formulas with a worked example.
"""

import math
from dataclasses import dataclass

MODES = ("constant", "cosine", "cyclic", "diversity")

# A diversity computed in float32 may leave [0, 1] by rounding.
ROUNDING = 1e-4

_SHARES = "weights_lr_floor diversity_start diversity_end min_distance"
_NUMBERS = (
    ("weights_lr alphas_lr", "a number above 0", lambda x: x > 0),
    (f"{_SHARES} restart_diversity_step", "a number in [0, 1]", lambda x: 0 <= x <= 1),
    ("warmup", "a number in [0, 1)", lambda x: 0 <= x < 1),
    ("kappa", "a number of 0 or more", lambda x: x >= 0),
    ("gain_min", "a number in (0, 1]", lambda x: 0 < x <= 1),
    ("gain_max restart_peak_factor peak_cap", "a number from 1", lambda x: x >= 1),
)


@dataclass(frozen=True)
class LRDiversityConfig:
    """Settings of the schedule.

    Args:
        total_steps: Number of weights steps of the whole run.
        mode: One of :data:`MODES`.
        num_cycles: Cycles of the modes with restarts; ``constant`` and
            ``cosine`` run as one cycle whatever this says, so that a mode is
            compared with another by changing ``mode`` alone.
        weights_lr: Peak learning rate of the weights.
        weights_lr_floor: Lowest learning rate of the weights, as a share of
            ``weights_lr``. Not used in mode ``constant``.
        alphas_lr: Learning rate of the alphas at gain 1.
        warmup: Share of a cycle in which the alphas rest, in [0, 1).
        diversity_start: Planned diversity at the start of a cycle.
        diversity_end: Planned diversity at the end of a cycle.
        kappa: Strength of the feedback, per alpha step. 0 turns it off.
        gain_min: Lowest gain, in (0, 1].
        gain_max: Highest gain, at least 1. Keep it modest: a high rate on a
            weak signal concentrates p on noise.
        min_distance: Share of layers in which a new genotype should differ
            from every earlier one. 0 turns both reactions off.
        restart_peak_factor: Factor on the weights' peak of the next cycle when
            the new genotype came too close; at least 1.
        restart_diversity_step: Share of the way from ``diversity_start`` to 1
            that the next cycle's start moves in the same case, in [0, 1].
        peak_cap: Highest peak ever, as a multiple of ``weights_lr``.

    Raises:
        ValueError: Naming the field, what was expected and what was found.
    """

    total_steps: int
    mode: str = "diversity"
    num_cycles: int = 4
    weights_lr: float = 0.05
    weights_lr_floor: float = 0.01
    alphas_lr: float = 0.01
    warmup: float = 1 / 3
    diversity_start: float = 0.95
    diversity_end: float = 0.1
    kappa: float = 1.0
    gain_min: float = 0.05
    gain_max: float = 3.0
    min_distance: float = 0.2
    restart_peak_factor: float = 1.5
    restart_diversity_step: float = 0.5
    peak_cap: float = 2.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode: expected one of {MODES}, found {self.mode!r}")
        for name in ("total_steps", "num_cycles"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(
                    f"{name}: expected an integer of 1 or more, found {value!r}"
                )
        for names, expected, holds in _NUMBERS:
            for name in names.split():
                value = getattr(self, name)
                if not _is_number(value) or not holds(value):
                    raise ValueError(f"{name}: expected {expected}, found {value!r}")
        if self.diversity_end >= self.diversity_start:
            raise ValueError(
                "diversity_end: expected less than diversity_start "
                f"({self.diversity_start}), found {self.diversity_end}"
            )
        cycles = self.effective_cycles
        shortest = self.total_steps // cycles
        if shortest == 0 or (shortest - 1) / shortest < self.warmup:
            enough = 1
            while (enough - 1) / enough < self.warmup:
                enough += 1
            raise ValueError(
                f"total_steps: expected {cycles * enough} or more, so that an alpha "
                f"step follows the warm-up of {self.warmup:.3g} in each of {cycles} "
                f"cycle(s), found {self.total_steps}; raise train_cfg.max_epochs, or "
                "lower train_dataloader.batch_size, or num_cycles or warmup of "
                "LRDiversityHook"
            )

    @property
    def effective_cycles(self) -> int:
        """Number of cycles that the mode runs."""
        return self.num_cycles if self.mode in ("cyclic", "diversity") else 1


class LRDiversitySchedule:
    """Learning rates and planned diversity of a search, with feedback.

    A step is the index of a weights step, from 0 to ``total_steps - 1``. Learning
    rates are functions of the step and of the state: the gain, and the starting
    diversity and peak of the current cycle. Per step, the caller asks for the
    learning rates, runs the steps, calls :meth:`observe` if an alpha step ran,
    and calls :meth:`restart` when :meth:`is_cycle_end` holds and another cycle
    follows.

    Args:
        config: Settings of the schedule.
    """

    def __init__(self, config: LRDiversityConfig) -> None:
        self.config = config
        self.log_gain = 0.0
        self.diversity_start = float(config.diversity_start)
        self.peak_factor = 1.0

    @property
    def num_cycles(self) -> int:
        """Number of cycles of the run; 1 in modes without restarts."""
        return self.config.effective_cycles

    @property
    def has_restarts(self) -> bool:
        """Whether alphas and learning rates restart between cycles."""
        return self.config.mode in ("cyclic", "diversity")

    @property
    def has_feedback(self) -> bool:
        """Whether the measured diversity changes the gain."""
        return self.config.mode == "diversity"

    @property
    def archive_distance(self) -> float:
        """Share of layers in which a new genotype has to differ from every archived
        one: ``min_distance``, or 0 in modes without feedback."""
        return self.config.min_distance if self.has_feedback else 0.0

    @property
    def gain(self) -> float:
        """Factor on the alphas' learning rate; 1 in modes without feedback."""
        # exp(log(x)) may round past x, and the bounds are promised exactly.
        low, high = self.config.gain_min, self.config.gain_max
        return min(max(math.exp(self.log_gain), low), high)

    def fewest_alpha_steps(self) -> int:
        """Return the number of alpha steps in the shortest cycle."""
        cycles = (
            range(self.cycle_start(cycle), self.cycle_start(cycle + 1))
            for cycle in range(self.num_cycles)
        )
        shortest = min(cycles, key=len)
        return sum(not self.is_warmup(step) for step in shortest)

    def cycle_start(self, cycle: int) -> int:
        """Return the first step of a cycle; of ``num_cycles``, the step count.

        Cycles differ by one step at most, and together hold every step once.
        """
        return cycle * self.config.total_steps // self.num_cycles

    def cycle_of(self, step: int) -> int:
        """Return the index of the cycle that a step belongs to, from 0."""
        self._check_step(step)
        return ((step + 1) * self.num_cycles - 1) // self.config.total_steps

    def position(self, step: int) -> float:
        """Return ``u`` in [0, 1), the position of a step in its cycle."""
        cycle = self.cycle_of(step)
        start = self.cycle_start(cycle)
        return (step - start) / (self.cycle_start(cycle + 1) - start)

    def is_warmup(self, step: int) -> bool:
        """Return whether the alphas rest at this step."""
        return self.position(step) < self.config.warmup

    def is_cycle_end(self, step: int) -> bool:
        """Return whether this is the last step of its cycle."""
        return step + 1 == self.cycle_start(self.cycle_of(step) + 1)

    def planned_diversity(self, step: int) -> float:
        """Return D*, the diversity that p should have at this step.

        Modes without feedback have a plan too, to be logged next to D.
        """
        warmup, end = self.config.warmup, self.config.diversity_end
        progress = max(0.0, (self.position(step) - warmup) / (1 - warmup))
        return end + (self.diversity_start - end) * _cosine(progress)

    def weights_lr(self, step: int) -> float:
        """Return the learning rate of the weights at this step."""
        peak = self.config.weights_lr * self.peak_factor
        if self.config.mode == "constant":
            self._check_step(step)
            return peak
        floor = self.config.weights_lr * self.config.weights_lr_floor
        return floor + (peak - floor) * _cosine(self.position(step))

    def alphas_lr(self, step: int) -> float:
        """Return the learning rate of the alphas at this step; 0 in warm-up."""
        return 0.0 if self.is_warmup(step) else self.config.alphas_lr * self.gain

    def observe(self, step: int, diversity: float) -> float:
        """Feed back the diversity measured at an alpha step.

        Without effect in modes without feedback, and in warm-up.

        Args:
            step: Step at which the alpha step ran.
            diversity: D(p), in [0, 1].

        Returns:
            The gain from now on.

        Raises:
            ValueError: If the step is outside the run, or ``diversity`` outside
                [0, 1] by more than rounding.
        """
        if not -ROUNDING <= diversity <= 1 + ROUNDING:
            raise ValueError(
                f"diversity: expected a number in [0, 1], found {diversity}"
            )
        if not self.is_warmup(step) and self.has_feedback:
            error = self.planned_diversity(step) - diversity
            low, high = math.log(self.config.gain_min), math.log(self.config.gain_max)
            self.log_gain = min(
                max(self.log_gain - self.config.kappa * error, low), high
            )
        return self.gain

    def restart(self, distance: float | None) -> float:
        """Prepare the next cycle; call it at the end of each but the last.

        The gain returns to 1. Where the network that was most probable at the end
        of the cycle came too close to the archive, the starting diversity moves
        toward 1 and the weights' peak grows, up to its cap; otherwise both stay as
        they are. Without effect in modes without restarts.

        Args:
            distance: Share of layers in which that network differs from the nearest
                archived one, or None while the archive is empty.

        Returns:
            The diversity to which the alphas have to be shrunk.

        Raises:
            ValueError: If ``distance`` is outside [0, 1].
        """
        if distance is not None and not 0 <= distance <= 1:
            raise ValueError(
                f"distance: expected a share in [0, 1] or None, found {distance}"
            )
        if not self.has_restarts:
            return self.diversity_start
        self.log_gain = 0.0
        config = self.config
        if distance is not None and distance < config.min_distance:
            raised = self.peak_factor * config.restart_peak_factor
            self.peak_factor = min(raised, config.peak_cap)
            step = config.restart_diversity_step * (1 - self.diversity_start)
            self.diversity_start = min(self.diversity_start + step, 1.0)
        return self.diversity_start

    def state_dict(self) -> dict:
        """Return what a resumed run needs, and what its cycles follow from; plain
        numbers and strings, fit for JSON."""
        return {
            "log_gain": self.log_gain,
            "diversity_start": self.diversity_start,
            "peak_factor": self.peak_factor,
            **self._cycle_settings(),
        }

    def _cycle_settings(self) -> dict:
        """Settings that say where cycles begin and how they run: a run that went on
        with others would miss the end of a cycle, or end one twice."""
        return {
            "mode": self.config.mode,
            "total_steps": self.config.total_steps,
            "num_cycles": self.num_cycles,
            "warmup": self.config.warmup,
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue from :meth:`state_dict`.

        Raises:
            ValueError: If keys are missing or unknown, the state is one of other
                cycles, or a value is outside of what this config can reach.
        """
        config, cycles = self.config, self._cycle_settings()
        reachable = {
            "log_gain": (math.log(config.gain_min), math.log(config.gain_max)),
            "diversity_start": (config.diversity_start, 1.0),
            "peak_factor": (1.0, config.peak_cap),
        }
        if set(state) != {*reachable, *cycles}:
            raise ValueError(
                f"schedule state: expected the keys {sorted({*reachable, *cycles})}, "
                f"found {sorted(state)}"
            )
        for name, value in cycles.items():
            if state[name] != value:
                raise ValueError(
                    f"schedule state, {name}: expected {value!r} as in this config, "
                    f"found {state[name]!r}; resume with the schedule settings, "
                    "max_epochs, batch_size and number of processes that the run was "
                    "started with, or start anew in another work_dir"
                )
        for name, (low, high) in reachable.items():
            if not _is_number(state[name]) or not low <= state[name] <= high:
                raise ValueError(
                    f"schedule state, {name}: expected a number in [{low:.6g}, "
                    f"{high:.6g}], found {state[name]}; resume with the schedule "
                    "settings that the run was started with"
                )
        for name in reachable:
            setattr(self, name, float(state[name]))

    def _check_step(self, step: int) -> None:
        if not 0 <= step < self.config.total_steps:
            raise ValueError(
                f"step: expected 0 to {self.config.total_steps - 1}, found {step}"
            )


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def _cosine(progress: float) -> float:
    """Fall from 1 to 0 while progress goes from 0 to 1."""
    return 0.5 * (1 + math.cos(math.pi * progress))
