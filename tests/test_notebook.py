"""The notebook runs from top to bottom, offline, with the embedded checkpoint."""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat
import pytest


EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.slow
def test_the_quickstart_notebook_runs_and_shows_scores_and_pictures() -> None:
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    assert printed.count("photos/") == 4
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
