"""Training in several processes of this machine: `textloop fit --processes N`.

The processes get the environment that torchrun gives them, as under `accelerate launch`, which
also covers several machines and sharding. In its place this starts at once, prints nothing of its
own, and ends with the exit code and the line of the process that failed first.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from serve.command.run import print_line
from train.launcher import REPORT

if TYPE_CHECKING:
    from train.config.run import RunConfig

END_S = 30
"""Seconds from SIGTERM to SIGKILL when processes are ended."""

Process = subprocess.Popen[bytes]

_INSTALLED = Path(__file__).resolve().parents[1]


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add the number of processes."""
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="train in N processes, one per GPU; default: in this process",
    )


def launch_processes(command: str, config: RunConfig, arguments: argparse.Namespace) -> int:
    """Run a command of training in several processes; return the exit code of the first to fail.

    Raises ValueError for a number of processes that cannot be.
    """
    check_number(arguments.processes, use_cpu=bool(config.trainer.get("use_cpu")))
    words = [command, *(["--config", str(arguments.config)] if arguments.config else [])]
    words += ["--fresh"] if arguments.fresh else []
    words += ["--device", arguments.device] if "device" in vars(arguments) else []
    reading, writing = os.pipe()
    try:
        call = [*words, *arguments.overrides]
        with running(call, arguments.processes, reports_to=writing) as started:
            failure = first_failure(started, reading)
    finally:
        os.close(reading)
        os.close(writing)
    if failure is None:
        return 0
    line, code = failure
    print_line(line, code)
    return code


def check_number(processes: int, *, use_cpu: bool) -> None:
    """Raise ValueError for fewer processes than one, or more than there are GPUs, if there are."""
    if processes < 1:
        raise ValueError(f"--processes {processes}: give at least 1")
    if "LOCAL_RANK" in os.environ:
        raise ValueError(
            "--processes is for a command that no launcher started; this one runs under "
            "`accelerate launch` or torchrun, which has a number of processes of its own"
        )
    import torch

    gpus = 0 if use_cpu else torch.cuda.device_count()
    if 0 < gpus < processes:
        raise ValueError(
            f"--processes {processes}: there are {gpus} GPUs, one per process; lower it, or "
            "set trainer.use_cpu=true"
        )


@contextmanager
def running(call: Sequence[str], processes: int, *, reports_to: int) -> Iterator[list[Process]]:
    """Start the processes of a call, and end those that are left at the end of the block.

    reports_to: file descriptor for the lines with which they end.
    """
    # The folder that a command is called in is no place to import from, unless this code is there.
    isolated = [] if Path.cwd() == _INSTALLED else ["-P"]
    command = [sys.executable, *isolated, "-m", "textloop", *call]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        REPORT: str(reports_to),
    }
    started: list[Process] = []
    try:
        for rank in map(str, range(processes)):
            environment = os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank}
            started.append(subprocess.Popen(command, env=environment, pass_fds=[reports_to]))
        yield started
    finally:
        end(started)


def first_failure(processes: Sequence[Process], reports: int) -> tuple[str, int] | None:
    """Wait until a process has failed: return its last line and its exit code; None if all ended.

    A line comes before its process has exited, so that the others are ended before they notice
    that its connections are closed, and print tracebacks.
    """
    while True:
        if select.select([reports], [], [], 0.1)[0]:
            report = json.loads(os.read(reports, select.PIPE_BUF).partition(b"\n")[0])
            return report["line"], report["code"]
        codes = [each.poll() for each in processes]
        if code := next(filter(None, codes), None):
            what = f"signal {-code}" if code < 0 else f"code {code}"
            return (
                f"error: a process of the training ended with {what}",
                128 - code if code < 0 else code,
            )
        if None not in codes:
            return None


def end(processes: Sequence[Process]) -> None:
    """End the processes that are running: SIGTERM, then SIGKILL after END_S."""
    for each in processes:
        if each.poll() is None:
            each.terminate()
    deadline = time.monotonic() + END_S
    for each in processes:
        try:
            each.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            each.kill()
            each.wait()


def free_port() -> int:
    """Return a TCP port of this machine that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
