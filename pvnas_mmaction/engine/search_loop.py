# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The loop of a search: weights step and alpha step in turn, a genotype per cycle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from mmaction.registry import LOOPS
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner, ValLoop
from mmengine.runner.amp import autocast

from ..models.relaxation import get_relaxation
from ..models.supernet import Path
from ..search.archive import Archive, ArchiveEntry
from ..search.distributed import (
    SearchDataParallel,
    check_ranks_agree,
    is_distributed,
    shared_seed,
)
from ..search.penalty import CostPenalty, build_budget, expected_cost
from ..search.randomness import Stream, derived_seed, seed_all, seeded
from ..search.schedule import LRDiversitySchedule, num_epochs
from ..search.selection import Selection, costliest
from ..search.steps import (
    alpha_step,
    find_supernet,
    reestimated_batch_norm,
    weights_step,
)
from ..space.checks import check_count, check_mapping
from ..space.cost import check_input_shape
from .run_file import recorded_run
from .search_data import (
    ALPHA_SHARE,
    CALIBRATION_BATCHES,
    METRIC,
    SearchData,
    digest_of,
)
from .search_record import SearchRecord
from .search_state import (
    check_costs,
    check_penalty,
    check_settings,
    check_space,
    require_keys,
)

DEFAULT_RELAXATIONS = dict(warmup="uniform", weights="gumbel_st", alphas="two_path")


def is_largest_step(step: int, largest_every: int) -> bool:
    """Whether a step, counted from 0, runs the largest network; 0 is never."""
    return largest_every > 0 and step % largest_every == 0


def schedule_of(hook: Hook) -> LRDiversitySchedule | None:
    """The schedule of a hook that runs one, else None; other hooks' ``schedule``, as
    of MMEngine's ProfilerHook, is something else."""
    schedule = getattr(hook, "schedule", None)
    return schedule if isinstance(schedule, LRDiversitySchedule) else None


