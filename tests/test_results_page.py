"""Pages with results: links that lead somewhere, tables as the files have them."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import real_table, search_report


@pytest.fixture
def page(project_root) -> Path:
    return project_root / "docs" / "results.md"


@pytest.mark.parametrize("name", ["docs/results", "README", "configs/pvnas/README"])
def test_links(name, project_root):
    page = project_root / f"{name}.md"
    links = re.findall(r"\]\((?!https:)([^)\s]+)\)", page.read_text())
    assert links
    for link in links:
        file, _, heading = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            kept = [re.sub(r"[^\w\- ]", "", title.lower()) for title in titles]
            assert heading in [title.replace(" ", "-") for title in kept], link


def rows_of_files(folder: Path) -> set[str]:
    """Every row that a file of results has to show, against any of its own networks."""
    lines = set()
    for path in folder.glob("search_quality*.json"):
        result = json.loads(path.read_text())
        lines |= {*search_report.markdown(result).splitlines()}
        if "rates" in path.name:
            lines |= {*search_report.by_rate(result).splitlines()}
    for path in folder.glob("real_clips_*.json"):
        result = json.loads(path.read_text())
        names = [row["name"] for row in result["rows"]]
        chance = [name for name in names if re.search(r"random \d", name)]
        for against in ([], names[:1], chance):
            lines |= {*real_table.markdown(result, against).splitlines()}
    thirds = [json.loads(p.read_text()) for p in folder.glob("real_clips_lite0_*.json")]
    sets = {r["settings"]["data"]: r for r in thirds}
    sets = {name: sets[name] for name in ("msr_action3d", "tennis7", "miracl_phrases")}
    two = {name: sets[name] for name in ("msr_action3d", "tennis7")}
    for some, share in ((sets, 0.333), (two, 0.5)):
        for against in (f"random at {share}", f"narrowed at {share}"):
            lines |= {*real_table.comparison(some, against).splitlines()}
    return lines


@pytest.mark.parametrize("heading", ["2. Search", "3. Real clips"])
def test_tables_are_those_of_the_files(page, heading, project_root):
    known = rows_of_files(project_root / "benchmarks" / "results")
    section = page.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(rows) >= 9
    assert [row for row in rows if row not in known] == []


def test_every_result_is_cited(page, project_root):
    folder = project_root / "benchmarks" / "results"
    for path in folder.iterdir():
        assert path.name in page.read_text(), path.name
