"""The notebook of the docs runs from start to end, with small settings."""

import nbformat
import pytest
from nbclient import NotebookClient


@pytest.mark.slow
def test_own_videos(project_root, tmp_path, monkeypatch):
    monkeypatch.setenv("NOTEBOOK_SMALL", "1")
    monkeypatch.setenv("NOTEBOOK_WORK", str(tmp_path))
    path = project_root / "docs" / "notebooks" / "own_videos.ipynb"
    notebook = nbformat.read(path, as_version=4)
    where = dict(metadata=dict(path=str(project_root)))
    NotebookClient(notebook, timeout=900, resources=where).execute()
    assert (tmp_path / "found" / "model.onnx").is_file()
    assert (tmp_path / "labels.csv").read_text().count("\n") == 81
