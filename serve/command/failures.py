"""Which exceptions are no bugs, each as one line with a remedy and an exit code.

What a user can mend is a ValueError, or an error of the operating system for a path that was
given, or a broken file: code 2. The machine (memory, disk) and the network: code 1. Libraries
raise these as exceptions of their own, which are known by name here, so that none is imported.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import re
from pathlib import Path
from traceback import walk_tb

MODULES = {
    "": "numpy pydantic pydantic_core yaml",
    "cpu": """
        fastapi fsspec httptools huggingface_hub litserve onnxruntime prometheus_client starlette
        tokenizers tqdm uvicorn
    """,
    "serve": "torch transformers",
    "parquet": "pyarrow",
    "otel": "opentelemetry",
    "sql": "sqlalchemy",
    "s3": "aiobotocore botocore s3fs",
    "mlflow": "alembic mlflow",
    "tensorboard": "PIL tensorboard",
    "qlora": "bitsandbytes",
    "tune": "optuna",
    "sklearn": "sklearn",
    "train": """
        accelerate aiohttp datasets evaluate ftfy httpx2 matplotlib onnx onnxscript peft safetensors
        scipy
    """,
}
"""Third-party modules that are imported, by the extra that installs them; '' for every extra."""

INCLUDED = {"serve": {"", "cpu"}, "train": {"", "cpu", "serve", "parquet"}}
"""Extras whose modules come with another one."""

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

_USABLE = "choose a path that this user may use"
_SPACE = "free space, or write to another disk"
REMEDIES = {
    errno.EACCES: _USABLE,
    errno.EPERM: _USABLE,
    errno.ENOENT: "check the path",
    errno.EISDIR: "name a file",
    errno.ENOTDIR: "choose a path below directories",
    errno.EROFS: "choose a path on a file system that is writable",
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EIO: "check the disk",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close programs: the machine has no open files left",
    errno.EAGAIN: "raise the limit on processes (ulimit -u)",
    errno.ENOMEM: "free memory",
    errno.EADDRINUSE: "choose another port",
}

MAX_MESSAGE = 600
"""Characters of a message of the machine or of a library."""

SMALLER = {
    "serve": "give smaller batches, or free memory",
    "train": "lower trainer.per_device_train_batch_size or model.max_length, or free memory",
}
"""Remedies for too little memory, by the extra of the command."""

_ALLOCATION = re.compile(
    r"DefaultCPUAllocator: |std::bad_alloc|CUDA out of memory|CUDA error: out of memory|"
    r"(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED|[Ff]ailed to allocate memory|bad allocation|"
    r"failed to map segment from shared object"
)
"""Exceptions of libraries for too little memory, which are no MemoryError."""

_OS_ERROR = re.compile(r"\(os error (\d+)\)|Os \{ code: (\d+)|[Ee]rrno (\d+)[\]:]")
"""Errors of the operating system within messages of safetensors, tokenizers and others."""

_TORCH_WRITER = re.compile(r"PytorchStreamWriter failed|inline_container\.cc:\d+\] \. unexpected")
"""The RuntimeError of `torch.save` for a file that cannot be written."""

_SQLITE = re.compile(r"SQLITE_(BUSY|CANTOPEN|CORRUPT|FULL|IOERR|NOTADB|READONLY)")
"""Names of SQLite's errors that are of the file and not of the statement."""

_BROKEN = {"BadZipFile", "InvalidProtobuf", "SafetensorError", "UnpicklingError"}
_BROKEN_TEXT = re.compile(r"PytorchStreamReader failed|Ran out of input|unexpected EOF")
"""Exceptions of libraries, by name or message, for the content of a file."""
_UNREADABLE = {"JSONDecodeError", "UnicodeDecodeError"}
"""Those that are ValueErrors, and do not name the file either."""


def explain(error: BaseException, extra: str) -> tuple[str, int] | None:
    """Return a message and the exit code for an error that is no bug, else None.

    extra: the extra of pyproject.toml that the command needs.
    """
    kind = type(error).__name__
    if isinstance(error, ValueError):
        file = _file_of(error) if kind in _UNREADABLE else None
        return (f"cannot read `{file}`: {error}" if file else str(error) or kind), 2
    if isinstance(error, ModuleNotFoundError):
        return _missing(error.name or "", extra)
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or _ALLOCATION.search(text):
        # NumPy's message begins, and PyTorch's goes on, with advice.
        start = found.start() if (found := _ALLOCATION.search(text)) else 0
        what = ". ".join(text[start:].split(". ")[:2]).rstrip(".") or "no memory is left"
        return f"out of memory: {what[:MAX_MESSAGE]}; {SMALLER[extra]}", 1
    text = text[:MAX_MESSAGE]
    if isinstance(error, OSError):
        if error.errno is None or not error.strerror:
            return text or kind, 1
        return explain_os(error), 2 if error.errno in CALLERS_MISTAKES else 1
    return _explain_library(error, text) or (
        explain(error.__cause__, extra) if error.__cause__ is not None else None
    )


def _explain_library(error: BaseException, text: str) -> tuple[str, int] | None:
    """Explain an exception that a library has for a failure of the machine or of a file."""
    kind = type(error).__name__
    if isinstance(error, RuntimeError) and text == "can't start new thread":
        return f"{text}; {REMEDIES[errno.EAGAIN]}", 1
    if found := _OS_ERROR.search(text):
        number = int(found[1] or found[2] or found[3])
        return explain_os(OSError(number, os.strerror(number), _file_of(error))), 1
    where = f"`{file}`: " if (file := _file_of(error)) else ""
    if _TORCH_WRITER.search(text):
        return f"cannot write a file: {where}{text}; {_SPACE}", 1
    if _SQLITE.match(getattr(error, "sqlite_errorname", "")):
        return f"the database cannot be used: {text}; check its file and its disk", 1
    if kind in _BROKEN or _BROKEN_TEXT.search(text):
        reason = text.partition(". ")[0]
        return f"{where}the file is broken or incomplete ({reason}); restore it, or remove it", 2
    return None


def explain_os(error: OSError) -> str:
    """Return one line for an error of the operating system, with its file and a remedy."""
    what = error.strerror or str(error)
    files = [f"`{name!s}`" for name in (error.filename, error.filename2) if name not in (None, "")]
    where = f": {' and '.join(files)}" if files else ""
    remedy = f"; {remedy}" if (remedy := REMEDIES.get(error.errno or 0)) else ""
    return f"{what[:1].lower()}{what[1:]}{where}{remedy}"


def _file_of(error: BaseException) -> str | None:
    """Return the file that the innermost function with one was called for.

    Exceptions of compiled libraries do not name it.
    """
    for frame, _ in reversed(list(walk_tb(error.__traceback__))):
        if frame.f_code.co_name == "<module>":  # its __file__ is no argument
            break
        for value in frame.f_locals.values():
            if isinstance(value, str | Path) and len(str(value)) < 4096 and os.path.isfile(value):
                return str(value)
    return None


def is_installed(module: str) -> bool:
    """Return whether a top-level module can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # one that is hidden, or half replaced
        return False


def _missing(module: str, extra: str) -> tuple[str, int] | None:
    """Name the extra of a module that is not installed; None for one that no extra has."""
    top = module.partition(".")[0]
    owner = next((each for each, names in MODULES.items() if top in names.split()), None)
    if owner is None or is_installed(top):
        return None
    if owner in INCLUDED[extra]:
        owner = extra
    return (
        f"`{top}` is not installed; this needs the {owner} extra: pip install 'textloop[{owner}]'",
        2,
    )
