"""The command on a file with the tiny base, in an empty folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.train.init.initiating import Initiated, init


@pytest.fixture
def initiate(
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Initiated]:
    """Write a file, and run `init` on it."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, content: str | bytes, *options: str) -> Initiated:
        path = Path(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return init(path, tiny_base, *options, capsys=capsys)

    return run
