"""docs/notebook.ipynb: what is committed is what an execution gives, wherever that happens."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import executed_notebook as notebook
import loopback
import pytest
from own_files import were_run, write_own_files
from processes import ROOT

COMMITTED: dict[str, Any] = json.loads(notebook.NOTEBOOK.read_text(encoding="utf-8"))
MAX_BYTES = 300_000

NUMBER = re.compile(r"(?<![\w.])[-+]?\d+\.\d+(?:e[-+]?\d+)?")
VERSION = re.compile(r"version [0-9a-f]{12}")


def code_cells(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in document["cells"] if cell["cell_type"] == "code"]


def outcome(cell: dict[str, Any]) -> list[tuple[str, str, list[str]]]:
    """What a cell's outputs are, without figures: those differ between processors."""
    return [
        (
            output["output_type"],
            " ".join(VERSION.sub("", NUMBER.sub("", "".join(shown(output)))).split()),
            sorted(output.get("data", {})),
        )
        for output in cell["outputs"]
    ]


def shown(output: dict[str, Any]) -> list[str]:
    """The text of an output."""
    return output.get("text") or output.get("data", {}).get("text/plain", [])


@pytest.mark.parametrize("cell", code_cells(COMMITTED), ids=lambda cell: str(cell["id"]))
def test_each_cell_compiles_and_ran_without_an_error(cell: dict[str, Any]) -> None:
    compile("".join(cell["source"]), cell["id"], "exec")

    assert all(output["output_type"] != "error" for output in cell["outputs"])
    assert all(output.get("name") != "stderr" for output in cell["outputs"])


def test_the_outputs_are_those_of_one_execution_from_the_top() -> None:
    cells = code_cells(COMMITTED)

    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    results = [
        output["execution_count"]
        for cell in cells
        for output in cell["outputs"]
        if output["output_type"] == "execute_result"
    ]
    assert results == [cell["execution_count"] for cell in cells if ends_with_value(cell)]


def ends_with_value(cell: dict[str, Any]) -> bool:
    """Whether the last statement is an expression, the value of which Jupyter shows."""
    import ast

    return isinstance(ast.parse("".join(cell["source"])).body[-1], ast.Expr)


def test_the_notebook_is_small_and_names_no_machine() -> None:
    text = notebook.NOTEBOOK.read_text(encoding="utf-8")

    assert len(text.encode()) < MAX_BYTES
    assert (
        re.findall(r"(?<![\w.:/<])/(?:home|root|tmp|work|Users|usr|var|opt)/[\w./-]*", text) == []
    )
    assert set(COMMITTED["metadata"]) == {"kernelspec", "language_info"}
    assert COMMITTED["metadata"]["language_info"] == {"name": "python"}


def test_its_links_lead_somewhere() -> None:
    text = "".join("".join(c["source"]) for c in COMMITTED["cells"] if c["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)#]+)", text)

    assert len(links) > 8
    assert [link for link in links if not (ROOT / "docs" / link).is_file()] == []


@pytest.mark.slow
def test_an_execution_gives_the_committed_outputs(tmp_path: Path) -> None:
    guard = loopback.build(tmp_path)
    folder = notebook.copy_folder(tmp_path / "checkout")
    write_own_files(folder)

    done = guard.run("-m", "tests.executed_notebook", folder, PYTHONPATH=str(ROOT))

    assert done.returncode == 0, done.stderr
    assert guard.caught() == []
    assert were_run(folder) == []
    executed = code_cells(json.loads(done.stdout))
    for cell, committed in zip(executed, code_cells(COMMITTED), strict=True):
        assert outcome(cell) == outcome(committed), "".join(cell["source"])
    assert sys.executable not in done.stdout
