"""The notebook runs from its first cell to its last on a small run."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tests.helpers.commands import ROOT

NAMED = 'RUN, DIRECTORY = "distill_then_finetune-demo", ".."'


def test_the_notebook_runs(workplace: Path) -> None:
    notebook = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    (first,) = [cell for cell in notebook.cells if NAMED in cell.source]
    first.source = first.source.replace(NAMED, 'RUN, DIRECTORY = "my_run", "."')
    NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(workplace)}}
    ).execute()
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 5
    table = notebook.cells[7].outputs[0]["data"]["text/plain"]
    assert "01_finetune" in table
    assert "largest difference of logits" in str(notebook.cells[-1].outputs)


def test_the_notebook_has_ten_cells_and_no_results() -> None:
    notebook = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    assert len(notebook.cells) == 10
    assert not any(cell.get("outputs") for cell in notebook.cells)
