# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Config files as the tools read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hub import get_config

from ..space.search_space import SearchSpace
from .errors import error_line


def load_config(name: str) -> Config:
    """Read a config file.

    Args:
        name: Its path, or ``package::path`` for one that an installed package ships
            (``pvnas_mmaction::pvnas/...``, ``mmaction::recognition/...``).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it does not parse, or fails when it is executed.
    """
    try:
        if "::" in name:
            return get_config(name)
        if not Path(name).is_file():
            raise FileNotFoundError(f"config: found no file {name}")
        return Config.fromfile(name)
    except (OSError, ImportError, ValueError):
        raise
    except Exception as error:  # a config is a program
        reason = f"{type(error).__name__}: {error_line(error)}"
        raise ValueError(f"config {name}: {reason}") from error


def read_space(cfg: Config, name: str) -> SearchSpace:
    """The space of a search config, or of a config that holds nothing else.

    Args:
        cfg: The config.
        name: Its name, for the error message.

    Raises:
        ValueError: There is none, or it is malformed.
    """
    backbone = (cfg.get("model") or {}).get("backbone") or {}
    space = backbone.get("space") or cfg.get("space")
    if space is None:
        raise ValueError(
            f"config {name}: found neither model.backbone.space nor space, expected a "
            "search config or one of configs/pvnas/_base_/spaces/"
        )
    return SearchSpace.from_config(space)


def merge_options(cfg: Config, options: dict[str, Any] | None) -> None:
    """Merge what ``--cfg-options`` gave into ``cfg``, in place.

    Raises:
        ValueError: If one does not fit the config.
    """
    try:
        cfg.merge_from_dict(options or {})
    except (KeyError, TypeError) as error:
        raise ValueError(f"--cfg-options: {error_line(error)}") from error
