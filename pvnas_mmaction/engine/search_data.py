"""The two halves of the training list, and loaders whose every batch is a function of
(seed, step), so that a search that was killed continues with the batches that it would
have seen. Samplers yield keys (index, seed), from which augmentations are seeded."""

import copy
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from mmaction.registry import DATASETS
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.dist import get_rank, get_world_size
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset, Sampler

from ..datasets.video_list import resolve
from ..search.randomness import Stream, derived_seed, seeded
from ..search.search import digest_of
from ..space.checks import check, in_range, wrong

Key = tuple[int, int]
LIST = "train_dataloader.dataset"

# Defaults of a search that networks judged after it have to share.
ALPHA_SHARE = 0.5
CALIBRATION_BATCHES = 8
METRIC = "acc/top1"


def split_by_class(
    labels: Sequence[int],
    alpha_share: float,
    seed: int,
    files: Sequence[str] | None = None,
) -> tuple[list[int], list[int]]:
    """Ascending indices of a weights half and an alpha half of a list of clips; a
    ValueError where one would be empty. ``alpha_share`` of each class, rounded, goes to
    the alpha half; a class of two clips or more has one or more in each. Clips of one
    of ``files`` (None: each has its own) come to one half."""
    check("train_cfg.alpha_share", alpha_share, in_range("(0, 1)"))
    generator = np.random.default_rng(seed)
    files = range(len(labels)) if files is None else files
    first: dict[Any, int] = {}  # clip of a file
    for index, file in enumerate(files):
        first.setdefault(file, index)
    by_class: dict[int, list[int]] = defaultdict(list)
    for index in first.values():
        by_class[labels[index]].append(index)
    chosen: set[int] = set()
    for _, members in sorted(by_class.items()):
        count = round(len(members) * alpha_share)
        if len(members) > 1:
            count = min(max(count, 1), len(members) - 1)
        chosen.update(generator.permutation(members)[:count].tolist())
    halves: tuple[list[int], list[int]] = ([], [])
    for index, file in enumerate(files):
        halves[first[file] in chosen].append(index)
    if not all(halves):
        got = f"{len(labels)} clips, no two of one class"
        raise wrong(LIST, "two clips or more of one class", got)
    return halves


class StepSampler(Sampler[Key]):
    """Keys for one half: epoch e is a permutation seeded by (seed, e), shared between
    the ranks in strides, its last incomplete batch left out. Iteration starts at batch
    ``start`` and continues for ``num_batches``; ``batch_size`` is that of a rank."""

    def __init__(
        self,
        indices: Sequence[int],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.indices, self.batch_size, self.seed = list(indices), batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.batches_per_epoch = len(self.indices) // (batch_size * world_size)
        if self.batches_per_epoch == 0:
            got = f"{batch_size} on each of {world_size} process(es)"
            expected = f"{len(self.indices)} or less in all, the clips of this half"
            hint = "take a smaller one"
            raise wrong("train_dataloader.batch_size", expected, got, hint)
        self.start, self.num_batches = 0, self.batches_per_epoch
        self._epoch, self._order = -1, np.empty(0, int)

    def batch(self, number: int) -> list[Key]:
        epoch, position = divmod(number, self.batches_per_epoch)
        if epoch != self._epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.indices)
            self._epoch, self._order = epoch, order
        first = position * self.batch_size * self.world_size + self.rank
        chosen = self._order[first :: self.world_size][: self.batch_size].tolist()
        return [(index, derived_seed(self.seed, epoch, index)) for index in chosen]

    def __iter__(self) -> Iterator[Key]:
        for number in range(self.start, self.start + self.num_batches):
            yield from self.batch(number)

    def __len__(self) -> int:
        """Keys of a whole epoch, wherever iteration starts."""
        return self.batches_per_epoch * self.batch_size


