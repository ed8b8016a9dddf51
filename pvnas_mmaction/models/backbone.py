"""What supernet and network share: a checkpoint of another network is an error, where
MMEngine would only warn and keep random weights."""

import re
from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor

from ..space.checks import wrong
from .blocks import init_weights

# Counts of batches: MMEngine and old versions of PyTorch do without them.
_OPTIONAL = "num_batches_tracked"
_SUPERNET_KEY = re.compile(r"layers\.\d+\.ops\.|alphas$")
Shapes = dict[str, tuple[int, ...]]


class Backbone(BaseModule):
    """A module with this project's initialisation that loads its own weights alone."""

    whose: str  # what it is, for an error about a checkpoint

    def init_weights(self) -> None:
        """Initialise the weights, then follow ``init_cfg``; once, as in MMEngine."""
        if not self.is_init:
            init_weights(self)
        super().init_weights()

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any
    ) -> None:
        own = {k.removeprefix(prefix): v for k, v in state_dict.items()
               if k.startswith(prefix)}  # fmt: skip
        self._check_state(_shapes(own), _shapes(self.state_dict()), prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _check_state(self, found: Shapes, expected: Shapes, prefix: str) -> None:
        if re.sub(r"(_orig_mod|module)\.", "", prefix) and not found:
            own = f"weights whose names begin with {prefix!r}"
            raise wrong("checkpoint", own, "none", "it holds another part of a model")
        names = {**expected, **found}
        differing = [k for k in names if expected.get(k) != found.get(k)]
        if not differing:
            return
        searched, searches = (
            any(map(_SUPERNET_KEY.match, shapes)) for shapes in (found, expected)
        )
        hint = "take the config that the checkpoint was trained with"
        if searched and not searches:
            hint = "derive a network from it with tools/derive_genotype.py"
        elif searches and not searched:
            hint = "this is no checkpoint of a search: give one that a search wrote"
        elif any(name.startswith("backbone.") for name in found):
            hint = "say prefix='backbone.' next to the checkpoint in init_cfg"
        first = differing[0]
        got = (
            f"another network: {len(differing)} parameters differ, first of them "
            f"{prefix}{first}: expected {expected.get(first, 'none')}, got "
            f"{found.get(first, 'none')}"
        )
        raise wrong("checkpoint", self.whose, got, hint)


def _shapes(state: Mapping[str, Tensor]) -> Shapes:
    return {k: (*v.shape,) for k, v in state.items() if not k.endswith(_OPTIONAL)}
