# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Stands in for ``mmaction.models.localizers.drn.drn``, absent from some wheels.

``mmaction.models`` imports the class ``DRN`` whether it is used or not. This one
takes its name in the registry and says what to do when somebody builds it.
"""

from __future__ import annotations

from typing import Any

from mmaction.registry import MODELS
from torch import nn


@MODELS.register_module()
class DRN(nn.Module):
    """A localizer that cannot be built from this install of MMAction2.

    Raises:
        ImportError: Always, with the way to the real one.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise ImportError(
            "DRN: the installed mmaction2 wheel lacks "
            "mmaction/models/localizers/drn. Install MMAction2 from source to use "
            "it: pip install git+https://github.com/open-mmlab/mmaction2.git"
        )
