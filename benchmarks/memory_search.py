# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""A search on clips in memory, with the project's own supernet, steps and schedule.

What ``SearchLoop`` and ``LRDiversityHook`` do, in the same order and with the same
streams of random numbers, but without a runner: many short searches are to be compared,
and their clips fit in memory. Settings come from a search config.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmaction.registry import MODELS
from mmaction.structures import ActionDataSample
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from benchmarks.clips import ClipSource
from pvnas_mmaction.engine.search_data import (
    ALPHA_SHARE,
    CALIBRATION_BATCHES,
    Key,
    StepSampler,
    split_by_class,
)
from pvnas_mmaction.engine.search_loop import DEFAULT_RELAXATIONS, is_largest_step
from pvnas_mmaction.models.blocks import init_weights
from pvnas_mmaction.models.supernet import Path, PVNASSupernet
from pvnas_mmaction.search import diversity
from pvnas_mmaction.search.archive import Archive, ArchiveEntry
from pvnas_mmaction.search.penalty import CostPenalty, build_budget
from pvnas_mmaction.search.randomness import Stream, derived_seed, seed_all
from pvnas_mmaction.search.schedule import (
    LRDiversityConfig,
    LRDiversitySchedule,
    num_epochs,
)
from pvnas_mmaction.search.selection import Selection, costliest
from pvnas_mmaction.search.steps import (
    alpha_step,
    reestimated_batch_norm,
    weights_step,
)
from pvnas_mmaction.space.checks import check_count
from pvnas_mmaction.space.cost import check_input_shape

EVAL_BATCH = 64


