"""Settings are what they should be, or one line says what is wrong. Everywhere in the
package a function named ``check_...`` raises what :func:`wrong` makes, or OSError."""

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

# What is expected, in words, and whether a value is that.
Rule = tuple[str, Callable[[Any], bool]]


def wrong(field: str, expected: str, got: str, hint: str = "") -> ValueError:
    """An error about what a user gave: ``FIELD: expected ..., got ...; what to do``,
    the field being an option, config field or file."""
    text = f"{field}: expected {expected}, got {got}"
    return ValueError(f"{text}; {hint}" if hint else text)


@contextmanager
def reading(where: object, expected: str) -> Iterator[None]:
    """Within this context, what goes wrong with the content of a file is an error about
    that file, unless it is one of :func:`wrong`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, FileNotFoundError) or ": expected " in str(error):
            raise
        text = " ".join(f"{type(error).__name__}: {error}".split())
        got = f"something else ({text[:200]})"
        raise wrong(str(where), expected, got) from error


def one_of(*values: object) -> Rule:
    """The rule for a value that is one of a few."""
    expected = "one of " * (len(values) > 1) + ", ".join(map(str, values))
    return expected, lambda v: v in values


def or_none(rule: Rule) -> Rule:
    """The rule for a value that may also be None."""
    return f"{rule[0]}, or none", lambda v: v is None or rule[1](v)


def is_number(value: object) -> bool:
    """Whether a value is a finite int or float."""
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore


def is_list(value: object) -> bool:
    """Whether a value is a list or tuple with something in it."""
    return isinstance(value, list | tuple) and len(value) > 0


def in_range(interval: str) -> Rule:
    """The rule for a number in an interval such as ``"[0, 1)"`` or ``"[1, inf)"``."""
    low, high = map(float, interval[1:-1].split(","))
    above = operator.ge if interval[0] == "[" else operator.gt
    below = operator.le if interval[-1] == "]" else operator.lt
    expected = f"a number in {interval}"
    return expected, lambda v: is_number(v) and above(v, low) and below(v, high)


def at_least(least: int) -> Rule:
    """The rule for a whole number from ``least`` up."""
    expected = f"a whole number from {least} up"
    return expected, lambda v: type(v) is int and v >= least


NAME: Rule = ("a name", lambda v: isinstance(v, str) and v != "")
COUNT: Rule = at_least(1)
ODD: Rule = ("an odd number from 1 up", lambda v: COUNT[1](v) and v % 2 == 1)
POSITIVE: Rule = ("a number above 0", lambda v: is_number(v) and v > 0)
MAPPING: Rule = ("a mapping", lambda v: isinstance(v, Mapping))


def read(
    data: object, rules: Mapping[str, Rule], required: Sequence[str], where: str
) -> dict[str, Any]:
    """A mapping, as a config or file holds it, with checked keys and values, as a new
    dict; a ValueError about ``where`` if it is no mapping, a key is unknown, a required
    one is missing, or a value is wrong."""
    keys = ", ".join(rules)
    if not isinstance(data, Mapping):
        raise wrong(where, f"a mapping with the keys {keys}", short(data))
    for key in data:
        if key not in rules:
            raise wrong(f"{where}, unknown key", f"one of {keys}", repr(key))
    for key in required:
        if key not in data:
            raise wrong(where, f"the key {key!r} as well", short(sorted(data)))
    for key, (expected, holds) in rules.items():
        if key in data and not holds(data[key]):
            raise wrong(f"{where}: {key}", expected, short(data[key]))
    return dict(data)


def short(value: object) -> str:
    """A value as messages show it."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def check(field: str, value: object, rule: Rule) -> None:
    """Raise ValueError unless a value is what a rule expects."""
    if not rule[1](value):
        raise wrong(field, rule[0], short(value))
