# Copyright (c) PV-NAS for MMAction2 contributors. Apache-2.0 license.
"""The pages of results: links that lead somewhere, tables as the files have them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from benchmarks.archive_ensemble import markdown

PAGES = ("results.md", "experiments.md")


@pytest.mark.parametrize("page", PAGES)
def test_links(page, project_root):
    path = project_root / "docs" / page
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text())
    assert links
    for link in links:
        if link.startswith("https://"):
            continue
        name, _, heading = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        if heading:
            assert heading in _anchors(target), link


def _anchors(path: Path) -> set[str]:
    """Headings of a page as GitHub names them in links."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("results.md", "search_quality"),
        ("results.md", "archive_ensemble"),
        ("experiments.md", "search_quality_four_shapes"),
        ("experiments.md", "search_quality_six_shapes"),
        ("experiments.md", "search_quality_fast_turns"),
    ],
)
def test_tables_are_those_of_the_files(page, name, project_root):
    shown = (project_root / "docs" / page).read_text().splitlines()
    written = project_root / "benchmarks" / "results" / f"{name}.md"
    rows = [line for line in written.read_text().splitlines() if line.startswith("|")]
    assert len(rows) > 5
    assert [row for row in rows if row not in shown] == []


def test_ensembles_are_those_of_the_json(project_root):
    path = project_root / "benchmarks" / "results" / "archive_ensemble.json"
    result = json.loads(path.read_text())
    assert path.with_suffix(".md").read_text() == markdown(result) + "\n"
