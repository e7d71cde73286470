"""The tests that need a GPU pass on a pretended one; `fake_cuda` says what it can tell."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from processes import ROOT

from fake_cuda.build import environment, why_not


@pytest.mark.slow
def test_gpu_tests_pass_on_the_pretended_device() -> None:
    if reason := why_not():
        pytest.skip(f"no pretended device: {reason}")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:xdist"]
    result = subprocess.run(
        [*command, "tests/test_gpu.py", "tests/fake_cuda"],
        cwd=ROOT,
        env=os.environ | environment(),
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )

    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-1000:]
    summary = result.stdout.splitlines()[-1]
    assert int(re.search(r"(\d+) passed", summary)[1]) >= 25
    assert "skipped" not in summary
