"""A search, from its first step to its last: the algorithm without a runner.

::

    search = Search(model, optimizers, schedule, input_shape, seed, ...)
    search.begin()
    while not search.is_done:
        search.set_rates()
        alphas_batch = None if search.rests else next(alphas_batches)
        search.step(next(weights_batches), alphas_batch)
        if search.at_cycle_end:
            search.end_cycle()
    search.finish()

Who drives it feeds batches, writes files and logs; see ``engine/search_loop.py``.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from ..models.inherit import spread
from ..models.relaxation import RELAXATIONS
from ..models.supernet import Choices, find_supernet, inherit_weights, log_probabilities
from ..space.checks import at_least, check, one_of, read, wrong
from ..space.cost import check_input_shape
from ..space.cost_table import cost_tables
from . import diversity
from .archive import Archive, ArchiveEntry
from .derive import Indices
from .diagnostics import NUM_CLIPS, diagnose
from .distributed import check_ranks_agree, from_rank_0
from .donor_warmup import DonorWarmup, alphas_from, block_losses, near, price_of, priced
from .penalty import build_penalty
from .randomness import Stream, derived_seed, seed_all
from .schedule import LRDiversitySchedule
from .selection import Selection, hand_designed
from .steps import Steps, judge

DEFAULT_RELAXATIONS = dict(warmup="uniform", weights="gumbel_st", alphas="two_path")
_RULES = dict.fromkeys(DEFAULT_RELAXATIONS, one_of(*RELAXATIONS))
_RULES["alphas"] = one_of(*(name for name in RELAXATIONS if name != "uniform"))
# What a resumed search takes as it is.
_STATE = ("seed", "num_steps", "num_alpha_steps", "accumulated_from")
_STATE += ("sensitivities", "diagnostics")


class Search:
    """Weights steps and alpha steps in turn, by a schedule, and a genotype per cycle
    (:class:`Selection` says which).

    Args:
        model: The recognizer around a supernet.
        optimizers: MMEngine's wrappers of the optimisers of ``weights`` and ``alphas``.
        schedule: Says which learning rates hold, and when a cycle ends.
        input_shape: (C, T, H, W) of a training view, for which costs are computed.
        seed: All noise of the search comes from it.
        validate: Gives the accuracy of the model as it is, a share. Default None:
            networks are not judged, and the most probable one is the result.
        calibration: Gives the batches of training clips from which batch normalisation
            is re-estimated before a network is judged. Needed with ``validate``.
        num_clips: Number of validation clips.
        judging: Gives that many clips of the alpha half in batches, the same ones on
            every rank. Needed with ``donor``, and for ``diagnostics``.
        racing: Gives that many batches of all training clips. Needed for a race.
        extra_setting: What else a resumed search has to share, by field.
        cost, relaxations, num_ranked, largest_every, alpha_weight, donor, race_steps:
            Settings of ``train_cfg``, see docs/reference/configs.md.

    Attributes:
        alphas: Alphas of each layer, read from the device once per step.
        probabilities: p of each layer after the last step, before any restart.
        scalars: What is worth logging of the last step.
        num_steps, num_alpha_steps: Steps made of weights and of alphas.
        sensitivities: What single blocks are worth, once a donor was tuned; else None.
        diagnostics: Of :func:`diagnose`, after :meth:`finish`; else None.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Mapping[str, OptimWrapper],
        schedule: LRDiversitySchedule,
        input_shape: Sequence[int],
        seed: int,
        validate: Callable[[nn.Module], float] | None = None,
        calibration: Callable[[], Iterable[dict]] | None = None,
        num_clips: int = 0,
        judging: Callable[[int], Iterable[dict]] | None = None,
        racing: Callable[[int], Iterable[dict]] | None = None,
        extra_setting: Mapping[str, Any] | None = None,
        cost: Mapping[str, Any] | None = None,
        relaxations: Mapping[str, str] | None = None,
        num_ranked: int = 1,
        largest_every: int = 0,
        alpha_weight: float = 0.0,
        donor: Mapping[str, Any] | None = None,
        race_steps: int = 0,
    ) -> None:
        check("train_cfg.largest_every", largest_every, at_least(0))
        check("train_cfg.race_steps", race_steps, at_least(0))
        self.model, self.optimizers, self.schedule = model, optimizers, schedule
        self.seed, self.largest_every, self.race_steps = seed, largest_every, race_steps
        self.validate, self.calibration = validate, calibration
        self.judging, self.racing = judging, racing
        self.extra_setting = extra_setting or {}
        changes = read(relaxations or {}, _RULES, (), "train_cfg.relaxations")
        self.relaxations = DEFAULT_RELAXATIONS | changes
        self.supernet = find_supernet(model)
        self.space = self.supernet.space
        self.donor = DonorWarmup.read(donor, self.space, model.cls_head)
        self._full = self.supernet.path_of(self.donor.full) if self.donor else None
        self.num_classes = model.cls_head.num_classes
        self.input_shape = check_input_shape(self.space.skeleton, input_shape)
        pair = optimizers["weights"], optimizers["alphas"]
        self.steps = Steps(model, *pair, self.input_shape)
        table = cost.get("table") if isinstance(cost, Mapping) else None
        self.tables = cost_tables(self.space, self.input_shape, self.num_classes, table)
        self.penalty = build_penalty(cost, self.tables)
        self.budget = self.penalty and self.penalty.budget
        self.selection = Selection(
            self.space,
            self.tables,
            self.budget,
            self.judge if validate else None,
            num_clips,
            num_ranked,
            alpha_weight,
        )
        # Now, so that a space without one fails before any training.
        self._hand_designed = race_steps and hand_designed(
            self.space, self.selection.budgets
        )
        groups = optimizers["weights"].optimizer.param_groups
        self._shares = [g["lr"] / schedule.config.weights_lr for g in groups]
        self.num_steps = self.num_alpha_steps = 0
        self.accumulated_from = 0  # alpha steps at the last restart
        self.sensitivities: dict[str, Any] | None = None
        self.diagnostics: dict[str, float | None] | None = None
        self.scalars: dict[str, float] = {}

    @property
    def archive(self) -> Archive:
        return self.selection.archive

    @property
    def is_done(self) -> bool:
        return self.num_steps == self.schedule.num_steps

    @property
    def rests(self) -> bool:
        return self.schedule.is_warmup(self.num_steps)

    @property
    def at_cycle_end(self) -> bool:
        return self.num_steps > 0 and self.schedule.is_cycle_end(self.num_steps - 1)

    def begin(self) -> None:
        """Get ready for the next step, once weights and state have been loaded."""
        self.steps.owners = self.supernet.share_weights()
        self.alphas = self.supernet.read_alphas()
        if self.num_steps == 0:  # alphas may come from another search
            self._shrink(self.schedule.diversity_start)
        self.probabilities = diversity.softmax(self.alphas)
        count = self.optimizers["weights"].initialize_count_status
        count(self.model, self.num_steps, self.schedule.num_steps)
        waiting = self.num_alpha_steps - self.accumulated_from
        self.optimizers["alphas"].initialize_count_status(self.model, waiting, -1)

    def set_rates(self) -> None:
        """Set the learning rates of the next step, absolutely."""
        self.weights_lr = self.schedule.weights_lr(self.num_steps)
        self.alphas_lr = self.schedule.alphas_lr(self.num_steps)
        self._set_weights_lr(self.weights_lr)
        for group in self.optimizers["alphas"].optimizer.param_groups:
            group["lr"] = self.alphas_lr

    def _set_weights_lr(self, rate: float) -> None:
        groups = self.optimizers["weights"].optimizer.param_groups
        for group, share in zip(groups, self._shares, strict=True):
            group["lr"] = rate * share

    def step(
        self, weights_batch: dict, alphas_batch: dict | None = None
    ) -> dict[str, float]:
        """One weights step and, unless the alphas rest, one alpha step, on batches of
        the two halves; gives the losses, and what else the head computes."""
        with torch.no_grad():
            paths = [self._weights_path()]
        if alphas_batch is not None:
            paths.append(self._draw(self.relaxations["alphas"], Stream.ALPHA_PATH))
        check_ranks_agree(self.num_steps, paths, self.alphas, self.model)
        self._seed(Stream.WEIGHTS_STEP, self.num_steps)
        # After its tuning, paths are distilled from the full network of a donor.
        teacher = None if self.schedule.is_tuning(self.num_steps) else self._full
        logs = self.steps.weights_step(weights_batch, paths[0], teacher)
        if alphas_batch is not None:
            self._seed(Stream.ALPHA_STEP, self.num_steps)
            # Alphas that start from a donor have the price of cost in them.
            penalty = None if self.donor else self.penalty
            logs |= self.steps.alpha_step(alphas_batch, paths[1], penalty)
            self.num_alpha_steps += 1
        before = self.alphas
        values = self._read(logs)
        # Not where gradients accumulate, or a gradient scaler has skipped the step.
        if self.alphas != before:
            self.schedule.observe(self.num_steps, self.scalars["diversity"])
            if self.penalty is not None:
                self.penalty.update(self.scalars["expected_cost"])
        self.num_steps += 1
        if self.donor and self.num_steps == self.donor.tune_steps:
            self._end_tuning()
        return values

    def _weights_path(self) -> Choices:
        if self.schedule.is_tuning(self.num_steps):
            return self._full
        # For others to share what it learns (sandwich rule, Yu and Huang, 2019); early
        # alone, so that it is not favoured when networks are ranked.
        every, plan = self.largest_every, self.schedule.config
        early = self.num_steps < plan.tune_steps + plan.total_steps // plan.num_cycles
        if early and every and self.num_steps % every == 0:
            return self.supernet.path_of(self.selection.table.most_expensive())
        kind = "warmup" if self.rests and not self.donor else "weights"
        return self._draw(self.relaxations[kind], Stream.WEIGHTS_PATH)

    def _draw(self, relaxation: str, stream: Stream) -> Choices:
        seed = derived_seed(self.seed, stream, self.num_steps)
        generator = torch.Generator().manual_seed(seed)
        path = self.supernet.sample(relaxation, generator, self.alphas)
        if self.donor is None:
            return path
        first = self.space.indices_of_blocks(self.archive.entries[0].blocks)
        return near(path, self.supernet.path_of(first), generator)

    def _seed(self, stream: Stream, step: int) -> None:
        # Of dropout and blending.
        seed_all(derived_seed(self.seed, stream, step, get_rank()))

    def _read(self, logs: dict[str, Tensor]) -> dict[str, float]:
        """Copy alphas and what a step gives to log from the device, at once."""
        alphas = self.supernet.alphas.detach()
        values = [value.detach().reshape(1).to(alphas) for value in logs.values()]
        flat = torch.cat([alphas.flatten(), *values]).tolist()
        width = alphas.shape[1]
        rows = [flat[i : i + width] for i in range(0, alphas.numel(), width)]
        self.alphas = self.supernet.rows(rows)
        p = self.probabilities = diversity.softmax(self.alphas)
        argmax = self.space.blocks([row.index(max(row)) for row in p])
        self.scalars = dict(
            weights_lr=self.weights_lr,
            alphas_lr=self.alphas_lr,
            gain=self.schedule.gain,
            diversity=diversity.diversity(p),
            planned_diversity=self.schedule.planned_diversity(self.num_steps),
            entropy=diversity.entropy(p),
            argmax_share=diversity.argmax_share(p),
            expected_cost=self.selection.table.expected(p),
            num_skips=argmax.count("skip"),
        )
        if self.penalty is not None:
            self.scalars["cost_weight"] = self.penalty.weight
        return dict(zip(logs, flat[alphas.numel() :], strict=True))

    def _end_tuning(self) -> None:
        """Let all candidates inherit; set the alphas by what single blocks give."""
        full, clips, table = self.donor.full, self.donor.clips, self.selection.table
        spread(self.supernet, full)
        base, rows = from_rank_0(
            lambda: block_losses(self.model, full, self.judging(clips))
        )
        limit = self.budget.limit if self.budget else math.inf
        target = self.schedule.diversity_start
        price = price_of(rows, table, limit)
        alphas, temperature = alphas_from(priced(rows, table, price), target)
        self.supernet.write_alphas(alphas)
        self.alphas = self.supernet.read_alphas()
        self.probabilities = diversity.softmax(self.alphas)
        pairs = zip(self.space.candidates, rows, strict=True)
        self.sensitivities = dict(
            full=list(self.space.blocks(full)),
            loss=base,
            temperature=temperature,
            price=price,
            losses=[dict(zip(*pair, strict=True)) for pair in pairs],
        )
        found = diversity.diversity(self.probabilities)
        self.selection.start(rows, self.num_steps, found)

    def end_cycle(self) -> ArchiveEntry:
        """Archive the genotype of the cycle that is over, and restart the next one."""
        schedule, log_probs = self.schedule, log_probabilities(self.alphas)
        cycle = schedule.cycle_of(self.num_steps - 1)
        most_probable = self.space.blocks(self.selection.derive(log_probs)[0])
        nearest = self.archive.distance(most_probable)
        entry = self.selection.finish_cycle(
            log_probs,
            cycle,
            schedule.archive_distance,
            step=self.num_steps,
            diversity=diversity.diversity(self.probabilities),
            planned_diversity=schedule.planned_diversity(self.num_steps - 1),
        )
        if cycle + 1 < schedule.num_cycles:
            self._shrink(schedule.restart(nearest))
            alphas = self.optimizers["alphas"]
            alphas.optimizer.state.clear()
            alphas.zero_grad()  # those that wait are about the alphas before
            alphas.initialize_count_status(self.model, 0, -1)
            self.accumulated_from = self.num_alpha_steps
        return entry

    def _shrink(self, target: float) -> None:
        """Shrink all alphas, so that D(p) is at least ``target``."""
        factor = diversity.shrink_to_diversity(self.alphas, target)
        if factor < 1:
            self.supernet.write_alphas(diversity.shrink(self.alphas, factor))
            self.alphas = self.supernet.read_alphas()

    def finish(self) -> ArchiveEntry | None:
        """Judge all genotypes by the final weights, and race them where ``race_steps``
        says so; gives what the search ends in."""
        log_probs = log_probabilities(self.alphas)
        self.selection.finish_search(log_probs, self.schedule.archive_distance)
        if self._hand_designed and self.validate:
            self.selection.race(self._hand_designed, self.trained_accuracy, log_probs)
        best = self.archive.best()
        if best and self.judging:
            facts = self.space.indices_of_blocks(best.blocks), self.probabilities
            self.diagnostics = from_rank_0(
                lambda: diagnose(self.model, *facts, self.judging(NUM_CLIPS))
            )
        return best

    def trained_accuracy(self, indices: Indices) -> float:
        """Validation accuracy of a network that is trained alone for ``race_steps``
        from its inherited weights; the supernet stays as it is."""
        path, count = self.supernet.path_of(indices), self.race_steps
        with self.steps.undone(path):
            self.optimizers["weights"].initialize_count_status(self.model, 0, count)
            for step, batch in enumerate(self.racing(count)):
                check_ranks_agree(step, [path], self.alphas, self.model)
                self._seed(Stream.RACE_STEP, step)
                self._set_weights_lr(self.schedule.short_lr(step, count))
                self.steps.weights_step(batch, path)
            return self.judge(indices)

    def judge(
        self, indices: Indices, validate: Callable[[nn.Module], Any] | None = None
    ) -> Any:
        """What ``validate`` gives for a network with inherited weights."""
        with self.supernet.use_path(self.supernet.path_of(indices)):
            validate = validate or self.validate
            return judge(self.model, self.calibration(), validate, self.seed)

    def inherited(self, indices: Indices) -> dict[str, Tensor]:
        """State dict, on the CPU, of one network, with batch norm re-estimated."""

        def copied(model: nn.Module) -> dict[str, Tensor]:
            found = inherit_weights(model.state_dict(), indices)
            return {key: value.cpu().clone() for key, value in found.items()}

        return self.judge(indices, copied)

    def setting(self) -> dict[str, Any]:
        """What a search has to share with the one it resumes, by field."""
        budget, space = self.budget, self.space
        tables = [[t.kind, t.fixed, t.per_layer] for t in self.tables.values()]
        schedule = asdict(self.schedule.config)
        return {
            "model.backbone.space": f"{space.name} {digest_of(space.to_config())}",
            "model.backbone.share": self.supernet.share,
            "model.cls_head.num_classes": self.num_classes,
            "train_cfg.input_shape": list(self.input_shape),
            "train_cfg.cost": budget and [budget.table.kind, budget.limit],
            "costs of the candidates": digest_of(tables),
            "train_cfg.relaxations": self.relaxations,
            "train_cfg.donor": self.donor and asdict(self.donor),
            "train_cfg.race_steps": self.race_steps,
            "train_cfg.largest_every": self.largest_every,
            "train_cfg.alpha_weight": self.selection.alpha_weight,
            **{f"LRDiversityHook: {name}": value for name, value in schedule.items()},
            **self.extra_setting,
        }

    def state_dict(self) -> dict[str, Any]:
        parameters = self.model.named_parameters()
        return dict(
            {name: getattr(self, name) for name in _STATE},
            setting=self.setting(),
            space=self.space.to_config(),
            schedule=self.schedule.state_dict(),
            penalty=self.penalty and self.penalty.state_dict(),
            archive=self.archive.to_dict(),
            pending_gradients={
                name: p.grad.clone() for name, p in parameters if p.grad is not None
            },
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`, or a ValueError about another search's."""
        for field, value in self.setting().items():
            if (found := state["setting"].get(field)) != value:
                hint = "resume with the config, and the number of processes, that the "
                hint += "search was started with, or start another one elsewhere"
                if field == "train_cfg.cost":
                    hint += "; tools/derive_genotype.py takes other budgets"
                got = f"a checkpoint of a search with {found!r}"
                raise wrong(field, f"{value!r}, as in the config", got, hint)
        self.schedule.load_state_dict(state["schedule"])
        if self.penalty is not None:
            self.penalty.load_state_dict(state["penalty"])
        self.selection.archive = Archive.from_dict(state["archive"])
        for name in _STATE:
            setattr(self, name, state[name])
        parameters = dict(self.model.named_parameters())
        for name, gradient in state["pending_gradients"].items():
            parameters[name].grad = gradient.to(parameters[name])


def digest_of(content: object) -> str:
    """A short hash that tells contents, as JSON, apart."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
