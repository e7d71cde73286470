"""How a command ends: its exit code, and one line on stderr for what is no bug of ours.

0 done; 1 refused, or the machine failed (memory, disk); 2 the caller's mistake; 130 and 143
stopped by Ctrl-C and SIGTERM. Any other exception is a bug, and keeps its traceback.

Imports the standard library only, so that a command without its extra gets this far.
"""

from __future__ import annotations

import argparse
import errno
import importlib.util
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

MODULES = {
    "serve": """
        fastapi httptools litserve onnxruntime prometheus_client starlette tokenizers torch tqdm
        transformers uvicorn
    """,
    "parquet": "pyarrow",
    "otel": "opentelemetry",
    "sql": "sqlalchemy",
    "s3": "botocore s3fs",
    "mlflow": "mlflow",
    "tensorboard": "PIL tensorboard",
    "qlora": "bitsandbytes",
    "tune": "optuna",
    "train": """
        accelerate datasets evaluate fsspec ftfy httpx2 huggingface_hub matplotlib onnx onnxscript
        peft safetensors scipy
    """,
}
"""Third-party modules that are imported, by the extra that installs them; the rest is core."""

EXTRAS = {module: extra for extra, modules in MODULES.items() for module in modules.split()}

IN_TRAIN = {"serve", "parquet"}
"""Extras that `train` includes."""

CALLERS_MISTAKES = {
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENOTEMPTY,
    errno.EPERM,
    errno.EROFS,
}
"""Errors of the operating system for a path that was given; the others are of the machine."""

REMEDIES = {
    errno.EACCES: "choose a path that this user may use",
    errno.EPERM: "choose a path that this user may use",
    errno.EROFS: "choose a path on a file system that is writable",
    errno.ENOSPC: "free space, or write to another disk",
    errno.EDQUOT: "free space, or write to another disk",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENOMEM: "free memory",
}

MAX_MESSAGE = 600
"""Characters of a message of the machine or of a library."""


class CommandParser(argparse.ArgumentParser):
    """A parser that takes options between overrides, and raises ValueError for a mistake."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Add the overrides that follow an option, which argparse leaves over."""
        namespace, rest = super().parse_known_args(args, namespace)
        if "overrides" in vars(namespace) and not any(each.startswith("-") for each in rest):
            namespace.overrides = [*namespace.overrides, *rest]
            rest = []
        return namespace, rest

    def error(self, message: str) -> NoReturn:
        """Raise ValueError: the usage is pages long, and would be read last."""
        raise ValueError(f"{message}; see {self.prog} --help")


def print_line(line: str, code: int) -> None:
    """Print the line with which a command ends to stderr."""
    print(line, file=sys.stderr, flush=True)


def run_command(
    command: Callable[[], int],
    *,
    extra: str,
    goes_on: Callable[[], str] = str,
    report: Callable[[str, int], None] = print_line,
) -> int:
    """Run a command and return its exit code; failures that are no bugs become one line.

    extra: the extra of pyproject.toml that commands of this kind need. goes_on: how a command
    that was stopped is continued, called then; '' if there is nothing to say. report: prints
    the line, which ends a command with that exit code.
    """
    prepare_streams()
    ended_by = signal.SIGINT
    process = os.getpid()

    def stop(number: int, frame: object) -> None:
        nonlocal ended_by
        if os.getpid() != process:  # a worker, forked from here, that is being ended
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        ended_by = signal.SIGTERM
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        return command()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends without a traceback
        report("; ".join(filter(None, ["stopped", goes_on()])), 128 + ended_by)
        return 128 + ended_by
    except Exception as error:
        explained = explain(error, extra)
        if explained is None:
            raise
        message, code = explained
        hint = goes_on() if code == 1 else ""
        report("; ".join(filter(None, [f"error: {message}", hint])), code)
        return code
    finally:
        if signal.getsignal(signal.SIGTERM) is stop:  # a server ends with its own
            signal.signal(signal.SIGTERM, previous)
        flush_streams()


def explain(error: Exception, extra: str) -> tuple[str, int] | None:
    """Return a message and the exit code for an error that is no bug, else None."""
    if isinstance(error, ValueError):
        return str(error), 2
    if isinstance(error, ModuleNotFoundError):
        return _missing(error.name or "", extra)
    text = " ".join(str(error).split())[:MAX_MESSAGE]
    kind = type(error).__name__
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or _ALLOCATION.search(text):
        # PyTorch's message goes on with advice about its allocator.
        what = ". ".join(text.split(". ")[:2]) or "no memory is left"
        return f"out of memory: {what}; give smaller batches, or free memory", 1
    if isinstance(error, OSError) and error.errno is not None:
        return explain_os(error), 2 if error.errno in CALLERS_MISTAKES else 1
    if isinstance(error, OSError):
        return text or kind, 1
    if found := _OS_ERROR.search(text):
        number = int(found[1] or found[2])
        return explain_os(OSError(number, os.strerror(number))), 1
    if _TORCH_WRITER.search(text):
        return f"cannot write a file: {text}; {REMEDIES[errno.ENOSPC]}", 1
    return None


_ALLOCATION = re.compile(r"DefaultCPUAllocator: (can't|not enough)")
"""PyTorch's RuntimeError for memory of the CPU."""

_OS_ERROR = re.compile(r"I/O error: .*\(os error (\d+)\)|IoError\(Os \{ code: (\d+)")
"""Errors of the operating system from safetensors and tokenizers, which are no OSError."""

_TORCH_WRITER = re.compile(r"PytorchStreamWriter failed|inline_container\.cc:\d+\] \. unexpected")
"""The RuntimeError of `torch.save` for a file that cannot be written."""


def explain_os(error: OSError) -> str:
    """Return one line for an error of the operating system, with its file and a remedy."""
    what = error.strerror or str(error)
    where = f": `{error.filename}`" if error.filename else ""
    remedy = f"; {remedy}" if (remedy := REMEDIES.get(error.errno or 0)) else ""
    return f"{what[:1].lower()}{what[1:]}{where}{remedy}"


def _missing(module: str, extra: str) -> tuple[str, int] | None:
    """Name the extra of a module that is not installed; None for one that no extra has."""
    top = module.partition(".")[0]
    owner = EXTRAS.get(top)
    if owner is None or importlib.util.find_spec(top) is not None:
        return None
    if extra == "train" and owner in IN_TRAIN:
        owner = "train"
    return (
        f"`{top}` is not installed; this needs the {owner} extra: pip install 'textloop[{owner}]'",
        2,
    )


class _Unread(io.FileIO):
    """A stream without a reader, such as `| head`, drops what is written: the work goes on."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(memoryview(data).cast("B"))


def prepare_streams() -> None:
    """Make stdout and stderr take any character, whether they are closed or lose their reader.

    stdout is written line by line, so that progress reaches a pipe or a log.
    """
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller, but libraries write to it
            stream = open(os.devnull, "w")  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            stream.flush()
            raw = _Unread(number, "w", closefd=False)
            stream = io.TextIOWrapper(io.BufferedWriter(raw), encoding=stream.encoding)
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
