"""Sphinx settings. `make docs` builds the site into docs/_build/html, offline."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from docutils import nodes

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

project = "pvnas_mmaction"
author = "PV-NAS for MMAction2 contributors"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinxcontrib.mermaid",
]
exclude_patterns = ["_build", "README.md"]
html_theme = "furo"
html_title = "pvnas_mmaction"
html_copy_source = False
html_show_sphinx = False
copybutton_exclude = ".linenos, .gp, .go"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
myst_fence_as_directive = ["mermaid"]
nb_execution_mode = "off"  # tests/test_notebook.py runs it
suppress_warnings = ["mystnb.unknown_mime_type"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_use_ivar = True


def write_tools_page(app) -> None:
    """Every tool's --help, as it is, and the head of every script."""
    from pvnas_mmaction.apis.commands import VERBS

    parts = ["# Tools", "", "Every tool is a verb of `pvnas` and a file of `tools/`."]
    for verb in [*VERBS, "show GENOTYPE.json"]:
        argv = ["-W", "ignore", "-m", "pvnas_mmaction", *verb.split(), "-h"]
        command = [sys.executable, *argv]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"{verb}: {done.stderr}"
        parts += ["", f"## pvnas {verb}", "", "```text", done.stdout.rstrip(), "```"]
    for script in sorted((ROOT / "tools").glob("*.sh")):
        _, *lines = script.read_text().split("\nset -")[0].splitlines()
        about = [line.removeprefix("# ") for line in lines]
        parts += ["", f"## tools/{script.name}", "", "```text", *about, "```"]
    page = DOCS / "reference" / "tools.md"
    text = "\n".join(parts) + "\n"
    if not page.exists() or page.read_text() != text:
        page.write_text(text)


def write_plain_pages(app, error) -> None:
    """Each page as Markdown next to its HTML, and llms.txt with all of them and the
    first sentence of each."""
    if error or app.builder.name != "html":
        return
    out = Path(app.outdir)
    lines = [
        "# pvnas_mmaction",
        "",
        "> Search of video networks, inside MMAction2.",
        "",
    ]
    for name in sorted(app.env.found_docs):
        source = Path(app.env.doc2path(name))
        target = out / source.relative_to(DOCS)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".ipynb":
            target = target.with_suffix(".md")
            target.write_text(notebook_as_text(source))
        else:
            shutil.copyfile(source, target)
        title = app.env.titles[name].astext()
        texts = app.env.get_doctree(name).findall(nodes.paragraph)
        first = next((node.astext() for node in texts), "").split(". ")[0]
        about = " ".join(first.split()).rstrip(".:")
        lines.append(f"- [{title}]({target.relative_to(out)}): {about}")
    (out / "llms.txt").write_text("\n".join(lines) + "\n")


def notebook_as_text(path: Path) -> str:
    """The texts, code and printed outputs of a notebook, as Markdown."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            printed = [line for o in cell["outputs"] for line in o.get("text", [])]
            source = f"```python\n{source}\n```"
            if printed:
                source += f"\n\n```text\n{''.join(printed)}```"
        parts.append(source)
    return "\n\n".join(parts) + "\n"


def setup(app) -> None:
    app.connect("builder-inited", write_tools_page)
    app.connect("build-finished", write_plain_pages)
