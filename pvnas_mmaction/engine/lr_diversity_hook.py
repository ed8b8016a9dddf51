"""The schedule at work in a runner."""

from mmaction.registry import HOOKS
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from ..search.schedule import AUTO, LRDiversityConfig, LRDiversitySchedule
from ..space.checks import wrong
from .checkpoints import CHECKPOINT_KEY, FORMAT_VERSION, check_finite, search_state

# Top-level keys with which MMEngine changes how a model runs.
TRANSFORMS = ("activation_checkpointing", "compile", "efficient_conv_bn_eval")


@HOOKS.register_module()
class LRDiversityHook(Hook):
    """Sets the learning rates of a search, of which it is the only owner, absolutely at
    every step; ends and restarts its cycles.

    Peak rates are those of the optimisers; ``auto_scale_lr`` holds for the weights
    alone. A cycle ends in ``after_train_iter``, before anything is logged (LoggerHook,
    BELOW_NORMAL) or saved (CheckpointHook, VERY_LOW). There the rates of the next step
    are set, so that RuntimeInfoHook logs the right ones.

    Args:
        mode: ``constant``, ``cosine``, ``cyclic`` or ``diversity``. Default the last.
        **settings: Further fields of :class:`LRDiversityConfig`, but ``total_steps``
            and the peak learning rates.
    """

    priority = "NORMAL"

    def __init__(self, mode: str = "diversity", **settings) -> None:
        # Fails now, not after the data has been read, if a setting is wrong.
        LRDiversityConfig(total_steps=10**6, mode=mode, **settings)
        self.settings = dict(mode=mode, **settings)

    def before_run(self, runner: Runner) -> None:
        if isinstance(runner.optim_wrapper, dict):
            return  # still a config: the runner validates or tests
        if runner.param_schedulers:
            hint = "LRDiversityHook alone sets the learning rates of a search"
            raise wrong("param_scheduler", "none", "one", hint)
        for key in TRANSFORMS:
            if runner.cfg.get(key):
                hint = "it is for one network: take it for the retraining"
                raise wrong(key, "none", repr(runner.cfg.get(key)), hint)
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook) and not hook.save_optimizer:
                hint = "a search that is resumed needs the moments"
                field = "default_hooks.checkpoint.save_optimizer"
                raise wrong(field, "True", "False", hint)
        weights = runner.optim_wrapper["weights"].optimizer
        alphas = runner.optim_wrapper["alphas"].optimizer
        # auto_scale_lr has scaled both; the alphas' rate tells by how much.
        peak, rate = alphas.defaults["lr"], alphas.param_groups[0]["lr"]
        scale = rate / (1.0 if peak == AUTO else peak) if rate else 1.0
        loop = runner.train_loop
        config = LRDiversityConfig(
            total_steps=runner.max_iters - loop.num_tune_steps,
            weights_lr=weights.defaults["lr"] * scale,
            alphas_lr=peak,
            num_candidates=tuple(loop.supernet.counts),
            accumulated=runner.optim_wrapper["alphas"]._accumulative_counts,
            tune_steps=loop.num_tune_steps,
            **self.settings,
        )
        loop.build_search(LRDiversitySchedule(config))

    def before_train(self, runner: Runner) -> None:
        self._set_rates(runner)

    def _set_rates(self, runner: Runner) -> None:
        search, weights = runner.train_loop.search, runner.optim_wrapper["weights"]
        if search.is_done:
            return
        search.set_rates()
        # What MMEngine logs as lr where there is more than one group.
        if weights.base_param_settings is not None:
            weights.base_param_settings["lr"] = search.weights_lr

    def after_train_iter(self, runner: Runner, *_, **__) -> None:
        search = runner.train_loop.search
        for name, value in search.scalars.items():
            runner.message_hub.update_scalar(f"train/{name}", value)
        if search.at_cycle_end:
            entry = runner.train_loop.end_cycle()
            accuracy = "n/a" if entry.accuracy is None else f"{entry.accuracy:.4f}"
            runner.logger.info(
                f"Cycle {entry.cycle + 1}/{search.schedule.num_cycles}: "
                f"{' '.join(entry.blocks)} | {entry.macs / 1e9:.4f} GFLOPs, "
                f"{entry.params / 1e6:.3f} M parameters | accuracy {accuracy} | D "
                f"{entry.diversity:.3f}"
            )
            ended = [[entry]]
            if search.is_done:
                ended.append([e for e in search.archive.entries if e.cycle >= 0])
            for line in filter(None, map(search.schedule.missed, ended)):
                runner.logger.warning(line)
        self._set_rates(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        hint = "start another search with a lower learning rate of the weights"
        check_finite(runner.model, f"step {runner.iter}", hint)
        state = runner.train_loop.search.state_dict()
        checkpoint[CHECKPOINT_KEY] = dict(state, format_version=FORMAT_VERSION)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if runner._resume:
            state = search_state(checkpoint, "checkpoint")
            runner.train_loop.load_state_dict(state)
