"""Link configs and tools into the package; all else is in pyproject.toml.

MMEngine (``pvnas_mmaction::pvnas/...``) and ``mim`` look for configs, tools and model
index in the folder ``.mim`` of an installed package. An editable install gets links, a
wheel the files that they point to.
"""

from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
MIM = ROOT / "pvnas_mmaction" / ".mim"

MIM.mkdir(exist_ok=True)
for name in ("configs", "tools", "model-index.yml"):
    link = MIM / name
    if not (link.is_symlink() or link.exists()):
        link.symlink_to(Path("..", "..", name))

setup()
