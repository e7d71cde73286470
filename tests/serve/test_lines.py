"""Logs never delay or fail who writes them: stalled pipes, full disks, closed streams."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import wait_for

from serve import lines
from serve.lines import MAX_LINES, LineWriter, LogHandler


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe. Its writers end before its numbers may be those of another file."""
    ends = os.pipe()
    yield ends
    os.close(ends[0])  # whoever waits to write fails now
    for thread in threading.enumerate():
        if thread.name == "pipe":
            thread.join(5)
            assert not thread.is_alive()
    os.close(ends[1])


def test_lines_arrive_in_order_whether_a_thread_writes_or_not(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1], "pipe")
    writer.write("at once")
    writer.start()
    for number in range(50):
        writer.write(f"line {number}")
    writer.close()
    writer.write("last")

    expected = ["at once", *(f"line {number}" for number in range(50)), "last"]
    assert os.read(pipe[0], 65_536).decode().splitlines() == expected
    assert writer.take_dropped() == 0


@pytest.mark.parametrize("started", [True, False])
def test_a_reader_that_stalls_costs_lines_and_no_time(pipe: tuple[int, int], started: bool) -> None:
    writer = LineWriter(pipe[1], "pipe")
    if started:
        writer.start()
    begun = time.monotonic()
    for _ in range(3 * MAX_LINES):
        writer.write("x" * 99)
    assert time.monotonic() - begun < 1
    begun = time.monotonic()
    writer.close()
    assert time.monotonic() - begun < 2

    written = len(os.read(pipe[0], 1_000_000)) // 100
    assert 0 < written < MAX_LINES
    assert writer.take_dropped() == 3 * MAX_LINES - written
    assert writer.take_dropped() == 0


def test_a_reader_that_comes_back_gets_whole_lines(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1], "pipe")
    writer.start()
    for _ in range(2 * MAX_LINES):
        writer.write("x" * 99)
    received = b""
    wait_for(lambda: writer.dropped or len(received))
    while b"again" not in received:
        received += os.read(pipe[0], 1_000_000)
        writer.write("again")
    writer.close()

    assert set(received.splitlines()) == {b"x" * 99, b"again"}


@pytest.mark.parametrize("started", [True, False])
def test_a_full_disk_costs_lines_and_is_said_once(
    started: bool, caplog: pytest.LogCaptureFixture
) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    writer = LineWriter(full, "log")
    if started:
        writer.start()
    for _ in range(10):
        writer.write("line")
    writer.close()
    os.close(full)

    assert writer.take_dropped() == 10
    assert caplog.messages == ["cannot write to log: No space left on device; dropping lines"]


def test_a_reader_that_is_gone_costs_lines(caplog: pytest.LogCaptureFixture) -> None:
    read, write = os.pipe()
    os.close(read)
    writer = LineWriter(write, "pipe")
    writer.start()
    writer.write("line")
    writer.close()
    os.close(write)

    assert writer.take_dropped() == 1
    assert "Broken pipe" in caplog.text


def test_after_a_line_was_cut_off_a_new_one_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    writer, write, room = LineWriter(file, "log"), os.write, [3]

    def on_a_disk_that_fills_up(fd: int, data: bytes) -> int:
        if not room:
            return write(fd, data)
        if room[0] == 0:
            room.clear()
            raise OSError(28, "No space left on device")
        written = write(fd, data[: room[0]])
        room[0] = 0
        return written

    monkeypatch.setattr(os, "write", on_a_disk_that_fills_up)
    writer.write("first")
    writer.write("second")
    os.close(file)

    assert path.read_text() == "fir\nsecond\n"
    assert writer.take_dropped() == 1


def test_a_closed_stream_costs_lines() -> None:
    writer = LineWriter(None, "stdout")
    writer.start()
    writer.write("line")
    writer.close()

    assert writer.take_dropped() == 1


def test_a_forked_process_writes_its_own_lines_only(pipe: tuple[int, int]) -> None:
    stalled = LineWriter(pipe[1], "pipe")
    stalled.write("parent")
    if os.fork() == 0:
        stalled.start()
        stalled.write("child")
        stalled.close()
        os._exit(0)
    os.wait()

    assert os.read(pipe[0], 4096) == b"parent\nchild\n"


def test_log_lines_carry_time_level_and_process(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "stderr", LineWriter(pipe[1], "stderr"))
    record = logging.LogRecord("serve.x", logging.WARNING, "", 1, "reloaded %d", (3,), None)
    LogHandler().emit(record)
    LogHandler().emit(logging.LogRecord("serve.x", 30, "", 1, "reloaded %d", ("x",), None))

    first, second = os.read(pipe[0], 4096).decode().splitlines()
    stamp, _, rest = first.partition(" ")
    assert time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ")
    assert rest == f"WARNING serve.x[{os.getpid()}]: reloaded 3"
    assert "cannot format the log record 'reloaded %d'" in second
