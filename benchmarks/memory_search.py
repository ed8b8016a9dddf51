"""The project's search on clips in memory, without a runner: many short searches are to
be compared, and their clips fit in memory. Settings come from a search config."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmaction.registry import MODELS
from mmaction.structures import ActionDataSample
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import nn

from benchmarks.clips import MotionClips
from pvnas_mmaction.engine.search_data import (
    ALPHA_SHARE,
    CALIBRATION_BATCHES,
    Key,
    StepSampler,
    split_by_class,
)
from pvnas_mmaction.models.blocks import init_weights
from pvnas_mmaction.search.archive import ArchiveEntry
from pvnas_mmaction.search.randomness import Stream, derived_seed
from pvnas_mmaction.search.schedule import (
    LRDiversityConfig,
    LRDiversitySchedule,
    num_epochs,
)
from pvnas_mmaction.search.search import Search

EVAL_BATCH = 64


class MemorySearch:
    """Feeds a :class:`Search` from memory, with the batches that ``SearchLoop`` would
    make, and counts what it computes.

    Args:
        cfg: A search config: ``model``, ``optim_wrapper``, ``train_cfg``, the
            ``LRDiversityHook`` among its ``custom_hooks`` and
            ``train_dataloader.batch_size`` are used.
        train: Clips to search on.
        val: Clips that rank networks.
        seed: Of everything random.
        device: Where it runs. Default ``"cpu"``.
        rate_factor: The alphas' learning rate, in units of what the schedule sets.
            Default 1.

    Attributes:
        search: The search.
        clips: Clips run forward and backward so far, in steps of both kinds; a clip and
            its time reversal are two.
        path_clips: The same, each clip as often as candidates ran per layer, on average
            over the layers: 1 for one sampled candidate, 2 for two, K for all.
        forward_clips: Clips seen forward alone, to judge networks.
    """

    def __init__(
        self,
        cfg: Config,
        train: MotionClips,
        val: MotionClips,
        seed: int,
        device: str = "cpu",
        rate_factor: float = 1.0,
    ) -> None:
        init_default_scope("mmaction")
        self.train, self.val = train, val
        settings = cfg.train_cfg.to_dict()
        for key in ("type", "metric"):
            settings.pop(key, None)
        length = settings.pop("max_epochs"), settings.pop("min_steps", 0)
        share = settings.pop("alpha_share", ALPHA_SHARE)
        calibration = settings.pop("calibration_batches", CALIBRATION_BATCHES)
        torch.manual_seed(seed)
        model = MODELS.build(cfg.model)
        init_weights(model)
        model.to(device).train()
        optimizers = build_optim_wrapper(model, cfg.optim_wrapper)
        halves = split_by_class(
            train.labels.tolist(), share, derived_seed(seed, Stream.SPLIT)
        )

        def batches(half: Sequence[int], stream: Stream) -> StepSampler:
            size = cfg.train_dataloader.batch_size
            return StepSampler(half, size, derived_seed(seed, stream))

        self.weights_batches = batches(halves[0], Stream.WEIGHTS_DATA)
        self.alphas_batches = batches(halves[1], Stream.ALPHA_DATA)
        calibrating = batches(halves[0], Stream.CALIBRATION)
        racing = batches(range(len(train.labels)), Stream.RACE_DATA)
        per_epoch = self.weights_batches.batches_per_epoch
        steps = num_epochs(*length, per_epoch) * per_epoch
        self.search = Search(
            model,
            optimizers,
            read_schedule(cfg, optimizers, model.backbone, steps, rate_factor),
            seed=seed,
            validate=self.validate,
            calibration=lambda: self._batches(calibrating, calibration),
            racing=lambda number: self._batches(racing, number),
            num_clips=len(val.labels),
            **settings,
        )
        self.clips = self.forward_clips = 0
        self.path_clips = 0.0
        model.backbone.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, supernet: nn.Module, args: tuple, kwargs: dict) -> None:
        size = len(args[0])
        if not torch.is_grad_enabled():
            self.forward_clips += size
            return
        path = supernet._choices
        self.clips += size
        self.path_clips += size * sum(len(c.indices) for c in path) / len(path)

    def run(self) -> ArchiveEntry:
        """Search; gives what the search ends in."""
        search = self.search
        search.begin()
        while not search.is_done:
            search.set_rates()
            weights = self._batch(self.weights_batches.batch(search.num_steps))
            alphas = None
            if not search.rests:
                alphas = self._batch(self.alphas_batches.batch(search.num_alpha_steps))
            search.step(weights, alphas)
            if search.at_cycle_end:
                search.end_cycle()
        best = search.finish()
        assert best is not None
        return best

    def _batch(self, keys: Sequence[Key]) -> dict[str, Any]:
        indices, seeds = zip(*keys, strict=True)
        labels = self.train.labels[list(indices)].tolist()
        return dict(
            inputs=list(self.train.views(indices, seeds).unsqueeze(1)),
            data_samples=[ActionDataSample().set_gt_label(label) for label in labels],
        )

    def _batches(self, sampler: StepSampler, count: int) -> Iterator[dict[str, Any]]:
        return (self._batch(sampler.batch(number)) for number in range(count))

    @torch.no_grad()
    def validate(self, model: nn.Module) -> float:
        """Top-1 of a model on the validation clips, a share."""
        training, right, total = model.training, 0, len(self.val.labels)
        model.eval()
        for start in range(0, total, EVAL_BATCH):
            part = range(start, min(start + EVAL_BATCH, total))
            batch = dict(inputs=list(self.val.views(part).unsqueeze(1)))
            data = model.data_preprocessor(dict(batch, data_samples=None))
            scores = model(data["inputs"], mode="tensor", stage="head")
            labels = self.val.labels[part.start : part.stop].to(scores.device)
            right += int((scores.argmax(dim=1) == labels).sum())
        model.train(training)
        return right / total


class ScaledSchedule(LRDiversitySchedule):
    """A schedule with another learning rate of the alphas."""

    def __init__(self, config: LRDiversityConfig, rate_factor: float) -> None:
        super().__init__(config)
        self.rate_factor = rate_factor

    def base_lr(self, step: int) -> float:
        return self.rate_factor * super().base_lr(step)


def read_schedule(
    cfg: Config,
    optimizers: Any,
    supernet: nn.Module,
    total_steps: int,
    rate_factor: float = 1.0,
) -> LRDiversitySchedule:
    """The schedule that a config's ``LRDiversityHook`` says."""
    (hook,) = (dict(h) for h in cfg.custom_hooks if h["type"] == "LRDiversityHook")
    del hook["type"]
    config = LRDiversityConfig(
        total_steps=total_steps,
        weights_lr=optimizers["weights"].optimizer.defaults["lr"],
        alphas_lr=optimizers["alphas"].optimizer.defaults["lr"],
        num_candidates=tuple(supernet.counts),
        accumulated=optimizers["alphas"]._accumulative_counts,
        **hook,
    )
    return ScaledSchedule(config, rate_factor)
