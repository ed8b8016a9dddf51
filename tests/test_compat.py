# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Each fix: without it upstream fails, with it upstream works, no gap no change.

Most tests run a fresh process, since an import or a registered type cannot be undone.
There the fixes come from compat.py alone, without the rest of the package.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from mmengine.config import Config

import pvnas_mmaction
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
            return None
        return self.inner.find_spec(name, path, target)

def hide(*names):
    sys.meta_path[:] = [Hiding(finder, names) for finder in sys.meta_path]
"""


def run_python(
    code: str, *args: str, path: Path | None = None, ok: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a fresh process; assert that it succeeds, or fails."""
    env = dict(os.environ)
    if path is not None:
        env["PYTHONPATH"] = os.pathsep.join([str(path), env["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code, *args],
        capture_output=True,
        text=True,
        env=env,
        timeout=300,
    )
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done


def mmaction_folder() -> Path:
    return Path(find_spec("mmaction").origin).parent


def wheel_lacks_drn() -> bool:
    return not (mmaction_folder() / "models/localizers/drn/drn.py").is_file()


# modules that are missing

HIDE = dict(drn="", importlib_metadata="hide('importlib_metadata')\n")
HIDE["pkg_resources"] = "hide('pkg_resources')\n"
USE = dict(
    drn="import mmaction.models",
    importlib_metadata="import mmaction.utils.dependency",
    pkg_resources="""
from mmengine.config import Config
assert Config.fromfile(sys.argv[1]).model.type == "Recognizer2D"
""",
)


@pytest.fixture
def inheriting_config(tmp_path: Path) -> str:
    """The path of a config with a base of another package."""
    config = tmp_path / "inherits.py"
    config.write_text('_base_ = "mmaction::_base_/models/tsm_r50.py"\n')
    return str(config)


@pytest.mark.parametrize("module", HIDE)
def test_missing_module(module, inheriting_config) -> None:
    """What needs it fails, and works with the fix. An import that failed before the
    package was imported does not stay failed."""
    code = HIDE[module] + USE[module]
    if module != "drn" or wheel_lacks_drn():
        done = run_python(code, inheriting_config, ok=False)
        assert "No module named 'mmaction.models.localizers.drn'" in done.stderr or (
            f"No module named '{module}'" in done.stderr
        )
    before = HIDE[module]
    if module == "drn":
        before = "try:\n    import mmaction.models\nexcept ImportError:\n    pass\n"
    run_python(before + "load_compat().apply()\n" + USE[module], inheriting_config)


def test_a_module_that_is_installed_is_left_alone(tmp_path: Path) -> None:
    """An MMAction2 with the module: links to the installed one and its own DRN. The
    other two are those that are installed."""
    source = mmaction_folder()
    for folder in (".", "models", "models/localizers"):
        target = tmp_path / "mmaction" / folder
        target.mkdir(exist_ok=True, parents=True)
        for entry in (source / folder).iterdir():
            if entry.name not in ("models", "localizers", "drn", "__pycache__"):
                (target / entry.name).symlink_to(entry)
    drn = tmp_path / "mmaction/models/localizers/drn"
    drn.mkdir()
    (drn / "__init__.py").touch()
    (drn / "drn.py").write_text(
        "from mmaction.registry import MODELS\n"
        "@MODELS.register_module()\n"
        "class DRN:\n"
        "    pass\n"
    )
    code = """
import importlib.util
load_compat().apply()
names = [getattr(f, "__name__", type(f).__name__) for f in sys.meta_path]
assert names.index("PathFinder") < names.index("StandInFinder")
import mmaction.models
from mmaction.registry import MODELS
module = sys.modules[type(MODELS.build(dict(type="DRN"))).__module__]
assert module.__name__ == "mmaction.models.localizers.drn.drn"
assert module.__file__.startswith(sys.argv[1]), module.__file__
for name in ("importlib_metadata", "pkg_resources"):
    assert "_standins" not in importlib.util.find_spec(name).origin, name
"""
    run_python(code, str(tmp_path), path=tmp_path)


def test_stand_ins_answer_as_the_import_system_does() -> None:
    """mmengine's functions on a package that is there, and on one that is not."""
    run_python(
        """
hide("pkg_resources", "importlib_metadata")
compat = load_compat()
compat.apply()
before = list(sys.meta_path)
compat.apply()
assert sys.meta_path == before
import importlib.metadata, importlib_metadata
for name in importlib.metadata.__all__:
    assert getattr(importlib_metadata, name) is getattr(importlib.metadata, name)
from mmaction.utils.dependency import satisfy_requirement
assert satisfy_requirement("torch>=1.0")
assert not satisfy_requirement("torch>=1000.0")
assert not satisfy_requirement("no-such-distribution")
import os, mmaction, mmengine, pytest
from mmengine.utils import get_installed_path, is_installed
assert is_installed("mmaction2") and is_installed("mmengine")
assert not is_installed("no-such-distribution")
for name, module in (("mmaction2", mmaction), ("mmengine", mmengine)):
    assert get_installed_path(name) == os.path.dirname(module.__file__), name
import pkg_resources
with pytest.raises(pkg_resources.DistributionNotFound, match="no-such-distribution"):
    get_installed_path("no-such-distribution")
with pytest.raises(AttributeError, match=r"pip install 'setuptools<81'"):
    pkg_resources.iter_entry_points
"""
    )


# torch.load


TRAIN = """
import numpy as np, torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import DataLoader

class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 1)
    def forward(self, x, y, mode):
        if mode == "loss":
            return dict(loss=(self.linear(x) - y).square().mean())
        return [self.linear(x)]

class Score(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(data_samples[0].mean().item())
    def compute_metrics(self, results):
        return dict(score=np.mean(results), is_best=np.bool_(True), count=np.int64(3))

def runner(epochs, resume=False):
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(2, generator=generator), torch.ones(1)) for _ in range(8)]
    return Runner(
        Model(), sys.argv[1],
        train_dataloader=DataLoader(data, batch_size=2),
        val_dataloader=DataLoader(data, batch_size=2),
        train_cfg=dict(by_epoch=True, max_epochs=epochs), val_cfg=dict(),
        val_evaluator=Evaluator(Score()),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.01)),
        param_scheduler=[
            dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=4),
            dict(type="CosineAnnealingLR", T_max=epochs, by_epoch=True)],
        default_hooks=dict(
            logger=dict(type="LoggerHook", interval=1),
            checkpoint=dict(
                type="CheckpointHook", interval=1, save_best="score", rule="greater")),
        custom_hooks=[dict(type="EMAHook")],
        resume=resume, randomness=dict(seed=0), log_level="WARNING",
        experiment_name=f"compat-{epochs}")
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work dir of a run that mmengine's Runner has written checkpoints of."""
    work_dir = tmp_path_factory.mktemp("trained")
    run_python(TRAIN + "runner(2).train()", str(work_dir))
    assert (work_dir / "epoch_2.pth").is_file()
    return work_dir


def test_checkpoint_is_resumed(trained: Path) -> None:
    done = run_python(TRAIN + "runner(3, True).train()", str(trained), ok=False)
    assert "Weights only load failed" in done.stderr
    run_python(
        TRAIN
        + """
load_compat().allow_checkpoint_types()
resumed = runner(3, True)
resumed.train()
assert (resumed.epoch, resumed.iter) == (3, 12), (resumed.epoch, resumed.iter)
history, _ = resumed.message_hub.get_scalar("train/loss").data
assert len(history) == 12, len(history)  # 8 values before the resume, 4 after
""",
        str(trained),
    )


def test_checkpoint_reads_the_same_as_without_the_restriction(trained: Path) -> None:
    run_python(
        """
import pathlib, numpy as np, torch
load_compat().allow_checkpoint_types()
for path in pathlib.Path(sys.argv[1]).glob("*.pth"):
    restricted = torch.load(path, weights_only=True)
    free = torch.load(path, weights_only=False)
    assert restricted.keys() == free.keys()
    assert restricted["meta"] == free["meta"]
    ours, theirs = (c["message_hub"] for c in (restricted, free))
    assert ours["runtime_info"] == theirs["runtime_info"]
    scalars = theirs["log_scalars"]
    assert ours["log_scalars"].keys() == scalars.keys()
    assert "train/loss" in scalars and "val/score" in scalars
    for key, value in scalars.items():
        for a, b in zip(ours["log_scalars"][key].data, value.data):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
""",
        str(trained),
    )


def test_checkpoint_reads_under_the_names_of_numpy_1(tmp_path: Path) -> None:
    """numpy 1 wrote ``numpy.core`` where numpy 2 writes ``numpy._core``."""
    run_python(
        """
import zipfile, numpy as np, torch
from mmengine.logging import HistoryBuffer
path = sys.argv[1]
buffer = HistoryBuffer([0.5, 1.5], [1, 2])
torch.save(dict(buffer=buffer, best=np.float64(2.5)), path)
with zipfile.ZipFile(path) as archive:
    entries = {name: archive.read(name) for name in archive.namelist()}
with zipfile.ZipFile(path, "w") as archive:
    for name, data in entries.items():
        data = data.replace(b"cnumpy._core.", b"cnumpy.core.")
        archive.writestr(name, data)
        if name.endswith("data.pkl"):
            assert data.count(b"cnumpy.core.multiarray") == 2
            assert b"numpy._core" not in data
load_compat().allow_checkpoint_types()
loaded = torch.load(path, weights_only=True)
assert loaded["best"] == 2.5
np.testing.assert_array_equal(loaded["buffer"].data[0], [0.5, 1.5])
""",
        str(tmp_path / "old.pth"),
    )


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (
            "pathlib.Path.touch, (pathlib.Path(sys.argv[1], 'ran'),)",
            "Weights only load",
        ),
        ("getattr, (HistoryBuffer, '__init__')", "expected a statistic of mmengine's"),
    ],
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


def test_version_is_the_one_of_the_distribution() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{pvnas_mmaction.__version__}"' in pyproject


def test_package_configs_resolve(tmp_path: Path) -> None:
    """By ``_base_``, by a variable of the base, and by name; all equal the file, which
    is found in an install and in a checkout that was not installed."""
    name = "pvnas_mmaction::pvnas/_base_/spaces/tiny.py"
    (tmp_path / "whole.py").write_text(f"_base_ = {name!r}\n")
    (tmp_path / "part.py").write_text(f"_base_ = {name!r}\nrenamed = _base_.space\n")
    direct = Config.fromfile(ROOT / "configs/pvnas/_base_/spaces/tiny.py").space
    assert Config.fromfile(package_file(name)).space == direct
    for file, key in (("whole", "space"), ("part", "renamed")):
        found = Config.fromfile(tmp_path / f"{file}.py")[key]
        assert {k: v for k, v in found.items() if k != "_scope_"} == direct
    package = tmp_path / "checkout" / "some_package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(package.parent)
        assert package_file("some_package::a/b.py") == package.parent / "configs/a/b.py"
        (package / ".mim" / "configs").mkdir(parents=True)
        assert package_file("some_package::a.py") == package / ".mim/configs/a.py"
    assert package_file("a/b.py") == Path("a/b.py")
    with pytest.raises(FileNotFoundError, match=r"no_such::.*: expected an installed"):
        package_file("no_such::a.py")
