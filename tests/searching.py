"""A search so small that it takes about a second, for tests of the engine."""

import json
import multiprocessing
import os
import random
import signal
import socket
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from mmaction.registry import DATASETS, HOOKS, MODELS
from mmaction.structures import ActionDataSample
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

import pvnas_mmaction  # noqa: F401  (registers)
from pvnas_mmaction.apis.launchers import end_distributed
from pvnas_mmaction.search.schedule import LRDiversityConfig, LRDiversitySchedule
from pvnas_mmaction.search.search import Search

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "pvnas"
SEARCH_RUNTIME = CONFIGS / "_base_" / "search_runtime.py"
NUM_CLASSES = 2
INPUT_SHAPE = (3, 4, 8, 8)
CANDIDATES = ["mb_t1_k3_e1", "mb_t3_k3_e2", "ts_t3_k3_e1", "skip"]
STAGE = dict(out_channels=4, num_layers=3, candidates=CANDIDATES)
SPACE = dict(name="toy", stem=dict(channels=4), head_channels=8, stages=[STAGE])
# Changes of a search's config: no validation, and a checkpoint at the end alone.
NO_VALIDATION = dict(val_cfg=None, val_dataloader=None, val_evaluator=None)
QUIET = dict(default_hooks=dict(checkpoint=dict(interval=100)))
_RUNS = count()


@DATASETS.register_module()
class ToyClips(Dataset):
    """Clips in memory, (1, 3, 4, 8, 8) each; class 1 is brighter than class 0.

    An item depends on its index and, by ``noise``, on every random state that
    MMAction2's pipelines use. The index is in the data sample, so that a test sees
    what a batch holds. ``multi_class``: labels are lists, as in multi-label data.
    """

    metainfo: dict = {}  # noqa: RUF012

    def __init__(self, length, noise=0.1, multi_class=False, name="clip") -> None:
        generator = torch.Generator().manual_seed(0)
        self.clips = torch.randn((length, 1, *INPUT_SHAPE), generator=generator)
        self.clips += torch.arange(length).reshape(-1, 1, 1, 1, 1, 1) % NUM_CLASSES
        self.noise = noise
        self.multi_class = multi_class
        self.name = name

    def __len__(self) -> int:
        return len(self.clips)

    def get_data_info(self, index: int) -> dict:
        label = index % NUM_CLASSES
        label = [label] if self.multi_class else label
        return dict(label=label, filename=f"{self.name}_{index}.mp4")

    def __getitem__(self, index: int) -> dict:
        noise = random.random() + np.random.rand() + float(torch.rand(()))
        sample = ActionDataSample().set_gt_label(index % NUM_CLASSES)
        sample.set_metainfo(dict(index=index))
        return dict(inputs=self.clips[index] + self.noise * noise, data_samples=sample)


@HOOKS.register_module()
class KillHook(Hook):
    """Kills the process, as SIGKILL does, after each of some steps, once per work
    directory; ``before_checkpoint``: before the step's checkpoint is written."""

    def __init__(self, steps: list[int], before_checkpoint: bool = False) -> None:
        self.steps = steps
        self.priority = "LOW" if before_checkpoint else "LOWEST"

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        marker = Path(runner.work_dir) / f"killed_at_{runner.iter}_{get_rank()}"
        if runner.iter in self.steps and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@HOOKS.register_module()
class TraceHook(Hook):
    """Writes what each process does to ``trace_RANK.json`` in the work directory.

    ``draws``: step, relaxation, indices of the path, and the alphas at that moment, bit
    by bit; ``weights`` and ``alphas``: clips of each batch.
    """

    priority = "HIGHEST"

    def before_train(self, runner) -> None:
        loop, self.trace = runner.train_loop, dict(draws=[], weights=[], alphas=[])
        supernet = loop.search.supernet
        sample, next_batch = supernet.sample, loop._next_alpha_batch

        def traced_sample(relaxation, *args):
            path = sample(relaxation, *args)
            indices = [list(choice.indices) for choice in path]
            bits = supernet.alphas.detach().numpy().tobytes().hex()
            self.trace["draws"].append([runner.iter, relaxation, indices, bits])
            return path

        def traced_batch():
            batch = next_batch()
            self.trace["alphas"].append(batch_indices(batch))
            return batch

        supernet.sample, loop._next_alpha_batch = traced_sample, traced_batch

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.trace["weights"].append(batch_indices(data_batch))

    def after_run(self, runner) -> None:
        path = Path(runner.work_dir) / f"trace_{get_rank()}.json"
        path.write_text(json.dumps(self.trace))


class PlainConfig(Config):
    """A config whose text is not formatted, which takes longer than the toy search."""

    @property
    def pretty_text(self) -> str:
        items = self.to_dict().items()
        return "\n".join(f"{key} = {value!r}" for key, value in items)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def batch_indices(batch: dict) -> list[int]:
    """Which clips a batch holds."""
    return [sample.metainfo["index"] for sample in batch["data_samples"]]


def toy_model(space: dict = SPACE, **head: Any) -> dict:
    """Config of the recognizer around the supernet of a toy space."""
    own = dict(in_channels=SPACE["head_channels"], num_classes=NUM_CLASSES)
    own |= dict(dropout_ratio=0.5, average_clips="prob") | head
    return dict(
        type="Recognizer3D",
        backbone=dict(type="PVNASSupernet", space=space),
        cls_head=dict(type="I3DHead", **own),
        data_preprocessor=dict(type="ActionDataPreprocessor", format_shape="NCTHW"),
    )


