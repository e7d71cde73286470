"""Processes that may reach this machine only; see loopback.c, which they preload."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import ROOT


@dataclass
class Guard:
    """A guard over the processes that have its environment, and what it caught."""

    environment: dict[str, str]
    home: Path
    """Their empty home directory."""
    log: Path

    def run(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
        """Run this Python under the guard, in the repository."""
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def caught(self) -> list[str]:
        """Connections and look-ups that were refused, as `PID CALL ADDRESS`."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def files_at_home(self) -> list[str]:
        return sorted(str(f.relative_to(self.home)) for f in self.home.rglob("*") if f.is_file())


SWITCHES = """
    XDG_CACHE_HOME HF_HUB_OFFLINE TRANSFORMERS_OFFLINE HF_DATASETS_OFFLINE HF_HUB_DISABLE_TELEMETRY
    DISABLE_TELEMETRY ORT_DISABLE_TELEMETRY MLFLOW_DISABLE_TELEMETRY DO_NOT_TRACK USE_HUB_KERNELS
    CI GITHUB_ACTIONS PYTEST_CURRENT_TEST PYTEST_VERSION
""".split()
"""Variables that keep a library silent or move its files; a guarded process has none of them."""


def build(directory: Path) -> Guard:
    """Compile the guard; skips the test on a machine without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for the guard against connections")
    library = directory / "loopback.so"
    source = Path(__file__).with_suffix(".c")
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"]
    subprocess.run(command, check=True)
    home = directory / "home"
    home.mkdir()
    log = directory / "caught.txt"
    environment = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    environment |= {
        "LD_PRELOAD": str(library),
        "LOOPBACK_LOG": str(log),
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
    }
    return Guard(environment, home, log)
