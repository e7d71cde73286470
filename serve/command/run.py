"""How a command ends: its exit code, and one line on stderr for what is no bug of ours.

0 done; 1 refused, or the machine failed (memory, disk); 2 the caller's mistake; 130 and 143
stopped by Ctrl-C and SIGTERM. Any other exception is a bug, and keeps its traceback.

Imports the standard library only, so that a command without its extra gets this far.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from serve.command.failures import explain
from serve.language.spelling import did_you_mean


class Refusal(Exception):
    """A command decides, with reasons, not to do what it was asked to do: exit code 1."""


class CommandParser(argparse.ArgumentParser):
    """A parser that takes options between overrides, and raises ValueError for a mistake."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Add the overrides that follow an option, which argparse leaves over."""
        namespace, rest = super().parse_known_args(args, namespace)
        if "overrides" in vars(namespace):
            options = [each for each in rest if each.startswith("-")]
            namespace.overrides += [each for each in rest if each not in options]
            rest = options
        return namespace, rest

    def error(self, message: str) -> NoReturn:
        """Raise ValueError: the usage is pages long, and would be read last."""
        hint = ""
        if found := re.match(r"unrecognized arguments: (-[\w-]+)", message):
            hint = did_you_mean(found[1], self._option_string_actions)
        raise ValueError(f"{message}{hint}; see {self.prog} --help")


def print_line(line: str, code: int) -> None:
    """Print the line with which a command ends to stderr."""
    with suppress(OSError):  # the exit code still tells
        print(line, file=sys.stderr, flush=True)


def run_command(
    command: Callable[[], int],
    *,
    extra: str,
    goes_on: Callable[[], str],
    report: Callable[[str, int], None] = print_line,
    refuse: Callable[[str], None] = print,
) -> int:
    """Run a command and return its exit code; failures that are no bugs become one line.

    extra: the extra of pyproject.toml that commands of this kind need. goes_on: how a command
    that was stopped is continued, called then; '' if there is nothing to say. report: prints
    the line, which ends a command with that exit code. refuse: prints that of a refusal.
    """
    prepare_streams()
    ended_by = signal.SIGINT
    is_reporting = False
    process = os.getpid()

    def stop(number: int, frame: object) -> None:
        nonlocal ended_by
        if os.getpid() != process:  # a worker, forked from here, that is being ended
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if is_reporting:  # ends by itself, with the line that says why
            return
        ended_by = signal.SIGTERM
        raise KeyboardInterrupt

    def run() -> int:
        nonlocal is_reporting
        try:
            return command()
        except Refusal as refusal:
            is_reporting = True
            refuse(f"refused: {refusal}")
            return 1
        except Exception as error:
            is_reporting = True
            explained = explain(error, extra)
            if explained is None:
                raise
            message, code = explained
            unfinished = code == 1 or isinstance(error, OSError)
            report(_joined(f"error: {message}", goes_on if unfinished else str), code)
            return code

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        return run()
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second one ends without a traceback
            signal.signal(number, signal.SIG_DFL)
        # An interrupt that came through an exec() of a string, as in dataclasses, would end
        # Python by SIGINT whatever the exit code; the next exec() forgets it.
        exec("")
        report(_joined("stopped", goes_on), 128 + ended_by)
        return 128 + ended_by
    finally:
        if signal.getsignal(signal.SIGTERM) is stop:  # a server ends with its own
            signal.signal(signal.SIGTERM, previous)
        flush_streams()


def _joined(line: str, goes_on: Callable[[], str]) -> str:
    """Return the line with how the command is continued, as far as that can be read."""
    try:
        return "; ".join(filter(None, [line, goes_on()]))
    except OSError:
        return line


class _Unread(io.FileIO):
    """A stream without a reader, such as `| head`, drops what is written: the work goes on."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(memoryview(data).cast("B"))
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"<{NAMES[self.fileno()]}>") from None


NAMES = {1: "stdout", 2: "stderr"}
"""Standard streams that are written, by file descriptor."""


def prepare_streams() -> None:
    """Make stdout and stderr take any character, whether they are closed or lose their reader.

    stdout is written line by line, so that progress reaches a pipe or a log.
    """
    for number in range(3):  # the next file opened would take the place of a closed stream
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for number, name in NAMES.items():
        stream = getattr(sys, name)
        if stream is None or (
            stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper)
        ):
            encoding = "utf-8" if stream is None else stream.encoding
            raw = _Unread(number, "w", closefd=False)
            stream = io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
        setattr(sys, name, stream)


def flush_streams() -> None:
    """Write what is left; a stream that fails is dropped, or Python would exit with 120."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