def build_toy_model(space: dict = SPACE, share: bool = True, **head: Any) -> nn.Module:
    """The recognizer with random weights and alphas."""
    init_default_scope("mmaction")
    torch.manual_seed(0)
    config = toy_model(space, **head)
    config["backbone"]["share"] = share
    model = MODELS.build(config)
    nn.init.normal_(model.backbone.alphas)
    return model.train()


def toy_optimizers(model: nn.Module, lr: float = 0.05, **settings: Any) -> dict:
    """Plain optimisers of weights and alphas."""
    weights = [p for n, p in model.named_parameters() if "alphas" not in n]
    alphas = [model.backbone.alphas]
    return dict(
        weights=OptimWrapper(torch.optim.SGD(weights, lr=lr), **settings),
        alphas=OptimWrapper(torch.optim.SGD(alphas, lr=lr), **settings),
    )


def toy_search(
    model: nn.Module | None = None, mode: str = "diversity", **settings: Any
) -> Search:
    """A search of 18 steps in 2 cycles without a runner, on :func:`make_batch`es."""
    model = model or build_toy_model()
    tune = settings.get("donor", {}).get("tune_steps", 0)
    config = LRDiversityConfig(
        18, mode=mode, num_cycles=2, alphas_lr=0.1, tune_steps=tune
    )
    settings = {"optimizers": toy_optimizers(model), **settings}
    schedule = LRDiversitySchedule(config)
    return Search(model, schedule=schedule, input_shape=INPUT_SHAPE, seed=0, **settings)


def make_batch(size: int = 4, seed: int = 1) -> dict:
    """A batch as a loader gives it."""
    torch.manual_seed(seed)
    labels = [index % NUM_CLASSES for index in range(size)]
    return dict(
        inputs=[torch.randn(1, *INPUT_SHAPE) for _ in labels],
        data_samples=[ActionDataSample().set_gt_label(label) for label in labels],
    )


def search_config(work_dir: str | Path, **changes: Any) -> Config:
    """Config of the toy search: 18 steps, 3 an epoch, 2 cycles of 9; a dict among the
    changes is merged into the one that is there."""

    def loader(length: int, noise: float) -> dict:
        sampler = dict(type="DefaultSampler", shuffle=False)
        dataset = dict(type="ToyClips", length=length, noise=noise)
        return dict(batch_size=4, num_workers=0, sampler=sampler, dataset=dataset)

    sgd = dict(type="SGD", lr=0.05, momentum=0.9)
    config = PlainConfig(
        dict(
            default_scope="mmaction",
            work_dir=str(work_dir),
            # MMEngine keeps logs of the same second under one name.
            experiment_name=f"toy_{os.getpid()}_{next(_RUNS)}",
            model=toy_model(),
            train_dataloader=loader(25, noise=0.1),
            val_dataloader=loader(16, noise=0.0),
            val_evaluator=dict(type="AccMetric"),
            train_cfg=dict(
                type="SearchLoop",
                max_epochs=6,
                input_shape=INPUT_SHAPE,
                calibration_batches=2,
            ),
            val_cfg=dict(type="ValLoop"),
            optim_wrapper=dict(
                constructor="SearchOptimWrapperConstructor",
                weights=dict(optimizer=sgd, clip_grad=dict(max_norm=20)),
                alphas=dict(optimizer=dict(type="Adam", lr=0.1, betas=(0.5, 0.999))),
            ),
            param_scheduler=None,
            default_hooks=dict(
                runtime_info=dict(type="RuntimeInfoHook"),
                timer=dict(type="IterTimerHook"),
                logger=dict(type="LoggerHook", interval=1),
                checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=2),
            ),
            custom_hooks=[
                dict(type="LRDiversityHook", mode="diversity", num_cycles=2),
                dict(type="SearchHistoryHook", interval=2),
            ],
            log_processor=dict(type="LogProcessor", window_size=1, by_epoch=True),
            log_level="WARNING",
            model_wrapper_cfg=Config.fromfile(SEARCH_RUNTIME).model_wrapper_cfg,
            randomness=dict(seed=0),
            launcher="none",
        )
    )
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            config.merge_from_dict({key: value})
        else:
            config[key] = value
    return config


def build_search(work_dir: str | Path, **changes: Any) -> Runner:
    """A runner of the toy search, not started."""
    return Runner.from_cfg(search_config(work_dir, **changes))


def run_search(work_dir: str | Path, **changes: Any) -> Runner:
    """Run the toy search."""
    runner = build_search(work_dir, **changes)
    runner.train()
    return runner


def run_forked(target: Callable[..., Any], *args: Any, **kwargs: Any) -> int | None:
    """Exit status of a function in a process forked from this one, which starts at
    once; it is negative where a signal ended the process."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_run_afresh, args=(target, args, kwargs))
    process.start()
    process.join(timeout=600)
    return process.exitcode


def _run_afresh(target: Callable[..., Any], args: tuple, kwargs: dict) -> None:
    np.random.seed()  # MMEngine draws a seed where the config has none
    target(*args, **kwargs)


def run_ranks(folder: Path, count: int, target: Callable[..., Any], *args: Any) -> list:
    """Run a function in several forked processes joined by gloo; what it returned, by
    rank, through ``torch.save`` in a folder; an exception as its text."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    context = multiprocessing.get_context("fork")
    files = [folder / f"result_{rank}.pth" for rank in range(count)]
    processes = [
        context.Process(target=_run_rank, args=(rank, count, port, file, target, args))
        for rank, file in enumerate(files)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        process.kill()
    return [torch.load(file) if file.exists() else None for file in files]


def _run_rank(rank: int, count: int, port: int, file: Path, target, args) -> None:
    places = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=count, MASTER_PORT=port)
    os.environ.update({name: str(value) for name, value in places.items()})
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    try:
        result = target(*args)
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    torch.save(result, file)
    end_distributed()
