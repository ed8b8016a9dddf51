# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Settings are what they should be, or one line says what is wrong.

Every message has one order: ``FIELD: expected ..., got ...; what to do``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# What is expected, in words, and whether a value is that.
Rule = tuple[str, Callable[[Any], bool]]


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


def one_of(*values: object) -> Rule:
    """The rule for a value that is one of a few."""
    words = " or ".join("none" if v is None else str(v) for v in values)
    return words, lambda v: any(type(v) is type(a) and v == a for a in values)


def or_none(rule: Rule) -> Rule:
    """The rule for a value that may also be None."""
    return f"{rule[0]}, or none", lambda v: v is None or rule[1](v)


def is_number(value: object) -> bool:
    """Whether a value is a finite int or float."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and math.isfinite(value)


def is_list(value: object) -> bool:
    """Whether a value is a list or tuple with something in it."""
    return isinstance(value, list | tuple) and len(value) > 0


WHOLE: Rule = ("a whole number from 1 up", lambda v: type(v) is int and v >= 1)
ODD: Rule = ("an odd number from 1 up", lambda v: WHOLE[1](v) and v % 2 == 1)
POSITIVE: Rule = ("a number above 0", lambda v: is_number(v) and v > 0)
TEXT: Rule = ("text", lambda v: isinstance(v, str) and v != "")


def read(
    data: object, rules: Mapping[str, Rule], required: Sequence[str], where: str
) -> dict[str, Any]:
    """A mapping whose keys and values are checked, as a new dict.

    Args:
        data: What a config or file holds.
        rules: What each known key has to be.
        required: Keys that have to be there.
        where: Name of the mapping, for messages.

    Raises:
        ValueError: It is no mapping, a key is unknown or missing, or a value is wrong.
    """
    if not isinstance(data, Mapping):
        raise wrong(where, f"a mapping with the keys {', '.join(rules)}", repr(data))
    for key in data:
        if key not in rules:
            raise wrong(
                f"{where}, unknown key", f"a key out of {', '.join(rules)}", repr(key)
            )
    for key in required:
        if key not in data:
            raise wrong(where, f"the key {key!r} as well", repr(sorted(data)))
    for key, value in data.items():
        expected, holds = rules[key]
        if not holds(value):
            raise wrong(f"{where}.{key}", expected, repr(value))
    return dict(data)


def check_number(name: str, value: object) -> None:
    """Raise ValueError unless ``value`` is a finite number of 0 or more."""
    if not is_number(value) or value < 0:  # type: ignore[operator]
        raise wrong(name, "a number of 0 or more", repr(value))


def check_count(name: str, value: object, least: int) -> None:
    """Raise ValueError unless ``value`` is an integer of at least ``least``."""
    if type(value) is not int or value < least:
        raise wrong(name, f"an integer of {least} or more", repr(value))


def check_mapping(name: str, value: object) -> None:
    """Raise ValueError unless ``value`` is a mapping, such as a config dict."""
    if not isinstance(value, Mapping):
        raise wrong(name, "a dict of settings", repr(value))
