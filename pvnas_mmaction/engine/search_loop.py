"""The training loop of a search: it feeds batches to a :class:`Search`."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmaction.registry import LOOPS
from mmengine.dist import get_world_size
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..models.supernet import find_supernet
from ..search.distributed import SearchDataParallel, announce_failure, from_rank_0
from ..search.donor_warmup import DonorWarmup
from ..search.randomness import seeded
from ..search.schedule import LRDiversitySchedule, num_epochs
from ..search.search import Search
from ..space.checks import COUNT, at_least, check, wrong
from .search_data import ALPHA_SHARE, CALIBRATION_BATCHES, METRIC, SearchData
from .search_files import SearchFiles
from .validation import Validation


@LOOPS.register_module()
class SearchLoop(EpochBasedTrainLoop):
    """Search a supernet: one iteration is a weights step on a batch of the weights half
    of the training list and, unless the alphas rest, an alpha step on one of the other.

    :class:`Search` is the algorithm; :class:`LRDiversityHook` builds its schedule and
    ends its cycles; :class:`SearchFiles` writes what it finds. Arguments are the fields
    of ``train_cfg``, see docs/reference/configs.md; ``settings`` go to the search.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: dict,
        max_epochs: int,
        alpha_share: float = ALPHA_SHARE,
        calibration_batches: int = CALIBRATION_BATCHES,
        metric: str = METRIC,
        min_steps: int = 0,
        **settings: Any,
    ) -> None:
        check("train_cfg.calibration_batches", calibration_batches, COUNT)
        check("train_cfg.min_steps", min_steps, at_least(0))
        self.data = SearchData(dataloader, alpha_share)
        # With diff_rank_seed, MMEngine gives each rank another one.
        self.data.set_up(runner, from_rank_0(lambda: runner.seed))
        loader = self.data.weights_loader
        epochs = num_epochs(max_epochs, min_steps, len(loader))
        if epochs > max_epochs:
            text = f"{epochs} epochs instead of {max_epochs} make min_steps={min_steps}"
            runner.logger.info(f"train_cfg: {text}")
        super().__init__(runner, loader, epochs)
        self.val_begin = self._max_epochs + 1  # the supernet itself is never validated
        self.calibration_batches, self.metric = calibration_batches, metric
        self.settings = settings
        self.search: Search | None = None  # until before_run of the hook
        self.validation: Validation | None = None
        self._alpha_batches: Iterator[dict] | None = None
        self.model = runner.model
        if get_world_size() > 1 and not isinstance(self.model, SearchDataParallel):
            expected, got = "'mmaction.SearchDataParallel'", type(self.model).__name__
            raise wrong("model_wrapper_cfg.type", expected, repr(got))
        if is_model_wrapper(self.model):
            self.model = self.model.module
        self.supernet = find_supernet(self.model)
        head = getattr(self.model, "cls_head", None)
        donor = DonorWarmup.read(settings.get("donor"), self.supernet.space, head)
        # Steps that tune the full network of a donor, before the cycles begin.
        self.num_tune_steps = donor.tune_steps if donor else 0

    def build_search(self, schedule: LRDiversitySchedule) -> Search:
        loop = self.runner.val_loop
        if loop is not None:
            self.validation = Validation(loop.dataloader, loop.evaluator, self.metric)
        search = self.search = Search(
            self.model,
            self.runner.optim_wrapper,
            schedule,
            seed=self.data.seed,
            validate=self.validation,
            calibration=lambda: self.data.calibration(self.calibration_batches),
            judging=self.data.judging,
            racing=self.data.racing,
            num_clips=self.validation.num_clips if self.validation else 0,
            extra_setting={
                "train_cfg.metric": self.metric,
                "train_cfg.calibration_batches": self.calibration_batches,
                "val_dataloader": "one" if loop is not None else None,
                "train_dataloader.dataset (clips, class ids, halves)": self.data.digest,
            },
            **self.settings,
        )
        # What a model has beyond what costs count.
        backbone = sum(p.numel() for p in self.supernet.parameters())
        found = sum(p.numel() for p in self.model.parameters()) - backbone
        counted = (search.space.skeleton.out_channels + 1) * search.num_classes
        if search.penalty is not None and found != counted:
            expected = f"{counted} parameters outside its backbone, one linear layer"
            hint = "costs are without the rest of model.cls_head and model.neck"
            raise wrong("model", expected, str(found), hint)
        self.files = SearchFiles(self.runner, self.search, self.data)
        return self.search

    def run(self) -> torch.nn.Module:
        if self.search is None:
            expected = "LRDiversityHook, which builds the schedule of a search"
            raise wrong("custom_hooks", expected, "none")
        search, sampler = self.search, self.data.alpha_loader.sampler
        self._epoch = self._iter // len(self.dataloader)
        sampler.start, sampler.num_batches = search.num_alpha_steps, self._max_iters
        from_rank_0(self.files.write_setting)
        with self.files.recorded_run():
            try:
                if self.validation is not None:
                    # What is wrong with validation data or metric shows now.
                    path = self.supernet.path_of([0] * len(self.supernet.counts))
                    with seeded(search.seed), self.supernet.use_path(path):
                        self.validation(self.model, num_batches=1)
                search.begin()
                model = super().run()
                self.files.write_result()
            except Exception as error:
                announce_failure(error)
                raise
        return model

    def run_epoch(self) -> None:
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
        self.runner.call_hook("before_train_iter", batch_idx=idx, data_batch=data_batch)
        alphas_batch = None if self.search.rests else self._next_alpha_batch()
        outputs = self.search.step(data_batch, alphas_batch)
        if self.search.num_steps == self.num_tune_steps:
            from_rank_0(self.files.write_archive)
        self.runner.call_hook(
            "after_train_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs
        )
        self._iter += 1

    def _next_alpha_batch(self) -> dict:
        if self._alpha_batches is None:
            self._alpha_batches = iter(self.data.alpha_loader)
        return next(self._alpha_batches)

    def end_cycle(self):
        """End a cycle, after the last one the search, and write what was found."""
        entry = self.search.end_cycle()
        from_rank_0(self.files.write_archive)
        if self.search.is_done:
            self.search.finish()
            from_rank_0(self.files.write_archive)
        return entry

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``Search.state_dict``; ValueError for that of another one."""
        if state["seed"] != self.data.seed:
            # Resumed without a seed in the config: the checkpoint's holds.
            self.data.set_up(self.runner, state["seed"])
            self.dataloader = self.data.weights_loader
        self.search.load_state_dict(state)
