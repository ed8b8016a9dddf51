"""Each fix: without it upstream fails, with it upstream works, no gap no change.

Most tests run a fresh process, since an import or a registered type cannot be undone.
There the fixes come from compat.py alone, without the rest of the package.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from mmengine.config import Config
from tool_processes import run_process

from pvnas_mmaction.compat import package_file

ROOT = Path(__file__).resolve().parent.parent

PRELUDE = f"""
import importlib.util, sys, warnings
warnings.simplefilter("ignore")

def load_compat():
    spec = importlib.util.spec_from_file_location(
        "pvnas_mmaction.compat", {str(ROOT / "pvnas_mmaction" / "compat.py")!r})
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

class Hiding:
    '''A finder as it would be if some modules were not installed.'''
    def __init__(self, inner, names):
        self.inner, self.names = inner, names
    def __getattr__(self, name):
        return getattr(self.inner, name)
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            path = [entry for entry in sys.path if "_standins" in entry]
        return self.inner.find_spec(name, path, target)

def hide(*names):
    sys.meta_path[:] = [Hiding(finder, names) for finder in sys.meta_path]
"""


def run_python(code: str, *args: str, ok: bool = True):
    """Run ``code`` in a fresh process; assert that it succeeds, or fails."""
    return run_process(sys.executable, "-c", PRELUDE + code, *args, ok=ok)


# modules that are missing

HIDE = dict(drn="", pkg_resources="hide('pkg_resources')\n")
USE = dict(
    drn="import mmaction.models",
    pkg_resources="""
from mmengine.config import Config
assert Config.fromfile(sys.argv[1]).model.type == "Recognizer2D"
""",
)


@pytest.mark.parametrize("module", HIDE)
def test_missing_module(module, tmp_path) -> None:
    """What needs it fails, and works with the fix. An import that failed before the
    package was imported does not stay failed."""
    config = tmp_path / "inherits.py"
    config.write_text('_base_ = "mmaction::_base_/models/tsm_r50.py"\n')
    code = HIDE[module] + USE[module]
    drn = Path(find_spec("mmaction").origin).parent / "models/localizers/drn/drn.py"
    if module != "drn" or not drn.is_file():
        done = run_python(code, str(config), ok=False)
        assert "No module named 'mmaction.models.localizers.drn'" in done.stderr or (
            f"No module named '{module}'" in done.stderr
        )
    before = HIDE[module]
    if module == "drn":
        before = "try:\n    import mmaction.models\nexcept ImportError:\n    pass\n"
    run_python(before + "load_compat().apply()\n" + USE[module], str(config))


def test_stand_ins_answer_as_the_import_system_does() -> None:
    """mmengine's functions on a package that is there, and on one that is not; what
    the class that is absent says."""
    run_python(
        """
hide("pkg_resources")
compat = load_compat()
compat.apply()
before = list(sys.path)
compat.apply()
assert sys.path == before
import os, mmaction, mmengine, pytest
from mmengine.utils import get_installed_path, is_installed
assert is_installed("mmaction2") and is_installed("mmengine")
assert not is_installed("no-such-distribution")
for name, module in (("mmaction2", mmaction), ("mmengine", mmengine)):
    assert get_installed_path(name) == os.path.dirname(module.__file__), name
import pkg_resources
with pytest.raises(pkg_resources.DistributionNotFound, match="no-such-distribution"):
    get_installed_path("no-such-distribution")
with pytest.raises(ImportError, match="DRN: the installed mmaction2 wheel lacks"):
    compat.DRN()
"""
    )


# torch.load


TOUCH = "pathlib.Path.touch, (pathlib.Path(sys.argv[1], 'ran'),)"
METHOD = "getattr, (HistoryBuffer, '__init__')"


@pytest.mark.parametrize(
    ("payload", "message"),
    [(TOUCH, "Weights only load"), (METHOD, "expected a statistic of mmengine's")],
)
def test_checkpoint_with_other_types_is_still_refused(payload, message, tmp_path):
    """The fix names types and statistics; it does not turn the restriction off."""
    code = f"""
import pathlib, torch
load_compat().apply()
from mmengine.logging import HistoryBuffer
class Payload:
    def __reduce__(self):
        return {payload}
path = sys.argv[1] + "/bad.pth"
torch.save(dict(state_dict={{}}, payload=Payload()), path)
torch.load(path, weights_only=True)
"""
    assert message in run_python(code, str(tmp_path), ok=False).stderr
    assert not (tmp_path / "ran").exists()


# the package


def test_upstream_tools_reach_the_fixes_in_time() -> None:
    """They import ``mmaction.registry`` before a config's custom_imports run. MMEngine
    marks what a base of this package holds with its scope, and finds it there."""
    run_python(
        """
from mmaction.registry import MODELS
assert "mmaction.models" not in sys.modules
from mmengine.utils import import_modules_from_strings
import_modules_from_strings(["pvnas_mmaction"], allow_failed_imports=False)
assert MODELS.get("PVNASNet") is not None and MODELS.get("PVNASSupernet") is not None
import mmaction.models
from mmengine.registry import HOOKS, init_default_scope
init_default_scope("mmaction")
scope = dict(_scope_="pvnas_mmaction")
head = MODELS.build(dict(type="I3DHead", in_channels=4, num_classes=3, **scope))
assert type(head).__module__.startswith("mmaction.")
assert type(MODELS.build(dict(type="ReLU", **scope))).__name__ == "ReLU"
hook = HOOKS.build(dict(type="IterTimerHook", **scope))
assert type(hook).__module__.startswith("mmengine.")
"""
    )


def test_package_configs_resolve(tmp_path: Path) -> None:
    """By ``_base_``, by a variable of the base, and by name; all equal the file."""
    name = "pvnas_mmaction::pvnas/_base_/spaces/tiny.py"
    (tmp_path / "whole.py").write_text(f"_base_ = {name!r}\n")
    (tmp_path / "part.py").write_text(f"_base_ = {name!r}\nrenamed = _base_.space\n")
    direct = Config.fromfile(ROOT / "configs/pvnas/_base_/spaces/tiny.py").space
    assert Config.fromfile(package_file(name)).space == direct
    for file, key in (("whole", "space"), ("part", "renamed")):
        found = Config.fromfile(tmp_path / f"{file}.py")[key]
        assert {k: v for k, v in found.items() if k != "_scope_"} == direct
    assert package_file("a/b.py") == Path("a/b.py")
    with pytest.raises(FileNotFoundError, match=r"no_such::.*: expected an installed"):
        package_file("no_such::a.py")
