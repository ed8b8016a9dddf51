# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""A checkpoint of another network is an error.

MMEngine loads checkpoints without strictness: what does not fit is a warning, and the
network keeps its random weights. For networks that differ by their genotype only, that
hides a wrong genotype behind a bad accuracy. So :class:`PVNASNet` and
:class:`PVNASSupernet` look at their part of a state dict before anything is copied.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from ..space.checks import wrong

# Counts of batches: MMEngine and old versions of PyTorch do without them.
_OPTIONAL = "num_batches_tracked"
_SUPERNET_KEY = re.compile(r"layers\.\d+\.ops\.|alphas$")


def is_supernet_state(names: Iterable[str]) -> bool:
    """Whether names of parameters, without prefix, are those of a supernet."""
    return any(_SUPERNET_KEY.match(name) for name in names)


def check_state(
    module: nn.Module, state: Mapping[str, Tensor], prefix: str, network: str, hint: str
) -> None:
    """Compare names and shapes of a state dict, as far as its keys start with
    ``prefix``, with those of a module; ``network`` says in the error what the module
    is, ``hint`` what to do."""

    def shapes(weights: Mapping[str, Tensor], start: str) -> dict[str, tuple]:
        kept = {k: v for k, v in weights.items() if not k.endswith(_OPTIONAL)}
        return {k[len(start) :]: (*v.shape,) for k, v in kept.items()
                if k.startswith(start)}  # fmt: skip

    found, expected = shapes(state, prefix), shapes(module.state_dict(), "")
    differing = [k for k in {**expected, **found} if expected.get(k) != found.get(k)]
    if not differing:
        return
    if is_supernet_state(found) and not is_supernet_state(expected):
        hint = (
            "this is the checkpoint of a search: derive a network from it with "
            "tools/derive_genotype.py, which writes its genotype and inherited weights"
        )
    elif is_supernet_state(expected) and not is_supernet_state(found):
        hint = "this is no checkpoint of a search: give one that a search has written"
    elif any(name.startswith("backbone.") for name in found):
        hint = (
            "this is the checkpoint of a whole recognizer: say prefix='backbone.' "
            "next to the checkpoint in init_cfg"
        )
    first = differing[0]
    got = (
        f"another network: {len(differing)} parameters differ, first of them "
        f"{prefix}{first}: expected {expected.get(first, 'none')}, got "
        f"{found.get(first, 'none')}"
    )
    raise wrong("checkpoint", network, got, hint)