class SeededDataset(Dataset):
    """A data set asked by key: random augmentations follow the key's seed. Copies share
    the data set, for MMEngine copies it with the config of each loader."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.metainfo = getattr(dataset, "metainfo", {})

    def __deepcopy__(self, memo: dict) -> "SeededDataset":
        return self

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> object:
        index, seed = key
        with seeded(seed):
            return self.dataset[index]


class SearchData:
    """The training list in two halves, with a loader for each, from the config of the
    training loader, whose sampler is not used."""

    def __init__(self, dataloader: Mapping[str, Any], alpha_share: float) -> None:
        config = copy.deepcopy(dict(dataloader))
        config.pop("sampler", None)
        dataset = DATASETS.build(config.pop("dataset"))
        self.dataset, self._parts = dataset, _parts(dataset)
        self.ann_file = str(getattr(dataset, "ann_file", ""))
        self.alpha_share = alpha_share
        self._labels: list[int] = []
        self._paths: list[str] = []
        for index in range(len(dataset)):
            info = dataset.get_data_info(index)
            if not isinstance(label := info.get("label"), Integral):
                expected = "one class id per clip, by which the list is split"
                raise wrong(f"{LIST}, clip {index}", expected, repr(label))
            self._labels.append(int(label))
            # What it is read from; its place where that isn't known.
            names = map(info.get, ("filename", "frame_dir", "video_id"))
            self._paths.append(str(next(filter(None, names), index)))
        if len(set(self._labels)) == 1:
            raise wrong(LIST, "two classes or more", f"class id {label} alone")
        self._config = dict(config, dataset=SeededDataset(dataset))

    def set_up(self, runner: Runner, seed: int) -> None:
        self.seed, self._runner = seed, runner
        self._calibration: list[dict] = []
        self.weights_half, self.alpha_half = split_by_class(
            self._labels,
            self.alpha_share,
            derived_seed(seed, Stream.SPLIT),
            resolve(self._paths),
        )
        # A video that can't be read is replaced within its own half.
        start, halves = 0, (self.weights_half, self.alpha_half)
        for part in self._parts:
            end = start + len(part)
            if hasattr(part, "keep_apart"):
                own = ([i - start for i in h if start <= i < end] for h in halves)
                part.keep_apart(list(own))
            start = end
        place = get_rank(), get_world_size()
        streams = Stream.WEIGHTS_DATA, Stream.ALPHA_DATA
        self.weights_loader, self.alpha_loader = (
            self._loader(*pair, place) for pair in zip(halves, streams, strict=True)
        )

    def calibration(self, num_batches: int) -> Iterator[dict]:
        """Batches of the weights half, the same ones on every rank and every time; kept
        in memory. Each is a copy, for a blending may write to it, and a worker's
        tensors hold file descriptors."""
        if len(self._calibration) != num_batches:
            batches = self._read(self.weights_half, Stream.CALIBRATION, num_batches)
            self._calibration = [copy.deepcopy(batch) for batch in batches]
        for batch in self._calibration:
            yield copy.deepcopy(batch)

    def judging(self, num_clips: int) -> Iterator[dict]:
        """Batches of so many clips of the alpha half, the same ones on every rank."""
        wanted = min(num_clips, len(self.alpha_half)) / self._config["batch_size"]
        number = max(1, round(wanted))
        return self._read(self.alpha_half, Stream.SENSITIVITY_DATA, number)

    def racing(self, num_batches: int) -> Iterator[dict]:
        """Batches of all training clips, the same ones for every network."""
        place = get_rank(), get_world_size()
        clips = range(len(self.dataset))
        return self._read(clips, Stream.RACE_DATA, num_batches, place)

    def _read(
        self, indices: Sequence[int], stream: Stream, number: int, place=(0, 1)
    ) -> Iterator[dict]:
        loader = self._loader(indices, stream, place)
        loader.sampler.num_batches = number
        with seeded(self.seed):  # a loader that starts draws a number
            yield from loader

    @property
    def digest(self) -> str:
        """What tells this list and its halves from others, in whatever folder."""
        names = [os.path.basename(path) for path in self._paths]
        return digest_of([names, self._labels, self.alpha_share])

    def _loader(
        self, indices: Sequence[int], stream: Stream, place: tuple[int, int]
    ) -> DataLoader:
        seed = derived_seed(self.seed, stream)
        sampler = StepSampler(indices, self._config["batch_size"], seed, *place)
        config = dict(self._config, sampler=sampler)
        return self._runner.build_dataloader(config, seed=seed)


def _parts(dataset: Any) -> list[Any]:
    if isinstance(dataset, ConcatDataset):
        return [part for inner in dataset.datasets for part in _parts(inner)]
    if isinstance(dataset, RepeatDataset | ClassBalancedDataset):
        hint = "raise train_cfg.max_epochs instead of repeating clips"
        raise wrong(LIST, "the data set in it", type(dataset).__name__, hint)
    return [dataset]
