"""Runs the notebook beside this file and stores its outputs in it: ``make notebook``."""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat

PATH = Path(__file__).with_name("first_steps.ipynb")


def main() -> None:
    """Runs every cell and writes the file, without times and other traces of the machine."""
    notebook = nbformat.read(PATH, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=900, record_timing=False, resources={"metadata": {"path": str(PATH.parent)}}
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop("image/jpeg", None)  # the same picture as the PNG
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    nbformat.write(notebook, PATH)


if __name__ == "__main__":
    main()
