"""The main process tells a model process that hangs from one that is busy, or not there."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from serve.engine import pulse
from serve.engine.pulse import Pulse
from serve.engine.transport import Beat, pack_beat


class Process:
    """A model process as `Pulse` sees it, and the clock."""

    def __init__(self, path: Path) -> None:
        self.now = 0.0
        self.pulse = Pulse(path, hang_s=10.0)
        self.listener = socket.socket(socket.AF_UNIX)
        self.path = path
        self.accepted: socket.socket | None = None

    def listen(self) -> None:
        self.listener.bind(str(self.path))
        self.listener.listen()

    def beat(self, *, running_s: float = 0.0) -> None:
        if self.accepted is None:
            self.accepted, _ = self.listener.accept()
        beat = Beat(running_s=running_s, tokens_per_s=1.0, max_batch_tokens=1, pending_tokens=0)
        self.accepted.sendall(pack_beat(beat))

    def after(self, seconds: float, *, step: float = 0.5) -> str | None:
        """Call `problem` at every step; return what it says last."""
        problem = None
        for _ in range(int(seconds / step)):
            self.now += step
            problem = self.pulse.problem()
        return problem


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    with monkeypatch.context() as patch:
        clock = SimpleNamespace(monotonic=lambda: made.now if made else 0.0)
        patch.setattr(pulse, "time", clock)
        made: Process | None = None
        made = Process(tmp_path / "model.sock")
        yield made
    made.pulse.close()
    made.listener.close()
    if made.accepted is not None:
        made.accepted.close()


def test_a_process_that_has_yet_to_load_its_model_is_left_alone(process: Process) -> None:
    assert process.after(3600) is None


def test_a_process_that_falls_silent_hangs(process: Process) -> None:
    process.listen()
    assert process.after(5) is None
    process.beat()
    assert process.after(9) is None
    assert process.after(2) == "no sign of life for hang_s = 10 s"


def test_a_process_that_never_says_a_word_hangs(process: Process) -> None:
    process.listen()
    assert process.after(12) == "no sign of life for hang_s = 10 s"


def test_a_forward_pass_that_does_not_end_hangs_though_the_process_reports(
    process: Process,
) -> None:
    process.listen()
    process.after(1)
    for running_s in (0.0, 4.0, 9.5):
        process.beat(running_s=running_s)
        assert process.after(1) is None
    process.beat(running_s=10.5)
    assert process.after(1) == "one forward pass runs for longer than hang_s = 10 s"


def test_a_pause_of_the_whole_machine_is_no_hang(process: Process) -> None:
    process.listen()
    process.after(1)
    process.beat()
    process.after(1)
    assert process.after(3600, step=3600) is None
    process.beat()
    assert process.after(9) is None


def test_the_next_process_on_the_path_starts_anew(process: Process) -> None:
    process.listen()
    process.after(1)
    process.beat(running_s=99.0)
    process.accepted.close()
    process.listener.close()
    process.path.unlink()
    assert process.after(60) is None
    process.listener, process.accepted = socket.socket(socket.AF_UNIX), None
    process.listen()
    assert process.after(5) is None
    process.beat()
    assert process.after(5) is None
