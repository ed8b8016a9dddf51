# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""Each mend: without it upstream fails, with it upstream works, no gap no change.

Most tests run a fresh process, since an import or a registered type cannot be undone.
There the mends come from compat.py alone, without the rest of the package.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

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


# 1. the localizer that the wheel lacks


@pytest.mark.skipif(not wheel_lacks_drn(), reason="this MMAction2 has the module")
def test_drn_models_fail_without_the_mend() -> None:
    done = run_python("import mmaction.models", ok=False)
    assert "No module named 'mmaction.models.localizers.drn'" in done.stderr


def test_drn_models_import_with_the_mend() -> None:
    run_python("load_compat().supply_drn(); import mmaction.models")


@pytest.mark.skipif(not wheel_lacks_drn(), reason="this MMAction2 has the module")
def test_drn_explains_itself_when_built() -> None:
    done = run_python(
        """
load_compat().supply_drn()
import mmaction.models
from mmaction.registry import MODELS
MODELS.build(dict(type="DRN", vocab_size=1))
""",
        ok=False,
    )
    assert "lacks mmaction/models/localizers/drn. Install MMAction2 from" in done.stderr


def test_drn_of_a_source_install_is_left_alone(tmp_path: Path) -> None:
    """An MMAction2 with the module: links to the installed one and its own DRN."""
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
    check = """
import mmaction.models
from mmaction.registry import MODELS
assert mmaction.__file__.startswith(sys.argv[1]), mmaction.__file__
module = sys.modules[type(MODELS.build(dict(type="DRN"))).__module__]
assert module.__name__ == "mmaction.models.localizers.drn.drn"
assert module.__file__.startswith(sys.argv[1]), module.__file__
"""
    run_python(check, str(tmp_path), path=tmp_path)
    run_python("load_compat().apply()" + check, str(tmp_path), path=tmp_path)


# 2. importlib_metadata


def test_importlib_metadata_dependency_fails_without_the_mend() -> None:
    done = run_python(
        "hide('importlib_metadata'); import mmaction.utils.dependency", ok=False
    )
    assert "No module named 'importlib_metadata'" in done.stderr


def test_importlib_metadata_mend_is_the_standard_library() -> None:
    run_python(
        """
hide("importlib_metadata")
load_compat().supply_importlib_metadata()
import importlib.metadata, importlib_metadata
for name in importlib.metadata.__all__:
    assert getattr(importlib_metadata, name) is getattr(importlib.metadata, name)
from mmaction.utils.dependency import satisfy_requirement
assert satisfy_requirement("torch>=1.0")
assert not satisfy_requirement("torch>=1000.0")
assert not satisfy_requirement("no-such-distribution")
"""
    )


@pytest.mark.skipif(
    find_spec("importlib_metadata") is None, reason="the package is not installed"
)
def test_importlib_metadata_that_is_installed_is_left_alone() -> None:
    run_python(
        """
load_compat().apply()
import importlib_metadata
assert "_standins" not in importlib_metadata.__file__
"""
    )


# 3. pkg_resources


READ_MMACTION_CONFIG = """
from pathlib import Path
import mmaction
from mmengine.config import Config
name = "_base_/models/tsm_r50.py"
inherited = Config.fromfile(sys.argv[1])
direct = Config.fromfile(str(Path(mmaction.__file__).parent / ".mim/configs" / name))
assert inherited.model.backbone == direct.model.backbone
"""


@pytest.fixture
def inheriting_config(tmp_path: Path) -> str:
    """The path of a config with a base of another package."""
    config = tmp_path / "inherits.py"
    config.write_text('_base_ = "mmaction::_base_/models/tsm_r50.py"\n')
    return str(config)


def test_pkg_resources_package_configs_fail_without_the_mend(
    inheriting_config: str,
) -> None:
    done = run_python(
        "hide('pkg_resources')\n" + READ_MMACTION_CONFIG, inheriting_config, ok=False
    )
    assert "No module named 'pkg_resources'" in done.stderr


def test_pkg_resources_package_configs_load_with_the_mend(
    inheriting_config: str,
) -> None:
    run_python(
        "hide('pkg_resources')\nload_compat().supply_pkg_resources()\n"
        + READ_MMACTION_CONFIG,
        inheriting_config,
    )


