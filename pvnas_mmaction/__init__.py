"""PV-NAS as an MMAction2 plugin. Importing it, before ``mmaction.models``, supplies
what the installed MMAction2 lacks (:mod:`.compat`) and registers models, loops, hooks
and data sets in ``mmaction.registry``. Without torch or MMAction2 nothing is
registered, so that genotypes, search spaces and costs can still be read.
"""

import warnings
from importlib.util import find_spec
from typing import Any

from . import compat

__version__ = "0.2.0"

compat.apply()

if not (_missing := compat.what_is_missing()):
    # registers what they hold
    from . import datasets, engine, models  # noqa: F401
    from .report import genotype_picture_hook  # noqa: F401
elif find_spec("torch") is not None:
    warnings.warn(f"pvnas_mmaction registers nothing, {_missing}", stacklevel=2)


def __getattr__(name: str) -> Any:
    """``fit``, of :mod:`.apis.fit`, which only those import who use it."""
    if name == "fit":
        from .apis.fit import fit

        return fit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
