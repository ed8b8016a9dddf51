# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""What pyproject.toml asks for is what the package and its tools import."""

from __future__ import annotations

import ast
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(
    {*(ROOT / "pvnas_mmaction").rglob("*.py"), *(ROOT / "tools").glob("*.py")}
)
# Of the extras: the check of an export, and the pictures of a page.
OPTIONAL = {"onnxruntime", "selenium"}


def name_of(requirement: str) -> str:
    """Name of a distribution as it is compared: "Pillow>=8" -> "pillow"."""
    name = re.match(r"[\w.-]+", requirement)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def required() -> set[str]:
    """Distributions that an install without extras brings."""
    text = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    todo = [
        name_of(line) for line in re.findall(r'^ +"(.*)",$', block[1], re.MULTILINE)
    ]
    found: set[str] = set()
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # of another platform
            continue
        todo += [name_of(r) for r in requirements if "extra ==" not in r]
    return found


def imports(path: Path) -> set[str]:
    """Top-level names of the modules that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_install_brings_what_a_file_imports(path: Path) -> None:
    brought, owners = required(), metadata.packages_distributions()
    names = imports(path) - set(sys.stdlib_module_names) - OPTIONAL
    missing = {
        name
        for name in names - {"pvnas_mmaction"}
        if not brought & {name_of(owner) for owner in owners.get(name, [])}
    }
    assert missing == set()
