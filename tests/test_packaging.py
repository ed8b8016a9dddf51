"""What pyproject.toml asks for is what the package and its tools import, and
scripts/bootstrap takes the Pythons that it names."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import importlib_metadata as metadata  # Python 3.10's own finds few top-level names
import pytest
from packaging.specifiers import SpecifierSet

import pvnas_mmaction
from pvnas_mmaction.compat import NEEDED, what_is_missing

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(
    {*(ROOT / "pvnas_mmaction").rglob("*.py"), *(ROOT / "tools").glob("*.py")}
)
PYPROJECT = (ROOT / "pyproject.toml").read_text()
# The pictures of a page, and another decoder.
OPTIONAL = {"selenium", "torchcodec"}


def name_of(requirement: str) -> str:
    """Name of a distribution as it is compared: "Pillow>=8" -> "pillow"."""
    name = re.match(r"[\w.-]+", requirement)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def listed(key: str) -> list[str]:
    """The requirements of a list in pyproject.toml."""
    block = re.search(rf"^{key} = \[\n(.*?)^\]", PYPROJECT, re.M | re.S)
    return re.findall(r'^ +"(.*)",$', block[1], re.MULTILINE)


def required(*keys: str) -> set[str]:
    """Distributions that lists of pyproject.toml bring, with what those need."""
    todo, found = [name_of(line) for key in keys for line in listed(key)], set()
    while todo:
        name = todo.pop()
        if name not in found and [*metadata.distributions(name=name)]:
            lines = metadata.requires(name) or []
            todo += [name_of(line) for line in lines if "extra ==" not in line]
        found.add(name)
    return found


def test_an_install_brings_what_files_import_and_replaces_nothing() -> None:
    """Nor does what it brings in turn. Its version is the package's."""
    assert f'version = "{pvnas_mmaction.__version__}"' in PYPROJECT
    brought = required("dependencies", "full", "export")
    replaced = {name for names, _ in NEEDED.values() for name in names}
    assert not required("dependencies") & replaced
    owners = metadata.packages_distributions()
    known = {*sys.stdlib_module_names, *OPTIONAL, "pvnas_mmaction"}
    missing = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, "names", [])]
            if isinstance(node, ast.ImportFrom):
                names = [] if node.level else [node.module]
            elif not isinstance(node, ast.Import):
                continue
            for name in {name.partition(".")[0] for name in names} - known:
                if not brought & {name_of(owner) for owner in owners.get(name, [])}:
                    missing.add((str(path.relative_to(ROOT)), name))
    assert missing == set()


@pytest.mark.parametrize("minor", [9, 10, 13, 14])
def test_bootstrap_takes_the_pythons_of_the_classifiers(minor, tmp_path) -> None:
    """With an interpreter that says it is 3.MINOR and makes no environment. What is not
    supported gets no line that would install the same again."""
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/sh\n[ \"$1\" = --version ] && echo 'Python 3.{minor}.0' && exit\n"
        '[ "$1" = -c ] || { echo "MADE $*"; exit 3; }\n'
        f"exec {sys.executable} -c 'import sys; sys.version_info = (3, {minor}, 0); "
        'del sys.argv[0]; exec(sys.argv[0])\' "$2" "$3"\n'
    )
    python.chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts" / "bootstrap"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": str(python), "VENV": str(tmp_path / "venv")},
    )
    supported = f'"Programming Language :: Python :: 3.{minor}"' in PYPROJECT
    wanted = re.search(r'^requires-python = "(.*)"$', PYPROJECT, re.MULTILINE)[1]
    assert SpecifierSet(wanted).contains(f"3.{minor}.0") == supported
    if supported:
        assert done.returncode == 3
        assert f"MADE -m venv --clear {tmp_path / 'venv'}" in done.stdout
    else:
        assert done.returncode == 1
        assert f"Missing: CPython 3.10 to 3.13 ({python}: Python 3.{minor}.0)" in (
            done.stderr
        )
        assert "apt-get" not in done.stderr


def test_what_is_missing_is_said_in_one_line(monkeypatch) -> None:
    assert what_is_missing() == ""
    monkeypatch.setitem(NEEDED, "torch", (("torch",), "99.1"))
    monkeypatch.setitem(NEEDED, "no_cv", (("a-cv", "b-cv"), "2"))
    assert what_is_missing() == "not found: pip install 'torch>=99.1' 'a-cv>=2'"
