# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The form of error messages, and whether settings are the numbers they should be."""

from __future__ import annotations

import math
from collections.abc import Mapping


def wrong(field: str, expected: str, got: str, hint: str = "") -> ValueError:
    """An error about what a user gave: ``FIELD: expected ..., got ...; what to do``.

    Args:
        field: Option, config field or file that the value stands in.
        expected: What it should be.
        got: What it is.
        hint: What to do about it. Default: nothing that is not obvious.
    """
    text = f"{field}: expected {expected}, got {got}"
    return ValueError(f"{text}; {hint}" if hint else text)


def check_number(name: str, value: object) -> None:
    """Raise ValueError unless ``value`` is a finite number of 0 or more."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < math.inf:
        raise wrong(name, "a number of 0 or more", repr(value))


def check_count(name: str, value: object, least: int) -> None:
    """Raise ValueError unless ``value`` is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise wrong(name, f"an integer of {least} or more", repr(value))


def check_mapping(name: str, value: object) -> None:
    """Raise ValueError unless ``value`` is a mapping, such as a config dict."""
    if not isinstance(value, Mapping):
        raise wrong(name, "a dict of settings", repr(value))
