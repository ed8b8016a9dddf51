# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Whether the data of a config are there, and its head has a score for each class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

# Where the lists of configs/pvnas/_base_/data/custom.py are unless others are named.
CUSTOM_DATA = "data/custom/"


def check_annotations(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check the annotation lists before anything large is built.

    Args:
        cfg: The config.
        splits: Which of "train", "val" and "test" are going to be read.

    Raises:
        FileNotFoundError: If an annotation file does not exist.
        ValueError: If one holds no line.
    """
    for split in splits:
        loader = cfg.get(f"{split}_dataloader")
        if loader is None or loader.get("dataset") is None:
            continue
        for field, dataset in _leaf_datasets(
            loader["dataset"], f"{split}_dataloader.dataset"
        ):
            name = dataset.get("ann_file")
            if not isinstance(name, str) or not name or "://" in name:
                continue
            path = Path(dataset.get("data_root") or "", name)
            if not path.is_file():
                text = (
                    f"{field}.ann_file: found no file {path}, expected an annotation "
                    "list with one video and its class id per line"
                )
                variable = f"ann_file_{'train' if split == 'train' else 'val'}"
                if name.startswith(CUSTOM_DATA):
                    text += (
                        f". Name yours in the config, or as the environment variable "
                        f"{variable.upper()}, with DATA_PREFIX and NUM_CLASSES"
                    )
                elif cfg.get(variable) not in (None, name):
                    text += (
                        f". {variable}={cfg[variable]!r} is not passed on to a data "
                        f"set that a config inherits: set {field}.ann_file"
                    )
                raise FileNotFoundError(text)
            if not _has_content(path):
                raise ValueError(
                    f"{field}.ann_file: found no line in {path}, expected one video "
                    "and its class id per line"
                )


def check_num_classes(cfg: Config) -> None:
    """Check that the head has a score for every class of the data sets.

    Raises:
        ValueError: If it has fewer.
    """
    expected = (cfg.model.get("cls_head") or {}).get("num_classes")
    for split in ("train", "val", "test"):
        loader = cfg.get(f"{split}_dataloader")
        if expected is None or loader is None or loader.get("dataset") is None:
            continue
        for field, dataset in _leaf_datasets(
            loader["dataset"], f"{split}_dataloader.dataset"
        ):
            found = dataset.get("num_classes")
            if found is not None and found > expected:
                raise ValueError(
                    f"model.cls_head.num_classes: found {expected}, expected {found}, "
                    f"as {field}.num_classes says"
                )


def _leaf_datasets(cfg: Any, field: str) -> Iterator[tuple[str, Any]]:
    """The data sets of a config with their fields, wrappers unwrapped."""
    if cfg.get("dataset") is not None:
        yield from _leaf_datasets(cfg["dataset"], f"{field}.dataset")
    elif cfg.get("datasets") is not None:
        for index, inner in enumerate(cfg["datasets"]):
            yield from _leaf_datasets(inner, f"{field}.datasets[{index}]")
    else:
        yield field, cfg


def _has_content(path: Path) -> bool:
    with path.open("rb") as file:
        return any(line.strip() for line in file)
