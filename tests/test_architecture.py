"""Which folder may import which, and what every registered class is called."""

import ast
import re
from pathlib import Path

import pytest
from mmaction import registry
from mmengine.registry import Registry

import pvnas_mmaction  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pvnas_mmaction"
TOP = {"compat", "registry", "__init__", "__main__"}
# A folder may import itself, what stands at the top of the package, and these.
MAY_IMPORT = {
    "space": set(),
    "models": {"space"},
    "datasets": {"space"},
    "profiling": {"space", "models"},
    "search": {"space", "models"},
    "engine": {"space", "models", "search", "datasets"},
    "report": {"space", "models", "search", "engine", "profiling"},
    "apis": {
        "space", "models", "datasets", "profiling", "search", "engine", "report",
    },
}  # fmt: skip
MAY_IMPORT["tools"] = {*MAY_IMPORT, "apis"}
NO_TORCH = {"space"}  # nor MMEngine nor MMAction2: data can be read without them
NO_RUNNER = {"search"}  # the algorithm knows nothing of runner, hooks and loaders
RUNNER = ("mmengine.runner", "mmengine.hooks", "mmengine.dataset", "torch.utils.data")


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:
                parts = path.relative_to(ROOT).parts[: -node.level]
                base = [*parts, *base]
            module = ".".join(base)
            # `from .. import compat` names a module, `from . import f` may.
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def imported(folder: str) -> list[tuple[str, str]]:
    """Names of files below a folder, each with a module that it imports."""
    parent = ROOT if folder == "tools" else PACKAGE
    files = sorted((parent / folder).rglob("*.py"))
    return [(str(p.relative_to(ROOT)), name) for p in files for name in imports(p)]


def test_every_folder_has_its_place():
    found = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert found == set(MAY_IMPORT) - {"tools"}
    assert {path.stem for path in PACKAGE.glob("*.py")} == TOP


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_arrows_point_down(folder):
    allowed = {*MAY_IMPORT[folder], folder, *TOP, "__version__"}
    wrong = [
        (path, name)
        for path, name in imported(folder)
        if (re.match(r"pvnas_mmaction\.\w", name) and name.split(".")[1] not in allowed)
        or re.match(r"(tools|configs|benchmarks|tests)\b", name)
    ]
    assert wrong == []


@pytest.mark.parametrize("folder", sorted(NO_TORCH | NO_RUNNER))
def test_what_a_folder_knows_nothing_of(folder):
    forbidden = ("torch", "mmengine", "mmaction") if folder in NO_TORCH else RUNNER
    wrong = [
        (path, name)
        for path, name in imported(folder)
        if any(f"{name}.".startswith(f"{module}.") for module in forbidden)
    ]
    assert wrong == []


# What users write into configs: a name that goes or changes breaks theirs.
REGISTERED = {
    "MODELS": {"PVNASNet", "PVNASSupernet", "TimeReversalBlending"},
    "DATASETS": {"PVNASVideoDataset"},
    "HOOKS": {
        "LRDiversityHook", "SearchHistoryHook", "GenotypePictureHook",
        "SyncStatisticsHook",
    },
    "LOOPS": {"SearchLoop"},
    "TRANSFORMS": {"PVNASVideoInit", "PVNASVideoDecode"},
    "OPTIMIZERS": {"MuonAdamW"},
    "OPTIM_WRAPPERS": {"BFloat16OptimWrapper"},
    "OPTIM_WRAPPER_CONSTRUCTORS": {"SearchOptimWrapperConstructor"},
    "PARAM_SCHEDULERS": {"WarmupCosineLR"},
    "MODEL_WRAPPERS": {"SearchDataParallel"},
}  # fmt: skip


def test_names_in_the_registry():
    found: dict[str, set[str]] = {}
    for name, value in vars(registry).items():
        if isinstance(value, Registry) and value.scope == "mmaction":
            ours = {
                key
                for key, item in value.module_dict.items()
                if re.match(r"pvnas_mmaction\.", item.__module__)
            }
            if ours:
                found[name] = ours
    assert found == REGISTERED
