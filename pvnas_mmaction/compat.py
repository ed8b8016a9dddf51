"""What the installed MMAction2, mmengine and torch lack to work together."""

import ctypes
import os
import sys
import warnings
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any, NoReturn

from packaging.version import Version

_PACKAGE = __name__.partition(".")[0]
_DRN = "mmaction.models.localizers.drn.drn"


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
        there = (d for name in names for d in metadata.distributions(name=name))
        old = [d.name for d in there if Version(d.version) < Version(least)]
        if old or find_spec(module) is None:
            lacking.append(f"'{(old or names)[0]}>={least}'")
    return f"not found: pip install {' '.join(lacking)}" if lacking else ""


class DRN:
    """Stands in for MMAction2's localizer, which ``mmaction.models`` imports."""

    def __init__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ImportError(
            f"DRN: the installed mmaction2 wheel lacks {_DRN}. Install MMAction2 from "
            "source: pip install git+https://github.com/open-mmlab/mmaction2.git"
        )


def history_buffer_statistic(owner: type, name: str) -> object:
    """Stands in for ``getattr``, which would reach anything: a pickled
    ``HistoryBuffer`` lists its statistics as ``getattr(HistoryBuffer, "mean")``."""
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
        raise UnpicklingError(
            "checkpoint: expected a statistic of mmengine's HistoryBuffer, got "
            f"getattr({owner!r}, {name!r})"
        )
    return getattr(owner, name)


def checkpoint_globals() -> list[object]:
    """What a checkpoint of mmengine's ``Runner`` names in addition to tensors: a
    ``HistoryBuffer`` per logged value (numpy arrays, and names of statistics), and
    numpy scalars. numpy 2 moved ``numpy.core``; old checkpoints hold that name."""
    import numpy as np
    from mmengine.logging import HistoryBuffer

    dtypes = (np.dtype(name) for name in ("f8", "f4", "i8", "i4", "bool"))
    entries: list[object] = [HistoryBuffer, np.ndarray, np.dtype, *map(type, dtypes)]
    entries.append((history_buffer_statistic, "builtins.getattr"))
    for package in ("numpy._core", "numpy.core"):
        for value in (np.empty(0), np.float64(0)):
            rebuild = value.__reduce__()[0]
            entries.append((rebuild, f"{package}.multiarray.{rebuild.__name__}"))
    return entries


def package_file(name: str | os.PathLike[str]) -> Path:
    """The file that ``package::path`` names among the configs of an installed package,
    e.g. ``pvnas_mmaction::pvnas/genotypes/pvnas-s.json``; any other name is a path.
    FileNotFoundError where there is no such package."""
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


def keep_freed_memory() -> None:
    """Let glibc keep what tensors have freed: it would give large blocks back to the
    system, and each page of the next step costs a fault (a fifth of a step's time)."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(-4, 0)  # M_MMAP_MAX: no block has a mapping of its own
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def apply() -> None:
    # OpenMP threads that wait for each other spin: where other work keeps a core busy,
    # a step takes many times as long. So they sleep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # mmengine imports pkg_resources, which setuptools 81 and later lack and earlier
    # ones warn of. The stand-in comes after all that is installed.
    folder = str(Path(__file__).parent / "_standins")
    if folder not in sys.path:
        sys.path.append(folder)
    for text in ("pkg_resources is deprecated", "Fail to import ``MultiScaleDeform"):
        warnings.filterwarnings("ignore", text, UserWarning)
    # Python 3.12 and newer, when they compile MMAction2 for the first time.
    warnings.filterwarnings("ignore", "invalid escape", SyntaxWarning, ".*/mmaction/")
    found = find_spec("mmaction")
    if found is not None and found.origin is not None:
        parts = _DRN.split(".")[1:]
        if not Path(found.origin).parent.joinpath(*parts).with_suffix(".py").is_file():
            sys.modules[_DRN] = ModuleType(_DRN)
            sys.modules[_DRN].DRN = DRN  # type: ignore[attr-defined]
    if find_spec("mmengine") is not None and find_spec("torch") is not None:
        from mmengine.config import utils
        from torch import serialization

        # torch.load reads weights only, and mmengine's checkpoints hold more.
        serialization.add_safe_globals(checkpoint_globals())
        # Where mmengine looks for ``package::path``.
        utils.MODULE2PACKAGE.setdefault(_PACKAGE, _PACKAGE)
