# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""A checkpoint of another network is an error.

MMEngine loads checkpoints without strictness: what does not fit is a warning, and the
network keeps its random weights. For networks that differ by their genotype only, that
hides a wrong genotype behind a bad accuracy. So :class:`PVNASNet` and
:class:`PVNASSupernet` look at their part of a state dict before anything is copied.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

# Counts of batches: MMEngine and old versions of PyTorch do without them.
_OPTIONAL = "num_batches_tracked"
_SUPERNET_KEY = re.compile(r"layers\.\d+\.ops\.|alphas\.")


def is_supernet_state(names: Mapping[str, object]) -> bool:
    """Whether names of parameters, without prefix, are those of a supernet."""
    return any(_SUPERNET_KEY.match(name) for name in names)


def check_state(
    module: nn.Module,
    state: Mapping[str, Tensor],
    prefix: str,
    network: str,
    mend: str,
) -> None:
    """Compare the names and shapes of a state dict with those of a module.

    Args:
        module: What the state dict is loaded into.
        state: The state dict; only keys that start with ``prefix`` count.
        prefix: Of the module's keys, e.g. ``"backbone."``.
        network: What the module is, for the error message.
        mend: What to do about another network, for the error message.

    Raises:
        ValueError: A parameter is missing, unexpected or of another shape. Says how
            many of each, and for the first one what was found and expected.
    """
    found = {
        key[len(prefix) :]: tuple(value.shape)
        for key, value in state.items()
        if key.startswith(prefix) and not key.endswith(_OPTIONAL)
    }
    expected = {
        name: tuple(value.shape)
        for name, value in module.state_dict().items()
        if not name.endswith(_OPTIONAL)
    }
    if found == expected:
        return
    if is_supernet_state(found) and not is_supernet_state(expected):
        mend = (
            "This is the checkpoint of a search: derive a network from it with "
            "tools/derive_genotype.py, which writes its genotype and inherited weights"
        )
    elif is_supernet_state(expected) and not is_supernet_state(found):
        mend = "This is no checkpoint of a search: give one that a search has written"
    elif any(name.startswith("backbone.") for name in found):
        mend = (
            "This is the checkpoint of a whole recognizer: say prefix='backbone.' "
            "beside the checkpoint in init_cfg"
        )
    first = next(_differences(expected, found, prefix))
    missing = len(expected.keys() - found.keys())
    unexpected = len(found.keys() - expected.keys())
    common = expected.keys() & found.keys()
    reshaped = sum(expected[name] != found[name] for name in common)
    raise ValueError(
        f"checkpoint: found another network, expected {network}: {missing} parameters "
        f"missing, {unexpected} unexpected, {reshaped} of another shape. First: "
        f"{first}. {mend}."
    )


def _differences(
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    prefix: str,
) -> Iterator[str]:
    """Each difference in words, in the order of the network."""
    for name, shape in expected.items():
        if name not in found:
            yield f"{prefix}{name}: found nothing, expected shape {shape}"
        elif found[name] != shape:
            yield f"{prefix}{name}: found shape {found[name]}, expected {shape}"
    for name, shape in found.items():
        if name not in expected:
            yield f"{prefix}{name}: found shape {shape}, expected no such parameter"
