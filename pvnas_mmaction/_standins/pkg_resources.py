# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Stands in for ``pkg_resources``, which setuptools dropped after release 80.

mmengine uses it to find the folder of an installed package (``_base_ =
'mmaction::...'``) and asks for nothing but the names here.
"""

from __future__ import annotations

from importlib import metadata
from typing import NoReturn


class DistributionNotFound(Exception):
    """No distribution of that name is installed."""


class Distribution:
    """An installed distribution, as far as mmengine looks at one."""

    def __init__(self, distribution: metadata.Distribution) -> None:
        self.project_name: str = distribution.metadata["Name"]
        self.location = str(distribution.locate_file(""))
        self.get_metadata = distribution.read_text

    def has_metadata(self, name: str) -> bool:
        return self.get_metadata(name) is not None


def get_distribution(dist: str) -> Distribution:
    """Find an installed distribution by its name; case, ``-`` and ``_`` do not matter.

    Raises:
        DistributionNotFound: If it is not installed.
    """
    try:
        return Distribution(metadata.distribution(dist))
    except metadata.PackageNotFoundError as error:
        raise DistributionNotFound(
            f"The {dist!r} distribution was not found"
        ) from error


def __getattr__(name: str) -> NoReturn:
    raise AttributeError(
        f"pkg_resources.{name}: pkg_resources is not installed, and its stand-in "
        "holds only what mmengine needs. For the real one: pip install 'setuptools<81'"
    )