def test_pkg_resources_answers_as_the_import_system_does() -> None:
    """mmengine's functions on a package that is there, and on one that is not."""
    run_python(
        """
hide("pkg_resources")
load_compat().supply_pkg_resources()
import os, mmaction, mmengine, pytest
from mmengine.utils import get_installed_path, is_installed
assert is_installed("mmaction2") and is_installed("mmengine")
assert not is_installed("no-such-distribution")
for name, module in (("mmaction2", mmaction), ("mmengine", mmengine)):
    assert get_installed_path(name) == os.path.dirname(module.__file__), name
import pkg_resources
with pytest.raises(pkg_resources.DistributionNotFound, match="no-such-distribution"):
    get_installed_path("no-such-distribution")
with pytest.raises(FileNotFoundError, match="mmengine .* has no metadata file x.txt"):
    pkg_resources.get_distribution("mmengine").get_metadata("x.txt")
with pytest.raises(AttributeError, match=r"pip install 'setuptools<81'"):
    pkg_resources.iter_entry_points
"""
    )


@pytest.mark.skipif(find_spec("pkg_resources") is None, reason="not installed")
def test_pkg_resources_of_setuptools_is_left_alone() -> None:
    run_python(
        """
load_compat().apply()
import pkg_resources
assert "_standins" not in pkg_resources.__file__
"""
    )


# 4. torch.load


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


def loads_weights_only() -> bool:
    return tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 6)


@pytest.mark.skipif(not loads_weights_only(), reason="this torch reads everything")
def test_checkpoint_resume_fails_without_the_mend(trained: Path) -> None:
    done = run_python(TRAIN + "runner(3, True).train()", str(trained), ok=False)
    assert "Weights only load failed" in done.stderr


def test_checkpoint_resume_works_with_the_mend(trained: Path) -> None:
    run_python(
        TRAIN
        + """
load_compat().allow_checkpoint_types()
import pathlib, shutil
work_dir = pathlib.Path(sys.argv[1] + "-resumed")
work_dir.mkdir()
shutil.copy(pathlib.Path(sys.argv[1], "epoch_2.pth"), work_dir)
(work_dir / "last_checkpoint").write_text(str(work_dir / "epoch_2.pth"))
sys.argv[1] = str(work_dir)
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
work_dir = pathlib.Path(sys.argv[1])
for path in [work_dir / "epoch_2.pth", *work_dir.glob("best_score_*.pth")]:
    restricted = torch.load(path, weights_only=True)
    free = torch.load(path, weights_only=False)
    assert restricted.keys() == free.keys()
    assert restricted["meta"] == free["meta"]
    assert restricted["message_hub"]["runtime_info"] == \
        free["message_hub"]["runtime_info"]
    scalars = free["message_hub"]["log_scalars"]
    assert restricted["message_hub"]["log_scalars"].keys() == scalars.keys()
    assert "train/loss" in scalars and "val/score" in scalars
    for key, value in scalars.items():
        for a, b in zip(restricted["message_hub"]["log_scalars"][key].data, value.data):
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


def test_checkpoint_with_other_types_is_still_refused(tmp_path: Path) -> None:
    """The mend names types; it does not turn the restriction off."""
    done = run_python(
        """
import pathlib, torch
load_compat().apply()
class Payload:
    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path(sys.argv[1], "ran"),))
path = sys.argv[1] + "/bad.pth"
torch.save(dict(state_dict={}, payload=Payload()), path)
torch.load(path, weights_only=True)
""",
        str(tmp_path),
        ok=False,
    )
    assert "Weights only load failed" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_checkpoint_getattr_reaches_statistics_only(tmp_path: Path) -> None:
    done = run_python(
        """
import torch
load_compat().allow_checkpoint_types()
from mmengine.logging import HistoryBuffer
class Payload:
    def __reduce__(self):
        return getattr, (HistoryBuffer, "__init__")
path = sys.argv[1]
torch.save(dict(payload=Payload()), path)
torch.load(path, weights_only=True)
""",
        str(tmp_path / "bad.pth"),
        ok=False,
    )
    assert "expected a statistic of mmengine's HistoryBuffer" in done.stderr


# the package


def test_apply_twice_is_harmless() -> None:
    run_python(
        """
