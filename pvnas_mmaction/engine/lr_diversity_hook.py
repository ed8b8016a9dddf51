# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The schedule at work in a runner."""

from __future__ import annotations

import time

import torch
from mmaction.engine.hooks import VisualizationHook
from mmaction.registry import HOOKS
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, EMAHook, Hook
from mmengine.runner import Runner

from ..models.supernet import PVNASSupernet
from ..search import diversity
from ..search.schedule import AUTO, LRDiversityConfig, LRDiversitySchedule
from .optim import built_lr, unwrap
from .search_loop import SearchLoop
from .search_state import require_keys

CHECKPOINT_KEY = "pvnas_search"
TRANSFORMS = ("activation_checkpointing", "compile", "efficient_conv_bn_eval")
"""Top-level keys with which MMEngine changes how a model runs."""


def _check_transforms(runner: Runner) -> None:
    """Refuse what MMEngine does to a model whose forward is the same at every step."""
    for key in TRANSFORMS:
        if runner.cfg.get(key):
            raise ValueError(
                f"{key}: found {runner.cfg.get(key)!r}, expected none: a search runs "
                "another path through its supernet at every step; take it for the "
                "retraining"
            )


def _check_hooks(runner: Runner) -> None:
    """Refuse what takes a cycle's end, where networks are validated in the middle of a
    step, for the end of an epoch."""
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            raise ValueError(
                "custom_hooks: found EMAHook, expected none: in a search it would "
                "validate averaged weights with the batch normalisation of others, "
                "and save averaged alphas; take it for the retraining"
            )
        if isinstance(hook, EarlyStoppingHook):
            raise ValueError(
                "custom_hooks: found EarlyStoppingHook, expected none: in a search it "
                "would take each network that is judged for an epoch, and end the "
                "search before its last cycles; shorten it with train_cfg.max_epochs"
            )
        if isinstance(hook, VisualizationHook) and hook.enable:
            raise ValueError(
                "default_hooks.visualization: found enable=True, expected False: it "
                "would draw the clips anew for every network that is judged"
            )
        if isinstance(hook, CheckpointHook) and not hook.save_optimizer:
            raise ValueError(
                "default_hooks.checkpoint.save_optimizer: found False, expected True: "
                "without the moments a search that is resumed would end elsewhere"
            )
        if isinstance(hook, CheckpointHook) and hook.max_keep_ckpts == 1:
            runner.logger.warning(
                "default_hooks.checkpoint.max_keep_ckpts: found 1: MMEngine removes "
                "the last checkpoint before it writes the next, and a kill between "
                "the two leaves none; 2 is safe"
            )
        if isinstance(hook, CheckpointHook) and hook.save_best is not None:
            raise ValueError(
                f"default_hooks.checkpoint.save_best: found {hook.save_best}, expected "
                "None: in a search it would overwrite the last checkpoint in the "
                "middle of a step, which can't be resumed; the best genotype is "
                "search/genotype.json"
            )


def _shrink_alphas(supernet: PVNASSupernet, target: float) -> None:
    """Shrink all alphas by one factor, so that D(p) is ``target``."""
    alphas = [alpha.detach().double().tolist() for alpha in supernet.alphas]
    factor = diversity.shrink_to_diversity(alphas, target, supernet.tau)
    shrunk = diversity.shrink(alphas, factor)
    with torch.no_grad():
        for alpha, row in zip(supernet.alphas, shrunk, strict=True):
            alpha.copy_(torch.tensor(row))


