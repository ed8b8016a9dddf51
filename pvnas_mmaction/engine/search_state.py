# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Whether a checkpoint is one of the search that wants to go on from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..search.penalty import OTHER_BUDGET, CostPenalty
from ..space.search_space import SearchSpace

RESUME = (
    "resume with the config the search was started with, or start anew in another "
    "work_dir"
)


def require_keys(state: object, keys: Iterable[str], place: str) -> None:
    """Raise ValueError unless a part of a checkpoint is a mapping with these keys.

    Args:
        state: The part.
        keys: What it should hold; it may hold more.
        place: Where it stands, for the error message.
    """
    expected = sorted(keys)
    is_mapping = isinstance(state, Mapping)
    if is_mapping and set(expected) <= state.keys():
        return
    found = f"the keys {sorted(state)}" if is_mapping else type(state).__name__
    raise ValueError(
        f"{place}: found {found}, expected a mapping with the keys {expected}; the "
        "checkpoint is not whole, or another version of pvnas_mmaction wrote it: take "
        "that version, or start anew in another work_dir"
    )


def check_space(state: Mapping[str, Any], space: SearchSpace) -> None:
    """Raise ValueError unless a search was one of this space.

    Args:
        state: State of a search's loop.
        space: The space of the config.
    """
    require_keys(state["space"], ["name"], "checkpoint, space")
    if state["space"] != space.to_config():
        raise ValueError(
            f"checkpoint: found a search of space {state['space']['name']!r} with "
            "other stages or candidates, expected the space "
            f"{space.name!r} of this config; {RESUME}"
        )


def check_penalty(state: Mapping[str, Any], penalty: CostPenalty | None) -> None:
    """Raise ValueError unless a search had a cost term where this one has one.

    Args:
        state: State of a search's loop.
        penalty: The cost term of the config; None if it has no budget.
    """
    if (state["penalty"] is None) != (penalty is None):
        ways = ("without", "with") if penalty else ("with", "without")
        raise ValueError(
            f"checkpoint, cost: found a search {ways[0]} a budget, expected one "
            f"{ways[1]}, as in this config; {OTHER_BUDGET}"
        )
    if penalty is not None:
        keys = list(penalty.state_dict())
        require_keys(state["penalty"], keys, "checkpoint, cost term")


def check_costs(state: Mapping[str, Any], costs: str) -> None:
    """Raise ValueError unless a search counted the same costs; a checkpoint of earlier
    versions doesn't tell.

    Args:
        state: State of a search's loop.
        costs: Digest of the costs of the config.
    """
    if state.get("costs", costs) != costs:
        raise ValueError(
            "checkpoint: found a search with other costs of the same networks, "
            "expected the train_cfg.input_shape, number of classes and latency "
            f"table of this config; {RESUME}"
        )


def check_settings(state: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise ValueError unless a search had the same settings; a checkpoint of earlier
    versions doesn't tell.

    Args:
        state: State of a search's loop.
        settings: Settings of the config, by their dotted names.
    """
    for name, found in state.get("settings", {}).items():
        expected = settings.get(name)
        if found != expected:
            raise ValueError(
                f"checkpoint: found a search with {name}={found!r}, expected "
                f"{expected!r}, as in this config; {RESUME}"
            )
