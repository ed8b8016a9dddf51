# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""What the installed MMAction2, mmengine and torch lack to work together.

Four gaps, each mended only where it is one:

==========================================  ==========================================
gap                                         mend
==========================================  ==========================================
the mmaction2 1.2.0 wheel lacks             stand-in module whose DRN class explains
``mmaction.models.localizers.drn``          itself when built
``mmaction.utils.dependency`` imports       stand-in that is the standard library's
``importlib_metadata``                      ``importlib.metadata``
mmengine imports ``pkg_resources``,         stand-in with the two names that mmengine
which setuptools 81 and later lack          uses
``torch.load`` reads weights only, and      the types in question become safe globals;
mmengine's checkpoints hold more            ``weights_only`` stays as it is
==========================================  ==========================================

A stand-in is found by an importer at the very end of ``sys.meta_path``: Python asks
it only after every other way has failed, so an install without the gap never sees it.

Besides, :func:`allow_package_configs` lets configs say ``pvnas_mmaction::...``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType

_STANDINS = Path(__file__).parent / "_standins"


class StandInFinder(MetaPathFinder):
    """Finds modules that no other finder found.

    Args:
        files: File of each module by its full name.
        packages: Which of these names are packages.
    """

    def __init__(self, files: dict[str, Path], packages: Sequence[str] = ()) -> None:
        self.files = dict(files)
        self.packages = frozenset(packages)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """The import protocol: a spec for the modules in ``files``, else None."""
        if fullname not in self.files:
            return None
        return spec_from_file_location(
            fullname,
            self.files[fullname],
            submodule_search_locations=[] if fullname in self.packages else None,
        )


def _append_finder(finder: StandInFinder) -> None:
    """Put ``finder`` last in ``sys.meta_path``, once."""
    known = (f for f in sys.meta_path if isinstance(f, StandInFinder))
    if not any(f.files == finder.files for f in known):
        sys.meta_path.append(finder)


def supply_drn() -> None:
    """Supply ``mmaction.models.localizers.drn`` where the wheel lacks it."""
    name = "mmaction.models.localizers.drn"
    _append_finder(
        StandInFinder(
            {name: _STANDINS / "__init__.py", f"{name}.drn": _STANDINS / "drn.py"},
            packages=[name],
        )
    )


def supply_importlib_metadata() -> None:
    """Supply ``importlib_metadata`` where that package is not installed."""
    name = "importlib_metadata"
    _append_finder(StandInFinder({name: _STANDINS / f"{name}.py"}))


def supply_pkg_resources() -> None:
    """Supply ``pkg_resources`` where setuptools has none."""
    name = "pkg_resources"
    _append_finder(StandInFinder({name: _STANDINS / f"{name}.py"}))


def history_buffer_statistic(owner: type, name: str) -> object:
    """Stands in for ``getattr`` while a checkpoint is read.

    A pickled ``HistoryBuffer`` lists its statistics as ``getattr(HistoryBuffer,
    "mean")``. The real ``getattr`` would reach anything, so this one reaches those.

    Raises:
        UnpicklingError: On any other class or name.
    """
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
        raise UnpicklingError(
            f"checkpoint: found getattr({owner!r}, {name!r}), expected a statistic of "
            "mmengine's HistoryBuffer"
        )
    return getattr(owner, name)


def checkpoint_globals() -> list[object]:
    """What a checkpoint of mmengine's ``Runner`` names besides tensors.

    Its message hub holds one ``HistoryBuffer`` per logged value: two numpy arrays of
    float64, int64 or bool, and the names of its statistics. The best score may be a
    numpy scalar. The functions of numpy that rebuild them are listed under both of
    their module names, since numpy 2 moved ``numpy.core`` and checkpoints written
    before hold the old name.

    Returns:
        Entries for ``torch.serialization.add_safe_globals``.
    """
    import numpy as np
    from mmengine.logging import HistoryBuffer

    reconstruct = np.empty(0).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    dtypes = ("float64", "float32", "int64", "int32", "bool")
    entries: list[object] = [HistoryBuffer, np.ndarray, np.dtype]
    entries += [type(np.dtype(name)) for name in dtypes]
    entries.append((history_buffer_statistic, "builtins.getattr"))
    for package in ("numpy._core", "numpy.core"):
        entries.append((reconstruct, f"{package}.multiarray._reconstruct"))
        entries.append((scalar, f"{package}.multiarray.scalar"))
    return entries


def allow_checkpoint_types() -> None:
    """Let ``torch.load`` read what mmengine writes, with ``weights_only`` on."""
    from torch import serialization

    serialization.add_safe_globals(checkpoint_globals())


def allow_package_configs() -> None:
    """Let mmengine resolve ``pvnas_mmaction::pvnas/...`` to the shipped configs.

    mmengine resolves this notation for the packages that it lists only.
    """
    from mmengine.config import utils

    name = __name__.partition(".")[0]
    utils.MODULE2PACKAGE.setdefault(name, name)


def apply() -> None:
    """Apply every mend whose packages are installed. Applying twice is harmless."""
    supply_drn()
    supply_importlib_metadata()
    supply_pkg_resources()
    if find_spec("mmengine") is not None and find_spec("torch") is not None:
        allow_checkpoint_types()
        allow_package_configs()
