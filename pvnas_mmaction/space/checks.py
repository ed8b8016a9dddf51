# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Whether settings are the numbers they should be."""

from __future__ import annotations

import math
from collections.abc import Mapping


def check_number(name: str, value: object) -> None:
    """Raise ValueError unless ``value`` is a finite number of 0 or more."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < math.inf:
        raise ValueError(f"{name}: found {value!r}, expected a number of 0 or more")


def check_count(name: str, value: object, least: int) -> None:
    """Raise ValueError unless ``value`` is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(
            f"{name}: found {value!r}, expected an integer of {least} or more"
        )


def check_mapping(name: str, value: object) -> None:
    """Raise ValueError unless ``value`` is a mapping, such as a config dict."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}: found {value!r}, expected a dict of settings")
