"""Which field of a config an exception comes from.

MMEngine and MMAction2 build a run out of nested dicts, and each class fails in its own
words on a setting that it can't take. The frames of the traceback tell which part of
the config was being built; message, source lines and variables tell which setting.
"""

import re
from collections.abc import Iterator
from traceback import extract_tb, walk_tb
from typing import Any

import cv2
from mmengine.config import Config

from ..space.checks import short, wrong

# What a setting of a wrong kind ends in where it is used, not yet where it is built.
_IN_USE = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError)
_IN_USE += (AssertionError, cv2.error)
_BUILDERS = dict(build_from_cfg="cfg", build_dataloader="dataloader")
Frames = list[tuple[dict[str, Any], str, str]]  # variables, function, source line


def parts(value: Any, field: str = "") -> Iterator[tuple[str, Any]]:
    """All fields of a config with their values, each after the one that it is in."""
    yield field, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from parts(inner, f"{field}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from parts(inner, f"{field}[{index}]")


def config_fault(error: BaseException, text: str) -> str | None:
    """One line that names the field of a config that an exception with the message
    ``text`` comes from; None where it seems to come from none."""
    reason, cause = f"{type(error).__name__}: {text}".rstrip(": "), error
    frames: Frames = []
    while cause is not None:
        walked, shown = walk_tb(cause.__traceback__), extract_tb(cause.__traceback__)
        for (frame, _), part in zip(walked, shown, strict=True):
            frames.append((frame.f_locals, part.name, part.line or ""))
        cause = cause.__cause__ or cause.__context__
    values = (value for known, *_ in frames for value in known.values())
    *_, cfg = None, *(value for value in values if isinstance(value, Config))
    if cfg is None:
        return None
    settings = {k: v for k, v in cfg.to_dict().items() if k != "started_with"}
    fields, place, who = dict(parts(settings)), "", ""
    for known, function, _ in frames:
        if isinstance(built := known.get(_BUILDERS.get(function)), dict):
            place = _find(built, fields, place)
            who = getattr(known.get("obj_cls"), "__name__", "")
    if ": expected " in text:  # of this project, which may lack where the field stands
        name = text.split(":")[0]
        whole = [f for f in fields if f.startswith(place) and f.endswith(f".{name}")]
        whole = [f for f in whole if not isinstance(fields[f], dict)]
        return whole[0] + text.removeprefix(name) if len(whole) == 1 else None
    if not place and not isinstance(error, _IN_USE):
        return None
    for field in _blamed(fields, place, text, frames):
        expected = f"another value that {who} takes" if who else "another value"
        return str(wrong(field, expected, f"{short(fields[field])} ({reason})"))
    types = {v for f, v in fields.items() if f.endswith(".type")}
    for user in [known.get("self") for known, *_ in reversed(frames)]:
        own = isinstance(error, AssertionError)  # perhaps of this project
        if not (place or own) and type(user).__name__ in types:  # fails in use
            who = type(user).__name__
            place = _find({**vars(user), "type": who}, fields, place)
    expected = f"settings that {who} takes"
    return str(wrong(place, expected, f"others ({reason})")) if place else None


def _find(built: dict, fields: dict[str, Any], place: str) -> str:
    """The field of what is being built, whose dict may have been changed on the way:
    the one of the same type with the most equal settings, best within ``place``."""

    def alike(field: str) -> tuple[int, bool, bool]:
        own = {k: v for k, v in fields[field].items() if k in built}
        equal = sum(repr(v) == repr(built[k]) for k, v in own.items())
        split = field.split("_")[0] == place.split("_")[0]
        return equal, field.startswith(place), split

    kinds = {f: v.get("type") for f, v in fields.items() if f and isinstance(v, dict)}
    same = [f for f, kind in kinds.items() if kind == built.get("type")]
    same = same or [f for f, kind in kinds.items() if kind is None]
    found = max(same, key=alike, default=place)
    return found if alike(found)[0] else place


def _blamed(
    fields: dict[str, Any], place: str, text: str, frames: Frames
) -> Iterator[str]:
    """Settings within ``place`` that may be to blame, the most likely first."""
    keys = {
        field: re.sub(r".*\.|^(train|val|test)_|\[\d+\]", "", field)
        for field in sorted(fields, key=lambda field: field.count("."))
        if re.match(rf"{re.escape(place)}\W" if place else ".", field)
        and not any(isinstance(inner, dict) for _, inner in parts(fields[field]))
    }

    def said(word: object) -> bool:
        return re.search(rf"(?<!\w){re.escape(str(word))}(?!\w)", text) is not None

    # Name and value are in the message.
    yield from (f for f, key in keys.items() if said(key) and said(fields[f]))
    # The line that failed has its name, for a variable or attribute of its value.
    for known, _, line in reversed(frames):
        known = {**getattr(known.get("self"), "__dict__", {}), **known}
        for field, key in keys.items():
            named = key in known and re.search(rf"\b{re.escape(key)}\b", line)
            if named and repr(known[key]) == repr(fields[field]):
                yield field
    # Its name alone is in the message, in quotes; or its value, a text.
    yield from (f for f, key in keys.items() if re.search(f"['`]{key}['`]", text))
    texts = {f: fields[f] for f in keys if fields[f] and isinstance(fields[f], str)}
    yield from (f for f, v in texts.items() if repr(v) in text or (place and said(v)))