compat = load_compat()
compat.apply()
before = list(sys.meta_path)
compat.apply()
assert sys.meta_path == before
assert [type(finder).__name__ for finder in before[-3:]] == ["StandInFinder"] * 3
"""
    )


def test_stand_ins_come_after_every_other_finder() -> None:
    run_python(
        """
load_compat().apply()
names = [getattr(f, "__name__", type(f).__name__) for f in sys.meta_path]
assert names.index("PathFinder") < names.index("StandInFinder")
"""
    )


def test_import_registers_for_configs_and_apis() -> None:
    run_python(
        """
import pvnas_mmaction
import mmaction.apis
from mmaction.registry import MODELS
assert MODELS.get("PVNASNet") is not None and MODELS.get("PVNASSupernet") is not None
"""
    )


def test_upstream_tools_reach_the_mends_in_time() -> None:
    """They import ``mmaction.registry`` before a config's custom_imports run."""
    run_python(
        """
from mmaction.registry import MODELS, RUNNERS
assert "mmaction.models" not in sys.modules
from mmengine.config import Config
cfg = Config(dict(custom_imports=dict(
    imports=["pvnas_mmaction"], allow_failed_imports=False)))
from mmengine.utils import import_modules_from_strings
import_modules_from_strings(**cfg.custom_imports)
assert MODELS.get("PVNASNet") is not None
import mmaction.models
"""
    )


@pytest.mark.skipif(not wheel_lacks_drn(), reason="this MMAction2 has the module")
def test_import_after_a_failed_one_mends_it() -> None:
    run_python(
        """
try:
    import mmaction.models
except ImportError:
    pass
else:
    raise AssertionError("upstream has no gap")
import pvnas_mmaction
import mmaction.models
"""
    )


def test_without_torch_genotypes_are_still_readable() -> None:
    run_python(
        """
hide("torch", "mmaction", "mmengine", "mmcv")
import pvnas_mmaction.space.genotype, pvnas_mmaction.space.search_space
import pvnas_mmaction.space.cost
import pvnas_mmaction.search.diversity
assert "torch" not in sys.modules
pvnas_mmaction.space.genotype.BlockSpec.parse("mb_t3_k5_e4_se")
"""
    )


def test_version_is_the_one_of_the_distribution() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    done = run_python("import pvnas_mmaction; print(pvnas_mmaction.__version__)")
    assert f'version = "{done.stdout.split()[-1]}"' in pyproject


# configs of the package


def test_package_configs_resolve_and_build(tmp_path: Path) -> None:
    """By ``_base_``, by a variable of the base, and by name; all equal the file."""
    whole = tmp_path / "whole.py"
    whole.write_text('_base_ = "pvnas_mmaction::pvnas/_base_/spaces/tiny.py"\n')
    part = tmp_path / "part.py"
    part.write_text(whole.read_text() + "renamed = _base_.space\n")
    done = run_python(
        """
import json, pvnas_mmaction
from mmengine.config import Config
from mmengine.hub import get_config
name = "pvnas_mmaction::pvnas/_base_/spaces/tiny.py"
whole, part, direct = (Config.fromfile(path) for path in sys.argv[1:])
assert get_config(name).space == direct.space
def strip(d):
    return {k: v for k, v in d.items() if k != "_scope_"}
assert strip(whole.space) == strip(direct.space)
assert strip(part.renamed) == strip(direct.space)
print(json.dumps(direct.space.name))
""",
        str(whole),
        str(part),
        str(ROOT / "configs/pvnas/_base_/spaces/tiny.py"),
    )
    assert json.loads(done.stdout.splitlines()[-1]) == "tiny"


def test_package_scope_finds_what_mmaction_and_mmengine_register() -> None:
    """A config part with the scope that mmengine gives to bases of this package."""
    run_python(
        """
import pvnas_mmaction
from mmengine.registry import HOOKS, MODELS, init_default_scope
init_default_scope("mmaction")
scope = dict(_scope_="pvnas_mmaction")
head = MODELS.build(dict(type="I3DHead", in_channels=4, num_classes=3, **scope))
assert type(head).__module__.startswith("mmaction.")
assert type(MODELS.build(dict(type="ReLU", **scope))).__name__ == "ReLU"
hook = HOOKS.build(dict(type="IterTimerHook", **scope))
assert type(hook).__module__.startswith("mmengine.")
"""
    )