@HOOKS.register_module()
class LRDiversityHook(Hook):
    """Sets the learning rates of a search, and ends and restarts its cycles.

    It is the only owner of these learning rates and sets them absolutely at every step;
    a config that gives ``param_scheduler`` as well is refused. Peak rates are those of
    the optimisers; ``auto_scale_lr`` holds for the weights alone.

    Order within an iteration: in ``after_train_iter``, before anything is logged
    (LoggerHook, BELOW_NORMAL) or saved (CheckpointHook, VERY_LOW), the diversity is fed
    back, a cycle that is over is ended, so that a checkpoint never stands between a
    cycle's end and its restart, and the rates of the next step are set, so that
    RuntimeInfoHook (VERY_HIGH, in ``before_train_iter``) logs the right ones.

    Args:
        mode: ``constant``, ``cosine``, ``cyclic`` or ``diversity``. Default the last.
        **settings: Further fields of :class:`LRDiversityConfig`, but ``total_steps``
            and the peak learning rates.

    Attributes:
        probabilities: p of every layer after the last step, before any restart.

    Raises:
        ValueError: A setting out of range, or a config with ``param_scheduler``,
            ``EMAHook``, ``EarlyStoppingHook``, an enabled ``VisualizationHook``,
            ``save_best``, ``save_optimizer=False``, or MMEngine's
            ``activation_checkpointing``, ``compile`` or ``efficient_conv_bn_eval``.
    """

    priority = "NORMAL"

    def __init__(self, mode: str = "diversity", **settings) -> None:
        given = ("total_steps", "weights_lr", "alphas_lr")
        for key in (*given, "num_candidates", "tau", "accumulated"):
            if key in settings:
                raise ValueError(
                    f"LRDiversityHook: found {key!r}, expected it elsewhere: steps "
                    "follow from train_cfg, peak rates from optim_wrapper"
                )
        # Fails now, not after the data has been read, if a setting is wrong.
        LRDiversityConfig(total_steps=10**6, mode=mode, **settings)
        self.settings = dict(mode=mode, **settings)

    def before_run(self, runner: Runner) -> None:
        if isinstance(runner.optim_wrapper, dict):
            return  # still a config: the runner validates or tests
        loop = runner.train_loop
        if not isinstance(loop, SearchLoop):
            raise ValueError(
                f"train_cfg.type: found {type(loop).__name__!r}, expected 'SearchLoop' "
                "with LRDiversityHook"
            )
        if runner.param_schedulers:
            raise ValueError(
                "param_scheduler: found one, expected none: in a search "
                "LRDiversityHook alone sets the learning rates; set "
                "param_scheduler=None"
            )
        _check_transforms(runner)
        _check_hooks(runner)
        weights = runner.optim_wrapper["weights"].optimizer
        alphas = runner.optim_wrapper["alphas"].optimizer
        for name, optimizer in (("weights", weights), ("alphas", alphas)):
            rate = optimizer.defaults["lr"]
            if rate != AUTO and not rate > 0:
                raise ValueError(
                    f"optim_wrapper.{name}.optimizer.lr: found {rate!r}, expected a "
                    "number above 0, the peak of the schedule"
                )
        # auto_scale_lr has scaled both; the alphas' rate, in one group, tells by how
        # much, and goes back to what it was.
        scale = alphas.param_groups[0]["lr"] / built_lr(alphas)
        peak = weights.defaults["lr"] * scale
        self._multipliers = [group["lr"] / peak for group in weights.param_groups]
        config = LRDiversityConfig(
            total_steps=loop.max_iters,
            weights_lr=peak,
            alphas_lr=alphas.defaults["lr"],
            num_candidates=tuple(map(len, loop.space.candidates)),
            tau=loop.supernet.tau,
            accumulated=runner.optim_wrapper["alphas"]._accumulative_counts,
            **self.settings,
        )
        self.schedule = LRDiversitySchedule(config)
        self._started = time.monotonic()

    def before_train(self, runner: Runner) -> None:
        self._first_step = runner.iter
        loop, target = runner.train_loop, self.schedule.diversity_start
        p = loop.selection.probabilities()
        found, has_choice = diversity.diversity(p), any(len(row) > 1 for row in p)
        if runner.iter == 0 and has_choice and found < target:
            _shrink_alphas(loop.supernet, target)
            runner.logger.info(
                f"load_from or init_cfg: found alphas of D = {found:.3f}, shrunk to "
                f"{target:.3f}, where a search starts"
            )
        self._set_rates(runner, runner.iter)

    def _set_rates(self, runner: Runner, step: int) -> None:
        schedule, wrappers = self.schedule, runner.optim_wrapper
        if step == runner.max_iters:
            return
        rate = schedule.weights_lr(step)
        groups = wrappers["weights"].optimizer.param_groups
        for group, multiplier in zip(groups, self._multipliers, strict=True):
            group["lr"] = rate * multiplier
        # What MMEngine logs as lr where there is more than one group.
        if wrappers["weights"].base_param_settings is not None:
            wrappers["weights"].base_param_settings["lr"] = rate
        for group in wrappers["alphas"].param_groups:
            group["lr"] = schedule.alphas_lr(step)

    def after_train_iter(
        self, runner: Runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        step, schedule, loop = runner.iter, self.schedule, runner.train_loop
        self._log(runner, step)
        updated = runner.optim_wrapper["alphas"].should_update()
        if not schedule.is_warmup(step) and updated:
            schedule.observe(step, diversity.diversity(loop.selection.probabilities()))
        if schedule.is_cycle_end(step):
            self._end_cycle(runner, step)
        self._set_rates(runner, step + 1)

    def _log(self, runner: Runner, step: int) -> None:
        """Put the state of the search where every logger finds it."""
        schedule, loop = self.schedule, runner.train_loop
        p = self.probabilities = loop.selection.probabilities()
        argmax = [max(range(len(row)), key=row.__getitem__) for row in p]
        blocks = loop.space.genotype(argmax).blocks
        scalars = dict(
            weights_lr=schedule.weights_lr(step),
            alphas_lr=schedule.alphas_lr(step),
            gain=schedule.gain,
            diversity=diversity.diversity(p),
            planned_diversity=schedule.planned_diversity(step),
            entropy=diversity.entropy(p),
            argmax_share=diversity.argmax_share(p),
            expected_cost=loop.expected_cost(),
            num_skips=blocks.count("skip"),
        )
        if loop.penalty is not None:
            scalars["cost_weight"] = loop.penalty.weight
        for name, value in scalars.items():
            runner.message_hub.update_scalar(f"train/{name}", value)

    def _end_cycle(self, runner: Runner, step: int) -> None:
        schedule, loop = self.schedule, runner.train_loop
        cycle = schedule.cycle_of(step)
        nearest = loop.selection.most_probable_distance()
        entry = loop.finish_cycle(cycle, schedule.archive_distance)
        self._report(runner, entry, step)
        missed = schedule.missed(step, entry.diversity)
        if missed:
            runner.logger.warning(missed)
        if cycle + 1 == schedule.num_cycles:
            loop.finish_search(schedule.archive_distance)
            return
        _shrink_alphas(loop.supernet, schedule.restart(nearest))
        runner.optim_wrapper["alphas"].optimizer.state.clear()
        loop.restart_accumulation()

    def _report(self, runner: Runner, entry, step: int) -> None:
        """One line per cycle in the console."""
        done = step + 1 - self._first_step
        left = runner.max_iters - step - 1
        seconds = (time.monotonic() - self._started) / done * left
        accuracy = "n/a" if entry.accuracy is None else f"{entry.accuracy:.4f}"
        distance = "n/a" if entry.distance is None else f"{entry.distance:.2f}"
        runner.logger.info(
            f"Cycle {entry.cycle + 1}/{self.schedule.num_cycles}: "
            f"{' '.join(entry.blocks)} | {entry.macs / 1e9:.4f} GFLOPs, "
            f"{entry.params / 1e6:.3f} M parameters | accuracy {accuracy} | D "
            f"{entry.diversity:.3f} | distance to archive {distance} | "
            f"{seconds / 60:.1f} min left"
        )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        for name, parameter in unwrap(runner.model).named_parameters():
            if not torch.isfinite(parameter).all():
                raise ValueError(
                    f"step {runner.iter}: found {name} that is not finite, expected "
                    "finite weights: the search has diverged, and this checkpoint is "
                    "not written; lower optim_wrapper.weights.optimizer.lr, and start "
                    "anew in another work_dir"
                )
        checkpoint[CHECKPOINT_KEY] = dict(
            loop=runner.train_loop.state_dict(), schedule=self.schedule.state_dict()
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not runner._resume:
            return
        if CHECKPOINT_KEY not in checkpoint:
            raise ValueError(
                "checkpoint: found no state of a search, expected one to resume; use "
                "load_from to start from its weights"
            )
        state = checkpoint[CHECKPOINT_KEY]
        require_keys(state, ("loop", "schedule"), f"checkpoint, {CHECKPOINT_KEY}")
        runner.train_loop.load_state_dict(state["loop"])
        self.schedule.load_state_dict(state["schedule"])