@LOOPS.register_module()
class SearchLoop(EpochBasedTrainLoop):
    """Search a supernet.

    One iteration is a weights step on a batch of the weights half of the training list
    and, while the alphas' learning rate is above 0, an alpha step on a batch of the
    other half. Both halves come from the one training list, split by class.

    The networks of a cycle are derived exactly, under the budget if there is one, and
    judged with inherited weights after their batch normalisation has been re-estimated;
    the best (:class:`Selection`) is the cycle's genotype. At the end of the search all
    genotypes are judged once more, with the weights that are there then, and beside
    them the most probable networks, however near to the genotypes they are; the search
    ends in the best of all.
    :class:`LRDiversityHook` owns the learning rates and says when a cycle ends.

    Files, written by rank 0 to ``work_dir/search/``: ``space.json``, ``split.json``,
    ``archive.json``, ``genotypes/cycle_NN.json`` and, at the end, ``genotype.json``
    and, where the archive lacks it, the same as ``genotypes/final.json``.

    Args:
        runner: The runner.
        dataloader: Config of the training loader; its sampler is not used.
        max_epochs: Passes over the weights half; more if ``min_steps`` needs them.
        input_shape: (C, T, H, W) of a training view, for which costs are computed.
        cost: ``dict(kind=..., budget=...)``, see :func:`build_budget`; further keys are
            those of :class:`CostPenalty`. Default None: no budget.
        relaxations: Names for ``warmup`` and ``weights`` (weights steps) and
            ``alphas`` (alpha steps). Default ``uniform``, ``gumbel_st``, ``two_path``.
        alpha_share: Share of the training list that trains the alphas. Default 0.5.
        calibration_batches: Batches of training clips from which batch normalisation
            is re-estimated before a network is judged, kept in memory. Default 8.
        metric: Validation metric that ranks genotypes. Default ``"acc/top1"``.
        num_ranked: How many of the most probable networks are judged at the end of a
            cycle. Default 1: only the most probable one.
        largest_every: In the first cycle, every so many weights steps run the costliest
            candidate of each layer in place of a sampled path (as in the sandwich rule,
            Yu and Huang, 2019): what the largest network learns first is then there for
            the others to share. Later cycles sample alone, so that the largest network
            is not favoured when networks are ranked. Default 0: never.
        alpha_weight: What a network's log-probability counts beside its accuracy when
            networks are judged, see :mod:`pvnas_mmaction.search.judging`. Default 0:
            accuracy alone decides.
        min_steps: Fewest weights steps of the search: where ``max_epochs`` are less,
            as with few clips, there are more epochs. Default 0.

    Raises:
        ValueError: A setting that can't be used; says which and what was expected.
        InfeasibleBudgetError: No network of the space keeps the budget.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: dict,
        max_epochs: int,
        input_shape: Sequence[int],
        cost: Mapping[str, Any] | None = None,
        relaxations: Mapping[str, str] | None = None,
        alpha_share: float = ALPHA_SHARE,
        calibration_batches: int = CALIBRATION_BATCHES,
        metric: str = METRIC,
        num_ranked: int = 1,
        largest_every: int = 0,
        alpha_weight: float = 0.0,
        min_steps: int = 0,
    ) -> None:
        check_count("train_cfg.min_steps", min_steps, 0)
        check_count("largest_every", largest_every, 0)
        check_count("calibration_batches", calibration_batches, 1)
        self.data = SearchData(dataloader, alpha_share)
        self.data.set_up(runner, shared_seed(runner.seed))
        loader = self.data.weights_loader
        epochs = num_epochs(max_epochs, min_steps, len(loader))
        if epochs > max_epochs:
            runner.logger.info(
                f"train_cfg.min_steps: {max_epochs} epochs of {len(loader)} step(s) "
                f"are less than {min_steps} steps, so the search takes {epochs}; "
                "train_cfg.min_steps=0 keeps it short"
            )
        super().__init__(runner, loader, epochs)
        # Only a cycle's network is validated, never the supernet.
        self.val_begin = self._max_epochs + 1

        self.model = runner.model
        if is_distributed() and not isinstance(self.model, SearchDataParallel):
            raise ValueError(
                f"model_wrapper_cfg.type: found {type(self.model).__name__!r}, "
                "expected 'mmaction.SearchDataParallel': a search reduces its "
                "gradients itself"
            )
        if is_model_wrapper(self.model):
            self.model = self.model.module
        self.supernet = find_supernet(self.model)
        self.space = self.supernet.space
        self.input_shape = check_input_shape(self.space.skeleton, input_shape)
        self.num_classes = self.model.cls_head.num_classes
        self.data.check_num_classes(self.num_classes)
        check_mapping("relaxations", relaxations or {})
        self.relaxations = {**DEFAULT_RELAXATIONS, **(relaxations or {})}
        if set(self.relaxations) != set(DEFAULT_RELAXATIONS):
            raise ValueError(
                f"relaxations: found the keys {sorted(self.relaxations)}, expected "
                f"some of {sorted(DEFAULT_RELAXATIONS)}"
            )
        for name in self.relaxations.values():
            get_relaxation(name)
        if self.relaxations["alphas"] == "uniform":
            raise ValueError(
                "relaxations.alphas: found 'uniform', which gives the alphas no "
                "gradient, expected another relaxation"
            )
        self._check_counted()
        self.penalty = self._build_penalty(cost)
        self.selection = Selection(
            self.supernet,
            self.input_shape,
            self.num_classes,
            self.penalty.budget if self.penalty else None,
            self.evaluate,
            lambda: len(self.runner.val_loop.dataloader.dataset),
            num_ranked,
            alpha_weight,
        )
        self.calibration_batches = calibration_batches
        self.metric = metric
        self.largest_every = largest_every
        self.alpha_steps = 0
        self._accumulated_from = 0  # alpha steps at the last restart
        self._alpha_batches: Iterator[dict] | None = None
        self._split: str | None = None  # of a search that is resumed
        self._clips: str | None = None
        self.record = SearchRecord(
            runner, self.space, self.input_shape, self.num_classes
        )

    @property
    def seed(self) -> int:
        """Seed that all noise of the search comes from."""
        return self.data.seed

    def _check_counted(self) -> None:
        """Say so where a model has more than costs count."""
        backbone = sum(p.numel() for p in self.supernet.parameters())
        found = sum(p.numel() for p in self.model.parameters()) - backbone
        counted = (self.space.skeleton.out_channels + 1) * self.num_classes
        if found != counted:
            self.runner.logger.warning(
                f"model: found {found} parameters outside its backbone, {counted} are "
                "counted, those of one fully connected layer: budgets, "
                "multiply-accumulates and parameters are without the rest of "
                "model.cls_head and model.neck"
            )

    def _build_penalty(self, cost: Mapping[str, Any] | None) -> CostPenalty | None:
        if cost is None:
            return None
        check_mapping("cost", cost)
        settings = dict(cost)
        budget = build_budget(settings, self.space, self.input_shape, self.num_classes)
        return CostPenalty(budget, **settings)

    @property
    def _costs(self) -> str:
        """Tells whether two searches count the same costs."""
        selection = self.selection
        size = [self.input_shape, self.num_classes]
        return digest_of([*size, selection.fixed, selection.per_layer])

    @property
    def _settings(self) -> dict[str, Any]:
        """What makes another search of the same space, clips and costs."""
        alphas = self.runner.optim_wrapper["alphas"]
        names = ("relaxations", "metric", "largest_every", "calibration_batches")
        return {
            "model.backbone.tau": self.supernet.tau,
            "optim_wrapper.alphas.accumulative_counts": alphas._accumulative_counts,
            **{f"train_cfg.{name}": getattr(self, name) for name in names},
            "train_cfg.num_ranked": self.selection.num_ranked,
            "train_cfg.alpha_weight": self.selection.alpha_weight,
        }

    @property
    def archive(self) -> Archive:
        """The genotypes found so far."""
        return self.selection.archive

    # -- running ------------------------------------------------------------------

    def run(self) -> torch.nn.Module:
        """Launch the search; a resumed one goes on within its epoch."""
        schedule = next(filter(None, map(schedule_of, self.runner.hooks)), None)
        if schedule is None:
            raise ValueError(
                "custom_hooks: found no LRDiversityHook, expected one: it sets the "
                "learning rates of a search and ends its cycles"
            )
        seed = shared_seed(self.runner.seed)
        if seed != self.seed:
            # Resumed without a seed in the config: the checkpoint's holds.
            self.data.set_up(self.runner, seed)
            self.dataloader = self.data.weights_loader
        same_list = self._clips in (None, self.data.clips_digest)
        if not same_list or self._split not in (None, self.data.digest):
            raise ValueError(
                "checkpoint: found a search on another training list, or on other "
                "halves of it, expected the list and the train_cfg.alpha_share of this "
                "config: clips that trained the alphas would train the weights; resume "
                "with the config and the list the search was started with, or start "
                "anew in another work_dir"
            )
        self._epoch = self._iter // len(self.dataloader)
        self.record.write_setting(self.data, self.penalty)
        if not (self.record.directory / "archive.json").exists():
            self.record.write_archive(self.archive)  # resumed in another folder
        wrappers = self.runner.optim_wrapper
        wrappers["weights"].initialize_count_status(
            self.model, self._iter, self._max_iters
        )
        accumulated = self.alpha_steps - self._accumulated_from
        wrappers["alphas"].initialize_count_status(self.model, accumulated, -1)
        self.data.alpha_loader.sampler.start = self.alpha_steps
        self.data.alpha_loader.sampler.num_batches = self._max_iters
        data = dict(
            ann_file=self.data.ann_file,
            num_weights_clips=len(self.data.weights_half),
            num_alphas_clips=len(self.data.alpha_half),
        )
        with recorded_run(
            self.runner,
            seed=self.seed,
            num_steps=self.max_iters,
            data=data,
            schedule=asdict(schedule.config),
        ):
            self._try_validation()
            model = super().run()
            self.record.write_result(self.archive)
        return model

    def run_epoch(self) -> None:
        """Run what is left of one epoch."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        done = self._iter - self._epoch * len(self.dataloader)
        sampler = self.dataloader.sampler
        sampler.start, sampler.num_batches = self._iter, len(self.dataloader) - done
        for idx, data_batch in enumerate(self.dataloader, start=done):
            self.run_iter(idx, data_batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: dict) -> None:
        """One weights step and, unless the alphas rest, one alpha step."""
        self.runner.call_hook("before_train_iter", batch_idx=idx, data_batch=data_batch)
        wrappers = self.runner.optim_wrapper
        resting = wrappers["alphas"].optimizer.param_groups[0]["lr"] == 0
        first_cycle = not self.archive.entries
        if first_cycle and is_largest_step(self._iter, self.largest_every):
            path = self.supernet.path_of(costliest(self.selection.per_layer))
        else:
            path = self._sample(
                self.relaxations["warmup" if resting else "weights"],
                Stream.WEIGHTS_PATH,
            )
        check_ranks_agree(self._iter, path, list(self.supernet.alphas))
        self._seed_step(Stream.WEIGHTS_STEP)
        outputs = weights_step(
            self.model, self.supernet, data_batch, path, wrappers["weights"]
        )
        if not resting:
            path = self._sample(self.relaxations["alphas"], Stream.ALPHA_PATH)
            check_ranks_agree(self._iter, path, list(self.supernet.alphas))
            alpha_batch = self._next_alpha_batch()
            # After it: a loader that starts draws from torch's generator.
            self._seed_step(Stream.ALPHA_STEP)
            outputs |= alpha_step(
                self.model,
                self.supernet,
                alpha_batch,
                path,
                wrappers["alphas"],
                self.penalty,
            )
            if self.penalty is not None and wrappers["alphas"].should_update():
                self.penalty.update(self.expected_cost())
        self.runner.call_hook(
            "after_train_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs
        )
        self._iter += 1

    def _sample(self, relaxation: str, stream: Stream) -> Path:
        seed = derived_seed(self.seed, stream, self._iter)
        return self.supernet.sample(relaxation, torch.Generator().manual_seed(seed))

    def _seed_step(self, stream: Stream) -> None:
        """Dropout and blending of a step follow from its number, whatever ran before
        it."""
        seed_all(derived_seed(self.seed, stream, self._iter, get_rank()))

    def _next_alpha_batch(self) -> dict:
        if self._alpha_batches is None:
            self._alpha_batches = iter(self.data.alpha_loader)
        self.alpha_steps += 1
        return next(self._alpha_batches)

    def restart_accumulation(self) -> None:
        """Drop the alphas' gradients that wait for an update: they are about the alphas
        before a restart."""
        wrapper = self.runner.optim_wrapper["alphas"]
        wrapper.zero_grad()
        wrapper.initialize_count_status(self.model, 0, -1)
        self._accumulated_from = self.alpha_steps

    # -- what is known of the search -----------------------------------------------

    def expected_cost(self) -> float:
        """E[cost] at present: in the budget's unit, or MACs where there is none."""
        selection = self.selection
        probabilities = self.supernet.probabilities()
        expected = expected_cost(selection.fixed, selection.per_layer, probabilities)
        return float(expected.detach())

    def evaluate(self, indices: Sequence[int]) -> float | None:
        """Validation accuracy of one network with inherited weights, or None where
        there is no validation data."""
        if self.runner.val_loop is None:
            return None
        with (
            self.supernet.use_path(self.supernet.path_of(indices)),
            reestimated_batch_norm(
                self.model,
                self.data.calibration(self.calibration_batches),
                derived_seed(self.seed, Stream.CALIBRATION),
            ),
        ):
            metrics = self.runner.val_loop.run()
        return self._read(metrics)

    def _read(self, metrics: Mapping[str, Any]) -> float:
        if self.metric not in metrics:
            raise ValueError(
                f"metric: found {self.metric!r}, expected one of {sorted(metrics)}"
            )
        value = float(metrics[self.metric])
        if not 0 <= value <= 1:  # nor NaN
            raise ValueError(
                f"train_cfg.metric: found {self.metric} = {value:g}, expected an "
                "accuracy from 0 to 1"
            )
        return value

    def _try_validation(self) -> None:
        """Validate one batch, so that what is wrong with the validation data or the
        metric shows before the first cycle, not after it."""
        loop = self.runner.val_loop
        if not isinstance(loop, ValLoop):
            return
        self.runner.model.eval()
        # A loader that starts draws from torch's generator.
        with (
            torch.no_grad(),
            seeded(derived_seed(self.seed, Stream.CALIBRATION)),
            self.supernet.use_path(self.supernet.path_of([0] * len(self.space.layers))),
        ):
            batch = next(iter(loop.dataloader))
            with autocast(enabled=loop.fp16):
                samples = self.runner.model.val_step(batch)
            loop.evaluator.process(data_samples=samples, data_batch=batch)
            self._read(loop.evaluator.evaluate(len(loop.dataloader.dataset)))

    # -- results -------------------------------------------------------------------

    def finish_cycle(self, cycle: int, min_distance: float = 0.0) -> ArchiveEntry:
        """:meth:`Selection.finish_cycle` after this step; writes its genotype."""
        entry = self.selection.finish_cycle(cycle, self._iter + 1, min_distance)
        self.record.write_entry(entry, self.archive)
        return entry

    def finish_search(self, min_distance: float = 0.0) -> None:
        """:meth:`Selection.finish_search`; writes what changed."""
        self.selection.finish_search(min_distance)
        self.record.write_archive(self.archive)

    # -- resume --------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What a resumed search needs beyond weights, alphas and optimisers."""
        pending = {
            name: parameter.grad.clone()
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }
        return dict(
            space=self.space.to_config(),
            seed=self.seed,
            split=self.data.digest,
            clips=self.data.clips_digest,
            costs=self._costs,
            input_shape=list(self.input_shape),
            num_classes=self.num_classes,
            settings=self._settings,
            alpha_steps=self.alpha_steps,
            accumulated_from=self._accumulated_from,
            archive=self.archive.to_dict(),
            penalty=self.penalty.state_dict() if self.penalty else None,
            pending_gradients=pending,
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`.

        Raises:
            ValueError: The state is not whole, or belongs to a search of another
                space, or with another budget, other costs or other settings.
        """
        keys = ["space", "alpha_steps", "archive", "penalty", "pending_gradients"]
        require_keys(state, keys, "checkpoint, state of the loop")
        check_space(state, self.space)
        check_penalty(state, self.penalty)
        if self.penalty is not None:
            self.penalty.load_state_dict(state["penalty"])
        check_costs(state, self._costs)
        check_settings(state, self._settings)
        # Earlier checkpoints have neither these nor the costs and settings.
        self._split, self._clips = state.get("split"), state.get("clips")
        self._accumulated_from = state.get("accumulated_from", 0)
        self.alpha_steps = state["alpha_steps"]
        self.selection.archive = Archive.from_dict(state["archive"])
        parameters = dict(self.model.named_parameters())
        for name, gradient in state["pending_gradients"].items():
            parameters[name].grad = gradient.to(parameters[name])
