"""The OpenAPI document against the real server, with bodies made from it by schemathesis.

No 500, and no answer whose status, content type or body is not the documented one. Two of
its checks are left out where they ask for more than a schema can say: that every body of the
right form is accepted (a pair of tensors may differ in length), and, of /invocations, that
every other is refused (any text is valid CSV).
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import Server

pytest.importorskip("schemathesis")


def cases(server: Server, directory: Path, examples: int, *options: str) -> int:
    """Number of requests sent; fails with the tool's output if one was answered wrongly."""
    result = subprocess.run(
        [
            *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"),
            *("run", f"{server.url}/openapi.json", "--max-examples", str(examples)),
            *("--checks", "all", "--generation-database", "none", "--seed", "1"),
            *options,
        ],
        capture_output=True,
        text=True,
        cwd=directory,
        timeout=1200,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    found = re.search(r"(\d+) generated", result.stdout)
    assert found is not None, result.stdout
    return int(found[1])


def total(server: Server, directory: Path, examples: int) -> int:
    never = "ignored_auth,positive_data_acceptance"
    everywhere = cases(
        server, directory, examples, "--exclude-checks", never, "--exclude-path", "/invocations"
    )
    return everywhere + cases(
        server,
        directory,
        examples,
        *("--exclude-checks", f"{never},negative_data_rejection"),
        *("--include-path", "/invocations"),
    )


def test_server_answers_as_its_document_says(serve: Callable[..., Server], tmp_path: Path) -> None:
    assert total(serve("single"), tmp_path, 10) > 200


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["single", "pair"])
def test_server_answers_thousands_as_its_document_says(
    kind: str, serve: Callable[..., Server], tmp_path: Path
) -> None:
    assert total(serve(kind), tmp_path, 100) > 2500
