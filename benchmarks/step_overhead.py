"""What a step of a search costs the host: reads of the device, and time in Python.

A shipped search config runs on random clips in memory. Counted per iteration with an
alpha step, medians over many:

- reads: how often the host waits for a value of the device (``item``, ``tolist``,
  ``cpu`` and the like). On a GPU each is a synchronisation. They are counted on a CPU
  by following which tensors would be on the device;
- milliseconds outside the data, the forward, the backward pass and the optimiser.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from mmaction.registry import DATASETS
from mmaction.structures import ActionDataSample
from mmengine.config import Config
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset
from torch.utils.data.dataloader import _BaseDataLoaderIter

from pvnas_mmaction.models.supernet import find_supernet
from pvnas_mmaction.profiling.clock import Clock

ROOT = Path(__file__).resolve().parent.parent
READS = {"tolist", "numpy", "cpu"}
SCALARS = {"aten::_local_scalar_dense", "aten::equal", "aten::nonzero"}
# What any training calls: class and method, in addition to its recognizer's.
SHARED = (
    (_BaseDataLoaderIter, "__next__"),
    (OptimWrapper, "backward"),
    (OptimWrapper, "step"),
    (OptimWrapper, "zero_grad"),
    (RuntimeInfoHook, "after_train_iter"),
    (LoggerHook, "after_train_iter"),
)


class HostReads:
    """Counts reads of device tensors within a ``with`` block, also on a CPU.

    Device tensors are those given, and all that is computed from one. What is read
    from the device, and what is made out of numbers or with a generator, is the host's.

    Args:
        device: Tensors on the device at the start, e.g. parameters and clips.
        counts: Asked at each read whether it counts. Default: all do.
    """

    def __init__(
        self, device: Sequence[Tensor], counts: Callable[[], bool] = lambda: True
    ) -> None:
        self.count = self.others = 0
        self._counts = counts
        self._device = {_storage(tensor) for tensor in device}
        self._modes = ExitStack()

    def __enter__(self) -> HostReads:
        self._modes.enter_context(_Functions(self))
        self._modes.enter_context(_Operators(self))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._modes.close()

    def put(self, *tensors: Tensor, on_device: bool = True) -> None:
        """Note where tensors are."""
        for tensor in tensors:
            (self._device.add if on_device else self._device.discard)(_storage(tensor))

    def read(self) -> None:
        """Note a read."""
        if self._counts():
            self.count += 1
        else:
            self.others += 1

    def has(self, tensor: object) -> bool:
        """Whether a tensor is on the device."""
        return isinstance(tensor, Tensor) and _storage(tensor) in self._device


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class _Functions(TorchFunctionMode):
    """Reads that, on a CPU, are no operators."""

    def __init__(self, reads: HostReads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        # A device in place of its name is that of another tensor.
        to_host = name == "to" and "cpu" in args[1:]
        if (name in READS or to_host) and self.reads.has(args[0]):
            self.reads.read()
            copy = args[0].clone()
            self.reads.put(copy, on_device=False)
            args = (copy, *args[1:])
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    """Follows tensors through operators; counts those that give the host a value."""

    def __init__(self, reads: HostReads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        inputs = tree_leaves((args, kwargs))
        name = func.name().partition(".")[0]
        # A new tensor of numbers may lie where one of the device was.
        on_device = name != "aten::lift_fresh" and any(map(self.reads.has, inputs))
        if on_device and name in SCALARS:
            self.reads.read()
        to_host = name == "aten::copy_" and on_device and not self.reads.has(args[0])
        if to_host:
            self.reads.read()
        out = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.reads.put(*tensors, on_device=on_device and not to_host)
        return out


class OwnTime:
    """Time of blocks outside the functions that any training calls."""

    def __init__(self, device: str) -> None:
        self._read = (
            time.thread_time
            if Clock(device).kind == "thread time"
            else time.perf_counter
        )
        self.depth = 0
        self._shared = 0.0

    @contextmanager
    def installed(self, model: nn.Module) -> Iterator[None]:
        """Within this context the functions that any training calls are timed."""
        names = ("forward", "extract_feat", "parse_losses")
        own = [(type(model), name) for name in names]
        own.append((type(model.data_preprocessor), "forward"))
        with ExitStack() as stack:
            for owner, name in (*SHARED, *own):
                timed = self._timed(getattr(owner, name))
                stack.enter_context(mock.patch.object(owner, name, timed))
            yield

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = self._read()
            self.depth += 1
            try:
                return function(*args, **kwargs)
            finally:
                self.depth -= 1
                if not self.depth:
                    self._shared += self._read() - started

        return timed

    def of(self, function: Callable[..., Any], *args: Any) -> tuple[float, float]:
        """Milliseconds of a call in all, and those outside the shared functions."""
        self._shared, started = 0.0, self._read()
        function(*args)
        whole = self._read() - started
        return 1e3 * whole, 1e3 * (whole - self._shared)


@DATASETS.register_module()
class RandomClips(Dataset):
    """Random clips in memory.

    Args:
        shape: (C, T, H, W).
        length: Number of clips, of two classes in turn.
    """

    metainfo: dict = {}  # noqa: RUF012

    def __init__(self, shape: Sequence[int], length: int) -> None:
        generator = torch.Generator().manual_seed(0)
        clip = torch.randint(0, 256, (1, *shape), generator=generator)
        self.clip, self.length = clip.to(torch.uint8), length

    def __len__(self) -> int:
        return self.length

    def get_data_info(self, index: int) -> dict[str, Any]:
        """Label and name of a clip."""
        return dict(label=index % 2, filename=f"{index}.mp4")

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = ActionDataSample().set_gt_label(index % 2)
        return dict(inputs=self.clip, data_samples=sample)


def build_runner(
    config: str, work_dir: str, steps: int, shape: Sequence[int]
) -> Runner:
    """A search of a shipped config on random clips, of one cycle of ``steps`` steps."""
    cfg = Config.fromfile(ROOT / "configs" / "pvnas" / config)
    old, cfg.train_cfg.input_shape = cfg.train_cfg.input_shape, (3, *shape)
    scale = shape[0] * shape[1] * shape[2] / (old[1] * old[2] * old[3])
    if cfg.train_cfg.get("cost"):
        cfg.train_cfg.cost.budget *= scale
    cfg.train_cfg.update(max_epochs=1, min_steps=0)
    cfg.train_cfg.pop("donor", None)  # its tuning has no alpha steps
    cfg.train_dataloader = dict(
        batch_size=1,
        num_workers=0,
        sampler=dict(type="DefaultSampler", shuffle=True),
        dataset=dict(type="RandomClips", shape=(3, *shape), length=2 * steps),
    )
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    for hook in cfg.custom_hooks:
        if hook["type"] == "LRDiversityHook":
            hook["num_cycles"] = 1
    cfg.default_hooks.checkpoint.interval = 10**6
    cfg.work_dir, cfg.log_level, cfg.randomness = work_dir, "ERROR", dict(seed=0)
    return Runner.from_cfg(cfg)


def measure(
    config: str,
    steps: int = 80,
    shape: Sequence[int] = (4, 32, 32),
    device: str = "cpu",
) -> dict[str, Any]:
    """Reads and times per iteration of a search of a config in configs/pvnas."""
    reads, times, own = [], [], OwnTime(device)
    with tempfile.TemporaryDirectory() as work_dir:
        runner = build_runner(config, work_dir, steps, shape)
        loop = runner.train_loop
        inner = loop.run_iter
        state = [*runner.model.parameters(), *runner.model.buffers()]

        def run_iter(idx: int, batch: dict) -> None:
            resting = runner.optim_wrapper["alphas"].param_groups[0]["lr"] == 0
            if resting or idx == steps - 1:
                inner(idx, batch)
            elif idx % 4:
                times.append(own.of(inner, idx, batch))
            else:
                counter = HostReads([*state, *batch["inputs"]], lambda: not own.depth)
                with counter:
                    inner(idx, batch)
                reads.append((counter.count, counter.others))

        loop.run_iter = run_iter
        with own.installed(runner.model):
            runner.train()
        space = find_supernet(runner.model).space
    return dict(
        config=config,
        layers=len(space.layers),
        candidates=sum(map(len, space.candidates)),
        host_reads=statistics.median(count for count, _ in reads),
        host_reads_max=max(count for count, _ in reads),
        host_reads_of_any_training=statistics.median(others for _, others in reads),
        overhead_ms=round(statistics.median(outside for _, outside in times), 2),
        step_ms=round(statistics.median(whole for whole, _ in times), 2),
        iterations=len(times),
    )
