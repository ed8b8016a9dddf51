# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Whether a config is whole, and its parts agree."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..report.predictions import names_next_to
from ..space.checks import wrong


def check_whole(cfg: Config, split: str | None = None) -> None:
    """Check that a config has a model and, for a ``split``, the loader of it."""
    hint = "inherit a whole config, not a part alone"
    if cfg.get("model") is None:
        raise wrong(f"config {cfg.filename}", "a model", "none", hint)
    if split and (cfg.get(f"{split}_dataloader") or {}).get("dataset") is None:
        loader = f"a {split}_dataloader with a dataset"
        raise wrong(f"config {cfg.filename}", loader, "none", hint)
    epochs = (cfg.get("train_cfg") or {}).get("max_epochs", 1)
    if split == "train" and not (isinstance(epochs, int) and epochs >= 1):
        raise wrong("train_cfg.max_epochs", "1 or more, an integer", repr(epochs))
    for name in ("val", "test"):
        if (cfg.get(f"{name}_dataloader") or {}).get("drop_last"):
            hint = "the accuracy would be that of other clips"
            raise wrong(f"{name}_dataloader.drop_last", "False", "True", hint)


def check_one_network(cfg: Config) -> None:
    """Check that a config is about one network, not about a space of them."""
    check_whole(cfg)
    found = (cfg.model.get("backbone") or {}).get("type")
    if found == "PVNASSupernet":
        hint = "take the config that retrains the genotype"
        raise wrong("model.backbone.type", "one network", repr(found), hint)


def check_num_classes(cfg: Config) -> None:
    """Check that head, data sets and ``classes.txt`` say the same number of classes."""
    found = (cfg.model.get("cls_head") or {}).get("num_classes")
    for split in ("train", "val", "test"):
        for field, dataset in leaf_datasets(cfg, split):
            expected = dataset.get("num_classes")
            if None not in (found, expected) and found != expected:
                expected = f"{expected}, as {field}.num_classes"
                raise wrong("model.cls_head.num_classes", expected, str(found))
            path = list_file(dataset)
            names = names_next_to(path) if path else []
            if found and names and len(names) != found:
                expected = f"{found} lines, as model.cls_head.num_classes"
                raise wrong(f"{path.parent}/classes.txt", expected, str(len(names)))


def leaf_datasets(cfg: Config, split: str) -> Iterator[tuple[str, Any]]:
    """The data sets of a split with their fields, wrappers unwrapped."""

    def leaves(field: str, dataset: Any) -> Iterator[tuple[str, Any]]:
        if dataset.get("dataset") is not None:
            yield from leaves(f"{field}.dataset", dataset["dataset"])
        elif dataset.get("datasets") is not None:
            for index, inner in enumerate(dataset["datasets"]):
                yield from leaves(f"{field}.datasets[{index}]", inner)
        else:
            yield field, dataset

    dataset = (cfg.get(f"{split}_dataloader") or {}).get("dataset")
    if dataset is not None:
        yield from leaves(f"{split}_dataloader.dataset", dataset)


def list_file(dataset: Any) -> Path | None:
    """The annotation file of a data set, None where that is no path."""
    name = dataset.get("ann_file")
    if not isinstance(name, str) or not name or "://" in name:
        return None
    return Path(str(dataset.get("data_root") or ""), name)
