"""Stands in for ``pkg_resources``, which setuptools dropped after release 80, as far as
mmengine uses it: to find the folder of an installed package (``mmaction::...``)."""

from importlib.metadata import PackageNotFoundError as DistributionNotFound
from importlib.metadata import distribution
from types import SimpleNamespace

__all__ = ["DistributionNotFound", "get_distribution"]


def get_distribution(dist: str) -> SimpleNamespace:
    """An installed distribution by its name, or DistributionNotFound."""
    found = distribution(dist)
    return SimpleNamespace(
        project_name=found.metadata["Name"],
        location=str(found.locate_file("")),
        has_metadata=lambda name: found.read_text(name) is not None,
        get_metadata=found.read_text,
    )
