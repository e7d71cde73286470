"""A full disk costs metrics, never a process."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

import pytest
from processes import run

from serve.engine.metric_files import AllocatedDict

FULL = """
import resource, sys
import prometheus_client                      # before the variable is set
import os; os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[1]
from serve.engine import metric_files
from serve.engine.metrics import HttpMetrics, exposition

def limit(size):                              # writing beyond it fails, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

limit(int(sys.argv[2]))
metrics = HttpMetrics()
metrics.texts.labels("champion").inc(2)
for number in range(2000):                    # many times the size of a new file
    metrics.request_errors.labels("r" * 60 + str(number)).inc()
def shown():
    return exposition()[0].count(b"\\ntextloop_request_errors_total{")
print(shown(), metrics.request_errors.labels("r" * 60 + "1999")._value.get())
limit(resource.RLIM_INFINITY)                 # there is room again
metric_files.RETRY_S = 0
for number in range(2000):
    metrics.request_errors.labels("r" * 60 + str(number)).inc()
print(shown(), b"r" * 60 + b"1999\\"} 2.0" in exposition()[0])
"""


@pytest.mark.parametrize(("room", "at_least"), [(0, 0), (1000, 0), (65_536, 100), (200_000, 300)])
def test_metrics_without_room_are_kept_and_shown_once_there_is_some(
    tmp_path: Path, room: int, at_least: int
) -> None:
    result = run("-c", FULL, tmp_path, room)

    assert result.returncode == 0, result.stderr
    first, second = (line.split() for line in result.stdout.splitlines())
    assert at_least <= int(first[0]) < 2000
    assert float(first[1]) == 1
    assert second == ["2000", "True"]
    assert "no room for metrics" in result.stderr


def test_files_have_all_their_blocks(tmp_path: Path) -> None:
    """A file with holes is killed by SIGBUS when the disk is full at the first write to one."""
    result = run("-c", FULL, tmp_path, 100_000_000)

    assert result.returncode == 0, result.stderr
    files = list(tmp_path.glob("*.db"))
    assert len(files) == 4
    assert all(file.stat().st_blocks * 512 >= file.stat().st_size for file in files)
    assert max(file.stat().st_size for file in files) > 65_536


def test_a_file_that_cannot_be_mapped_costs_its_values_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(mmap, "mmap", refuse)
    values = AllocatedDict(str(tmp_path / "counter_1.db"))

    values.write_value("a", 2.0, 3.0)

    assert values.read_value("a") == (2.0, 3.0)
