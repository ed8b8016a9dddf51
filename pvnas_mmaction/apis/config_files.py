"""Config files as the tools read them, and as runs write them."""

import json
from typing import Any

from mmengine.config import Config, ConfigDict, DictAction

from ..compat import package_file
from ..space.checks import reading, wrong
from ..space.genotype import load_genotype
from ..space.search_space import SearchSpace
from .config_checks import check_fields

_PATHS = ("work_dir", "load_from", "ann_file", "data_root", "video")


class KeyValueAction(DictAction):
    """``DictAction`` that complains in one line and leaves the spaces of a text."""

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        text = val.strip("'\"").strip()
        if "," in text or text[:1] + text[-1:] in ("()", "[]"):
            return DictAction._parse_iterable(text)
        return DictAction._parse_int_float_bool(text)

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        for value in values or ():
            if "=" not in value:
                parser.error(f"{option_string}: expected key=value, got {value!r}")
        try:
            super().__call__(parser, namespace, values, option_string)
        except AssertionError as error:  # of brackets
            parser.error(f"{option_string}: {error}")
        options = getattr(namespace, self.dest)
        for key, _, text in (value.partition("=") for value in values or ()):
            number = isinstance(options[key], int | float)
            if number and key.split(".")[-1] in _PATHS:  # a name of digits
                options[key] = text


def load_config(name: str) -> Config:
    """Read a config file, from a path or ``package::path``
    (``pvnas_mmaction::pvnas/...``, ``mmaction::recognition/...``); FileNotFoundError
    where there is none, ValueError where it fails when it is executed."""
    path = package_file(name)
    if not path.is_file():
        raise FileNotFoundError(f"config: expected a file, got {name}, which is none")
    with reading(f"config {name}", "a config"):
        cfg = Config.fromfile(path)
    if {"skeleton", "blocks"} <= cfg.keys():
        hint = "tools/show_genotype.py shows it, model.backbone.genotype names it"
        raise wrong(f"config {name}", "a config", "a genotype", hint)
    check_fields(cfg)
    return cfg


def read_space(cfg: Config, name: str) -> SearchSpace:
    """The space of a search config, or of a config that holds nothing else."""
    backbone = (cfg.get("model") or {}).get("backbone") or {}
    space = backbone.get("space") or cfg.get("space")
    if space is None:
        expected = "model.backbone.space or space"
        hint = "give a search config or one of configs/pvnas/_base_/spaces/"
        raise wrong(f"config {name}", expected, "neither", hint)
    return SearchSpace.from_config(space)


def merge_options(cfg: Config, options: dict[str, Any] | None) -> None:
    """Merge what ``--cfg-options`` gave into ``cfg``, in place, or ValueError."""
    with reading("--cfg-options", "settings that fit the config"):
        cfg.merge_from_dict(options or {})
    check_fields(cfg)


def make_portable(cfg: Config) -> None:
    """Make a config mean the same wherever its dump is copied to, in place.

    A genotype's file becomes its content: a later search in that folder changes the
    file. ``test_pipeline``, which ``mmaction.apis.inference_recognizer`` reads, becomes
    that of the loader, which options may have changed.
    """
    backbone = (cfg.get("model") or {}).get("backbone") or {}
    if isinstance(backbone.get("genotype"), str):
        genotype = load_genotype(backbone["genotype"])
        backbone["genotype"] = ConfigDict(json.loads(genotype.to_json()))
    dataset = (cfg.get("test_dataloader") or {}).get("dataset") or {}
    if dataset.get("pipeline") is not None:
        cfg.test_pipeline = dataset["pipeline"]
