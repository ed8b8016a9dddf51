"""Whether a config is whole, and its parts agree."""

import logging
import math
import os
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from ..datasets.video_list import read_video_list, resolve
from ..report.predictions import names_next_to
from ..space import checks
from ..space.checks import MAPPING, Rule, check, wrong
from .config_fault import parts

_COUNT: Rule = (checks.COUNT[0], lambda v: isinstance(v, dict) or checks.COUNT[1](v))
_STD: Rule = (
    "numbers above 0",
    lambda v: all(map(checks.POSITIVE[1], v if isinstance(v, list | tuple) else [v])),
)
# What stands in fields of every config, by their names as patterns.
_RULES: dict[str, Rule] = {
    r"model|optim_wrapper|default_hooks(\.\w+)?|env_cfg|randomness|auto_scale_lr|"
    r"visualizer|log_processor|(train|val|test)_(cfg|dataloader)|"
    r"model\.(backbone|cls_head|data_preprocessor)|optim_wrapper\.(weights|alphas)|"
    r"optim_wrapper\..*optimizer|\w+_dataloader\.(dataset|sampler)|"
    r".*\.dataset\.data_prefix": MAPPING,
    "(val|test)_evaluator|param_scheduler|custom_hooks|.*pipeline": (
        "a mapping or a list", lambda v: isinstance(v, dict | list)
    ),
    r"train_cfg\.(max_epochs|max_iters|val_interval)|\w+_dataloader\.batch_size|"
    r".*\.num_classes|.*pipeline\[\d+\]\.(clip_len|frame_interval|num_clips)": _COUNT,
    r"\w+_dataloader\.num_workers": checks.in_range("[0, inf)"),
    r"model\.data_preprocessor\.std": _STD,
    r"(val|test)_dataloader\.drop_last": checks.one_of(False),
    "default_scope": checks.one_of("mmaction", "pvnas_mmaction"),
    "resume": checks.one_of(True, False),
    "work_dir|load_from": checks.NAME,
    ".*": ("a number", lambda v: not isinstance(v, float) or not math.isnan(v)),
}  # fmt: skip


def check_fields(cfg: Config) -> None:
    """Check the fields that mean the same in every config, unless they are None."""
    for field, value in parts(cfg.to_dict()):
        for pattern, rule in _RULES.items():
            if value is not None and re.fullmatch(pattern, field):
                check(field, value, rule)


def check_whole(cfg: Config, split: str | None = None) -> None:
    """Check that a config has a model and, for a ``split``, the loader of it."""
    hint = "inherit a whole config, not a part alone"
    if cfg.get("model") is None:
        raise wrong(f"config {cfg.filename}", "a model", "none", hint)
    if split and (cfg.get(f"{split}_dataloader") or {}).get("dataset") is None:
        loader = f"a {split}_dataloader with a dataset"
        raise wrong(f"config {cfg.filename}", loader, "none", hint)


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
    blending = (cfg.model.get("data_preprocessor") or {}).get("blending") or {}
    opposites = blending.get("opposites")
    if found and opposites is not None and len(opposites) != found:
        field = "model.data_preprocessor.blending.opposites"
        expected = f"{found} class ids, as model.cls_head.num_classes"
        hint = "blending=None does without reversed clips"
        raise wrong(field, expected, str(len(opposites)), hint)


def warn_of_shared_clips(cfg: Config) -> None:
    """Log which videos stand in two lists of a config; a test on the list of the
    validation is none of its own."""
    lists: dict[str, set[str]] = {}
    for split in ("train", "val", "test"):
        for field, dataset in leaf_datasets(cfg, split):
            path = list_file(dataset)
            ours = str(dataset.get("type")).endswith("PVNASVideoDataset")
            if not (ours and path is not None and path.is_file()):
                continue
            prefix = (dataset.get("data_prefix") or {}).get("video") or ""
            folder = os.path.join(dataset.get("data_root") or "", str(prefix))
            clips = read_video_list(str(path), field, dataset.get("delimiter", " "))
            files = {*resolve(os.path.join(folder, name) for name, _ in clips)}
            judged = [lists[known] for known in lists if known.startswith("val")]
            if split != "test" or files not in judged:
                lists[field] = files
    for (one, files), (other, others) in combinations(lists.items(), 2):
        if shared := sorted(files & others):
            text = (
                f"{other}.ann_file: expected other clips than in {one}, got "
                f"{len(shared)} of {len(others)} that are in both, such as "
                f"{', '.join(shared[:3])}; take them out of one list"
            )
            print_log(text, "current", logging.WARNING)


def leaf_datasets(cfg: Config, split: str) -> Iterator[tuple[str, Any]]:
    """The data sets of a split with their fields, wrappers unwrapped."""
    dataset = (cfg.get(f"{split}_dataloader") or {}).get("dataset")
    for field, value in parts(dataset, f"{split}_dataloader.dataset"):
        leaf = isinstance(value, dict) and not {"dataset", "datasets"} & value.keys()
        if leaf and re.search(r"\.dataset(s\[\d+\])?$", field):
            yield field, value


def list_file(dataset: Any) -> Path | None:
    """The annotation file of a data set, None where that is no path."""
    name = dataset.get("ann_file")
    if not isinstance(name, str) or not name or "://" in name:
        return None
    return Path(str(dataset.get("data_root") or ""), name)
