"""The last line under `accelerate launch`, which ends a failed command with a traceback.

The launcher's traceback hides the line that says what is wrong. So the line is written once
more when the launcher has ended, by a small process that waits for it.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
from pathlib import Path

from serve.command.run import print_line

LAUNCHERS = {
    "accelerate",
    "accelerate-launch",
    "accelerate.commands.accelerate_cli",
    "accelerate.commands.launch",
    "torch.distributed.run",
    "torchrun",
}

QUIET = {"-q", "--quiet"}
"""Options of the launcher with which it prints no traceback."""

WAIT_S = 60
"""Seconds to wait for the launcher: it waits up to 30 for its other processes."""

REPORT = "TEXTLOOP_REPORT_FD"
"""Environment variable with the file descriptor that takes the last line of a process, for the
one that started it and prints the line of the first that failed."""

_REPEAT = """
import os, select, sys
launcher, seconds, line = sys.argv[1:]
ended = select.poll()
ended.register(int(launcher), select.POLLIN)
if ended.poll(1000 * int(seconds)):
    start = "\\n" if os.isatty(2) else ""
    os.write(2, (start + line + "\\n").encode(errors="surrogateescape"))
"""


def report(line: str, code: int) -> None:
    """Print the line with which a command ends, and again after the launcher's traceback.

    A stop (code > 128) is reported by one process of each machine.
    """
    if descriptor := os.environ.get(REPORT):
        # Writes of up to PIPE_BUF bytes are not mixed with those of other processes.
        shortened = line[: select.PIPE_BUF // 8]
        os.write(int(descriptor), json.dumps({"line": shortened, "code": code}).encode() + b"\n")
        return
    if code > 128 and os.environ.get("LOCAL_RANK", "0") != "0":
        return
    print_line(line, code)
    repeat_after_launcher(line)


def refuse(line: str) -> None:
    """Print the line of a refusal to stdout, and again after the launcher's traceback."""
    if os.environ.get(REPORT):
        report(line, 1)
        return
    print(line)
    repeat_after_launcher(line)


def repeat_after_launcher(line: str) -> None:
    """Write a line to stderr once the launcher has ended, if there is one that prints more.

    Of several processes the first one does: when it fails, the launcher sends SIGTERM to others.
    """
    parent = os.getppid()
    if sys.platform != "linux" or not prints_a_traceback(parent):
        return
    first = socket.socket(socket.AF_UNIX)
    try:
        first.bind(f"\0textloop-{parent}")  # bound until the process started below has ended
        launcher = os.pidfd_open(parent)
    except OSError:
        return
    first.set_inheritable(True)
    os.set_inheritable(launcher, True)
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", "-c", _REPEAT, str(launcher), str(WAIT_S), line],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        ],
        setsid=True,  # a second Ctrl-C is not for it
    )


def prints_a_traceback(pid: int) -> bool:
    """Return whether a process is a launcher that ends a failed command with a traceback."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    is_launcher = not LAUNCHERS.isdisjoint(Path(word).name for word in words[1:5])
    several = "TORCHELASTIC_RUN_ID" in os.environ  # there, --quiet has no effect
    return is_launcher and (several or QUIET.isdisjoint(words))
