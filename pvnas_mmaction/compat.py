# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""What the installed MMAction2, mmengine and torch lack to work together.

==========================================  ==========================================
gap                                         fix
==========================================  ==========================================
the mmaction2 1.2.0 wheel lacks             stand-in module whose DRN class explains
``mmaction.models.localizers.drn``          itself when built
``mmaction.utils.dependency`` imports       stand-in that is the standard library's
``importlib_metadata``                      ``importlib.metadata``
mmengine imports ``pkg_resources``,         stand-in with the names that mmengine uses;
which setuptools 81 and later lack and      that warning, and mmcv-lite's of a layer
earlier ones warn of                        that it lacks, are not shown
``torch.load`` reads weights only, and      the types in question become safe globals;
mmengine's checkpoints hold more            ``weights_only`` stays as it is
mmengine resolves ``package::path``         this package is added to its list
for the packages that it lists
==========================================  ==========================================

A stand-in is found by an importer at the very end of ``sys.meta_path``: Python asks
it only after every other way has failed, so an install without the gap never sees it.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Sequence
from importlib import metadata
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType

_PACKAGE = __name__.partition(".")[0]
_DRN = "mmaction.models.localizers.drn"
STANDINS = {
    _DRN: "__init__.py",
    f"{_DRN}.drn": "drn.py",
    "importlib_metadata": "importlib_metadata.py",
    "pkg_resources": "pkg_resources.py",
}


# What no requirement of this package may bring, as it may be there in another build:
# module, distributions that have it, and the oldest version.
NEEDED = {
    "torch": (("torch",), "2.6"),
    "cv2": (("opencv-python", "opencv-python-headless", "opencv-contrib-python",
             "opencv-contrib-python-headless"), "4.5"),
    "mmengine": (("mmengine", "mmengine-lite"), "0.10.4"),
    "mmcv": (("mmcv-lite", "mmcv"), "2.0"),
    "mmaction": (("mmaction2",), "1.2"),
}  # fmt: skip


def what_is_missing() -> str:
    """One line on what this package needs and does not find, with the command that
    brings it; empty where all is there."""
    lacking = []
    for module, (names, least) in NEEDED.items():
        installed = {d.metadata["Name"]: d.version for n in names
                     for d in metadata.distributions(name=n)}  # fmt: skip
        old = [n for n, v in installed.items() if _numbers(v) < _numbers(least)]
        if old or find_spec(module) is None:
            lacking.append(f"'{(old or names)[0]}>={least}'")
    return f"not found: pip install {' '.join(lacking)}" if lacking else ""


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


class StandInFinder(MetaPathFinder):
    """Finds the modules of :data:`STANDINS` where no other finder found one."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """The import protocol: a spec for a stand-in, else None."""
        if fullname not in STANDINS:
            return None
        file = STANDINS[fullname]
        return spec_from_file_location(
            fullname,
            Path(__file__).parent / "_standins" / file,
            submodule_search_locations=[] if file == "__init__.py" else None,
        )


def supply_missing_modules() -> None:
    """Put a :class:`StandInFinder` last in ``sys.meta_path``, once."""
    if not any(isinstance(finder, StandInFinder) for finder in sys.meta_path):
        sys.meta_path.append(StandInFinder())
    for text in ("pkg_resources is deprecated", "Fail to import ``MultiScaleDeform"):
        warnings.filterwarnings("ignore", text, UserWarning)


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
            "checkpoint: expected a statistic of mmengine's HistoryBuffer, got "
            f"getattr({owner!r}, {name!r})"
        )
    return getattr(owner, name)


def checkpoint_globals() -> list[object]:
    """What a checkpoint of mmengine's ``Runner`` names in addition to tensors.

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
    """Let mmengine resolve ``pvnas_mmaction::pvnas/...`` to the shipped configs."""
    from mmengine.config import utils

    utils.MODULE2PACKAGE.setdefault(_PACKAGE, _PACKAGE)


def package_file(name: str | os.PathLike[str]) -> Path:
    """The file that ``package::path`` names among the configs of an installed package,
    e.g. ``pvnas_mmaction::pvnas/genotypes/pvnas-s.json``. Any other name is a path.

    Raises:
        FileNotFoundError: There is no such package.
    """
    package, separator, path = str(name).partition("::")
    if not separator:
        return Path(name)
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            f"{name}: expected an installed package before '::', got {package!r}; "
            "install it or give the path of a file"
        )
    folder = Path(spec.origin).parent
    shipped = folder / ".mim" / "configs"
    # A checkout that was not installed has them next to the package.
    return (shipped if shipped.is_dir() else folder.parent / "configs") / path


def apply() -> None:
    """Apply every fix whose packages are installed. Applying twice is harmless."""
    supply_missing_modules()
    if find_spec("mmengine") is not None and find_spec("torch") is not None:
        allow_checkpoint_types()
        allow_package_configs()
