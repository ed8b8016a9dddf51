# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Stands in for the package ``importlib_metadata``: the standard library's own."""

from importlib.metadata import *  # noqa: F403
