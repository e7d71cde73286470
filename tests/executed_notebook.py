"""Execute docs/notebook.ipynb in a real kernel, and write it back with its outputs.

    python -m tests.executed_notebook

With a folder, it is executed there, and the result printed: tests/textloop/test_notebook.py.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
CELL_TIMEOUT_S = 600


def execute(folder: Path) -> dict[str, Any]:
    """Execute the notebook in a folder, from its first cell to its last; return it with outputs.

    Raises CellExecutionError where a cell fails. What differs from one execution to the next, the
    progress on stderr and the times of the cells, is left out.
    """
    import nbformat
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory(prefix="kernel") as sockets:
        # Sockets of the file system: nothing listens on a port, and no host name is looked up.
        kernel = AsyncKernelManager(
            kernel_name="python3",
            transport="ipc",
            connection_file=str(Path(sockets, "kernel.json")),
        )
        NotebookClient(
            notebook,
            km=kernel,
            timeout=CELL_TIMEOUT_S,
            resources={"metadata": {"path": str(folder)}},
            record_timing=False,
        ).execute(cleanup_kc=True)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    notebook.metadata.language_info = {"name": "python"}  # no version of Python
    found: dict[str, Any] = json.loads(nbformat.writes(notebook))
    return found


def copy_folder(target: Path) -> Path:
    """Copy what the notebook reads, and return the folder that it is to be executed in."""
    shutil.copytree(ROOT / "configs" / "quickstart", target / "configs" / "quickstart")
    (docs := target / "docs").mkdir()
    return docs


def main(arguments: list[str]) -> None:
    """Execute in the folder that is named and print the result, or rewrite the notebook."""
    os.environ["JUPYTER_PLATFORM_DIRS"] = "1"  # silences a deprecation warning of jupyter_core
    if arguments:
        print(json.dumps(execute(Path(arguments[0]))))
        return
    with tempfile.TemporaryDirectory() as directory:
        executed = execute(copy_folder(Path(directory)))
    NOTEBOOK.write_text(json.dumps(executed, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