class MemorySearch:
    """One search.

    Args:
        cfg: A search config: ``model``, ``optim_wrapper``, ``train_cfg``, the
            ``LRDiversityHook`` among its ``custom_hooks`` and
            ``train_dataloader.batch_size`` are used.
        train: Clips to search on; ``train_cfg.alpha_share`` of them train the alphas.
        val: Clips that rank the cycles' networks.
        seed: Of everything random.
        device: Where it runs. Default ``"cpu"``.

    Attributes:
        clips: Clips run forward and backward so far, in steps of both kinds; a clip and
            its time reversal are two.
        path_clips: The same, each clip as often as candidates ran per layer, on average
            over the layers: 1 for one sampled candidate, 2 for two, K for all.
        forward_clips: Clips seen forward alone, to judge networks.
        history: One dict per step: ``diversity``, ``planned_diversity``, ``gain`` and
            the argmax network.

    Raises:
        ValueError: A setting that can't be used; says which and what was expected.
    """

    def __init__(
        self,
        cfg: Config,
        train: ClipSource,
        val: ClipSource,
        seed: int,
        device: str = "cpu",
    ) -> None:
        init_default_scope("mmaction")
        self.train, self.val, self.seed = train, val, seed
        self.settings = dict(
            alpha_share=ALPHA_SHARE,
            calibration_batches=CALIBRATION_BATCHES,
            cost=None,
            num_ranked=1,
            largest_every=0,
            alpha_weight=0.0,
            min_steps=0,
        )
        self.settings.update(cfg.train_cfg.to_dict())
        check_count("largest_every", self.settings["largest_every"], 0)
        check_count("calibration_batches", self.settings["calibration_batches"], 1)
        batch_size = cfg.train_dataloader.batch_size
        torch.manual_seed(seed)
        self.model = MODELS.build(cfg.model)
        init_weights(self.model)
        self.model.to(device).train()
        self.supernet: PVNASSupernet = self.model.backbone
        self.views = 0  # run through the supernet so far
        self.supernet.register_forward_pre_hook(self._count_views)
        self.space = self.supernet.space
        self.num_classes = self.model.cls_head.num_classes
        self.input_shape = check_input_shape(
            self.space.skeleton, self.settings["input_shape"]
        )
        halves = split_by_class(
            train.labels.tolist(),
            self.settings["alpha_share"],
            derived_seed(seed, Stream.SPLIT),
        )
        self.weights_batches, self.alpha_batches, self.calibration_batches = (
            StepSampler(half, batch_size, derived_seed(seed, stream))
            for half, stream in (
                (halves[0], Stream.WEIGHTS_DATA),
                (halves[1], Stream.ALPHA_DATA),
                (halves[0], Stream.CALIBRATION),
            )
        )
        self.relaxations = {
            **DEFAULT_RELAXATIONS,
            **(self.settings.get("relaxations") or {}),
        }
        self.optimizers = build_optim_wrapper(self.model, cfg.optim_wrapper)
        weights = self.optimizers["weights"].optimizer
        self.multipliers = [
            group["lr"] / weights.defaults["lr"] for group in weights.param_groups
        ]
        self.schedule = self._build_schedule(cfg)
        self.penalty = self._build_penalty()
        self.selection = Selection(
            self.supernet,
            self.input_shape,
            self.num_classes,
            self.penalty.budget if self.penalty else None,
            self.evaluate,
            lambda: len(self.val.labels),
            self.settings["num_ranked"],
            self.settings["alpha_weight"],
        )
        self.largest = self.supernet.path_of(costliest(self.selection.per_layer))
        self.alpha_steps = 0
        self.clips = self.forward_clips = 0
        self.path_clips = 0.0
        self.history: list[dict[str, Any]] = []

    def _build_schedule(self, cfg: Config) -> LRDiversitySchedule:
        hooks = [
            dict(hook) for hook in cfg.custom_hooks if hook["type"] == "LRDiversityHook"
        ]
        if len(hooks) != 1:
            raise ValueError(
                f"custom_hooks: found {len(hooks)} LRDiversityHook, expected one"
            )
        hooks[0].pop("type")
        per_epoch = self.weights_batches.batches_per_epoch
        epochs = num_epochs(
            self.settings["max_epochs"], self.settings["min_steps"], per_epoch
        )
        return LRDiversitySchedule(
            LRDiversityConfig(
                total_steps=epochs * per_epoch,
                weights_lr=self.optimizers["weights"].optimizer.defaults["lr"],
                alphas_lr=self.optimizers["alphas"].optimizer.defaults["lr"],
                num_candidates=tuple(map(len, self.space.candidates)),
                tau=self.supernet.tau,
                **hooks[0],
            )
        )

    def _build_penalty(self) -> CostPenalty | None:
        if self.settings["cost"] is None:
            return None
        settings = dict(self.settings["cost"])
        budget = build_budget(settings, self.space, self.input_shape, self.num_classes)
        return CostPenalty(budget, **settings)

    @property
    def archive(self) -> Archive:
        """The genotypes found so far."""
        return self.selection.archive

    def _count_views(self, module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        self.views += len(inputs[0])

    # -- searching ------------------------------------------------------------------

    def run(self) -> ArchiveEntry:
        """Search from the first step to the last; gives what the search ends in, an
        entry of the archive or the final network beside it."""
        for step in range(self.schedule.config.total_steps):
            self._set_rates(step)
            self.step(step)
        best = self.archive.best()
        assert best is not None
        return best

    def step(self, step: int) -> None:
        """A weights step, an alpha step unless the alphas rest, and the feedback."""
        schedule, kinds = self.schedule, self.relaxations
        resting = schedule.alphas_lr(step) == 0
        first_cycle = not self.archive.entries
        if first_cycle and is_largest_step(step, self.settings["largest_every"]):
            path = self.largest
        else:
            path = self._sample(
                kinds["warmup" if resting else "weights"], Stream.WEIGHTS_PATH, step
            )
        batch = self._batch(self.weights_batches.batch(step))
        seed_all(derived_seed(self.seed, Stream.WEIGHTS_STEP, step, 0))
        before = self.views
        weights_step(self.model, self.supernet, batch, path, self.optimizers["weights"])
        self._count(path, before)
        if not resting:
            path = self._sample(kinds["alphas"], Stream.ALPHA_PATH, step)
            batch = self._batch(self.alpha_batches.batch(self.alpha_steps))
            seed_all(derived_seed(self.seed, Stream.ALPHA_STEP, step, 0))
            before = self.views
            alpha_step(
                self.model,
                self.supernet,
                batch,
                path,
                self.optimizers["alphas"],
                self.penalty,
            )
            self._count(path, before)
            self.alpha_steps += 1
            if self.penalty is not None:
                expected = self.penalty.expected(self.supernet.probabilities())
                self.penalty.update(float(expected.detach()))
        measured = diversity.diversity(self.selection.probabilities())
        self.history.append(
            dict(
                diversity=measured,
                planned_diversity=schedule.planned_diversity(step),
                gain=schedule.gain,
                argmax=self.supernet.argmax_indices(),
            )
        )
        if not schedule.is_warmup(step):
            schedule.observe(step, measured)
        if schedule.is_cycle_end(step):
            self._end_cycle(step)

    def _set_rates(self, step: int) -> None:
        rate = self.schedule.weights_lr(step)
        groups = self.optimizers["weights"].optimizer.param_groups
        for group, multiplier in zip(groups, self.multipliers, strict=True):
            group["lr"] = rate * multiplier
        for group in self.optimizers["alphas"].optimizer.param_groups:
            group["lr"] = self.schedule.alphas_lr(step)

    def _sample(self, relaxation: str, stream: Stream, step: int) -> Path:
        seed = derived_seed(self.seed, stream, step)
        return self.supernet.sample(relaxation, torch.Generator().manual_seed(seed))

    def _batch(self, keys: Sequence[Key]) -> dict[str, Any]:
        indices, seeds = zip(*keys, strict=True)
        labels = self.train.labels[list(indices)].tolist()
        return dict(
            inputs=list(self.train.views(indices, seeds).unsqueeze(1)),
            data_samples=[ActionDataSample().set_gt_label(label) for label in labels],
        )

    def _count(self, path: Path, before: int) -> None:
        """Count the views of a step, from how many there were before it."""
        size = self.views - before
        self.clips += size
        self.path_clips += (
            size * sum(len(choice.indices) for choice in path) / len(path)
        )

    def _alphas(self) -> list[list[float]]:
        return [alpha.detach().double().tolist() for alpha in self.supernet.alphas]

    def _end_cycle(self, step: int) -> None:
        """Archive the cycle's network, and restart alphas and schedule."""
        cycle = self.schedule.cycle_of(step)
        nearest = self.selection.most_probable_distance()
        min_distance = self.schedule.archive_distance
        self.selection.finish_cycle(cycle, step + 1, min_distance)
        if cycle + 1 == self.schedule.num_cycles:
            self.selection.finish_search(min_distance)
            return
        target = self.schedule.restart(nearest)
        alphas = self._alphas()
        factor = diversity.shrink_to_diversity(alphas, target, self.supernet.tau)
        shrunk = diversity.shrink(alphas, factor)
        with torch.no_grad():
            for alpha, row in zip(self.supernet.alphas, shrunk, strict=True):
                alpha.copy_(torch.tensor(row))
        self.optimizers["alphas"].optimizer.state.clear()
        self.optimizers["alphas"].zero_grad()

    # -- judging --------------------------------------------------------------------

    def _calibration(self) -> Iterator[dict[str, Any]]:
        for number in range(self.settings["calibration_batches"]):
            yield self._batch(self.calibration_batches.batch(number))

    @torch.no_grad()
    def evaluate(self, indices: Sequence[int]) -> float:
        """Top-1 of a network on the validation clips, a share, with inherited weights
        and with batch normalisation re-estimated on training clips."""
        path = self.supernet.path_of(indices)
        before, right = self.views, 0
        with (
            self.supernet.use_path(path),
            reestimated_batch_norm(
                self.model,
                self._calibration(),
                derived_seed(self.seed, Stream.CALIBRATION),
            ),
        ):
            training = self.model.training
            self.model.eval()
            for start in range(0, len(self.val.labels), EVAL_BATCH):
                part = range(start, min(start + EVAL_BATCH, len(self.val.labels)))
                views = self.val.views(part).unsqueeze(1)
                batch = dict(inputs=list(views), data_samples=None)
                data = self.model.data_preprocessor(batch, training=False)
                scores = self.model(data["inputs"], mode="tensor", stage="head")
                labels = self.val.labels[part.start : part.stop].to(scores.device)
                right += int((scores.argmax(dim=1) == labels).sum())
            self.model.train(training)
        self.forward_clips += self.views - before
        return right / len(self.val.labels)
