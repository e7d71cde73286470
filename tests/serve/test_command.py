"""Commands end in one line and an exit code: failures of the machine, stops, streams, extras."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from processes import ROOT, run

from serve.__main__ import main
from serve.command.run import Refusal, run_command

Failure = Callable[[], Any]


def outcome(
    command: Failure, capsys: pytest.CaptureFixture[str], **options: Any
) -> tuple[int, str]:
    """Exit code of a command of training, and what it wrote to stderr: one line."""
    code = run_command(command, extra="train", goes_on=lambda: "go on", **options)
    line = capsys.readouterr().err
    assert line.count("\n") == 1, line
    return code, line


def raises(error: BaseException) -> Failure:
    def fail() -> NoReturn:
        raise error

    return fail


def system(number: int, *files: str) -> Failure:
    return raises(OSError(number, os.strerror(number), *files))


OutOfMemoryError = type("OutOfMemoryError", (RuntimeError,), {})

FAILURES = {
    "disk full": (system(errno.ENOSPC, "a"), "left on device: `a`; free space", 1),
    "quota": (system(errno.EDQUOT, "a"), "quota exceeded: `a`; free space", 1),
    "too many files": (system(errno.EMFILE, "a"), "too many open files: `a`; raise the", 1),
    "broken disk": (system(errno.EIO), "error: input/output error; check the disk", 1),
    "read-only": (system(errno.EROFS, "a"), "`a`; choose a path on a file system that", 2),
    "permission": (system(errno.EACCES, "a"), "permission denied: `a`; choose a path", 2),
    "two paths": (raises(OSError(errno.EISDIR, "Is", "a", None, "b")), "is: `a` and `b`", 2),
    "without number": (raises(OSError("no tokenizer")), "error: no tokenizer; go on", 1),
    "memory": (raises(MemoryError()), "out of memory: no memory is left; lower trainer.per", 1),
    "memory of the GPU": (
        raises(OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has")),
        "out of memory: CUDA out of memory. Tried to allocate 2 GiB; lower",
        1,
    ),
    "memory of cuBLAS": (
        raises(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x")),
        "out of memory: CUBLAS_STATUS_ALLOC_FAILED when",
        1,
    ),
    "memory for a library": (
        raises(ImportError("Read this. Original: failed to map segment from shared object")),
        "out of memory: failed to map segment",
        1,
    ),
    "threads": (raises(RuntimeError("can't start new thread")), "(ulimit -u); go on", 1),
    "value": (raises(ValueError("no `a`")), "error: no `a`\n", 2),
    "value without words": (raises(ValueError()), "error: ValueError\n", 2),
}


@pytest.mark.parametrize(("failure", "message", "code"), FAILURES.values(), ids=FAILURES)
def test_failure_of_the_surroundings_is_one_line(
    failure: Failure, message: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, line = outcome(failure, capsys)

    assert ended == code
    assert message in line


def broken(path: Path) -> Path:
    path.write_bytes(b"\xff\x00 garbage" * 9)
    return path


def save_tensors(_: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(999)}, "/dev/full/a")


def save_pickle(_: Path) -> None:
    import torch

    torch.save(torch.zeros(99_999), "/dev/full")


def load_tensors(directory: Path) -> None:
    from safetensors.torch import load_file

    load_file(broken(directory / "a.safetensors"))


def load_pickle(directory: Path) -> None:
    import torch

    torch.load(broken(directory / "a.pt"))


def load_json(directory: Path) -> None:
    from transformers import TrainerState

    (directory / "a.json").write_text("{")
    TrainerState.load_from_json(directory / "a.json")


def query(directory: Path) -> None:
    try:
        sqlite3.connect(broken(directory / "a.db")).execute("select 1 from a")
    except sqlite3.Error as error:
        raise RuntimeError("the study cannot be opened") from error


LIBRARIES = {
    "safetensors cannot write": (save_tensors, "not a directory", 1),
    "torch cannot write": (save_pickle, "cannot write a file: ", 1),
    "safetensors of garbage": (load_tensors, "a.safetensors`: the file is broken", 2),
    "pickle of garbage": (load_pickle, "a.pt`: the file is broken", 2),
    "JSON of garbage": (load_json, "a.json`: Expecting property name", 2),
    "database of garbage": (query, "the database cannot be used: file is not a database", 1),
}


@pytest.mark.parametrize(("use", "message", "code"), LIBRARIES.values(), ids=LIBRARIES)
def test_failure_within_a_library_is_one_line_that_names_the_file(
    use: Callable[[Path], None],
    message: str,
    code: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ended, line = outcome(lambda: use(tmp_path), capsys)

    assert ended == code
    assert message in line


def hide_a_bug() -> None:
    try:
        Path("/none").read_text()
    except OSError:
        {}["a"]


@pytest.mark.parametrize(
    "bug", [raises(RuntimeError("shape is invalid")), raises(TypeError("a")), hide_a_bug]
)
def test_a_bug_keeps_its_traceback(bug: Failure) -> None:
    with pytest.raises((RuntimeError, TypeError, KeyError)):
        run_command(bug, extra="serve", goes_on=str)


@pytest.mark.parametrize(
    ("module", "extra", "named"),
    [
        ("torch", "serve", "serve"),
        ("torch", "train", "train"),
        ("pyarrow", "serve", "parquet"),
        ("pyarrow", "train", "train"),
        ("optuna", "train", "tune"),
        ("opentelemetry.sdk", "serve", "otel"),
        ("pydantic", "serve", "serve"),
    ],
)
def test_a_missing_module_names_the_line_that_installs_its_extra(
    module: str,
    extra: str,
    named: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, module.partition(".")[0], None)

    code = run_command(raises(ModuleNotFoundError(name=module)), extra=extra, goes_on=str)

    assert code == 2
    assert f"pip install 'textloop[{named}]'\n" in capsys.readouterr().err


def test_a_missing_module_of_no_extra_is_a_bug() -> None:
    with pytest.raises(ModuleNotFoundError):
        run_command(raises(ModuleNotFoundError(name="serve.tabels")), extra="serve", goes_on=str)


def test_a_key_needs_no_extra() -> None:
    code = (
        "import sys; sys.modules |= dict.fromkeys(['numpy', 'prometheus_client', 'pydantic']);"
        "from serve.__main__ import main; sys.exit(main(['key', '--name', 'a']))"
    )

    assert run("-c", code).returncode == 0


def test_a_mistake_in_an_argument_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--bundle"]) == 2

    error = capsys.readouterr().err
    assert (
        error == "error: argument --bundle: expected one argument; see python -m serve run --help\n"
    )


PRINTS = """
import sys, time
from serve.command.run import run_command
def command():
    held = open("/dev/null")
    print("label \\U0001f389")
    for n in range(20_000):
        print(n)
    print("done", held.fileno(), file=sys.stderr)
    return 0
sys.exit(run_command(command, extra="serve", goes_on=str))
"""


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash, in which `$run` is a command that prints."""
    variables = {"run": f"{sys.executable} -c '{PRINTS.replace(chr(39), '')}'"}
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line.replace('$run', variables['run'])}"],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1:strict"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
    ids=str,
)
def test_output_takes_any_character(environment: dict[str, str]) -> None:
    done = shell("$run", **environment)

    assert done.returncode == 0
    assert done.stdout.startswith(b"label \\U0001f389\n0\n1\n")


def test_the_work_goes_on_without_a_reader() -> None:
    done = shell("$run | head -1")

    assert (done.returncode, done.stderr[:5]) == (0, b"done ")
    assert done.stdout.count(b"\n") == 1


@pytest.mark.parametrize("closed", [">&-", ">&- <&-", "<&-"])
def test_no_file_takes_the_place_of_a_closed_stream(closed: str) -> None:
    done = shell(f"$run {closed}")

    assert done.returncode == 0
    assert int(done.stderr.split()[1]) > 2


def test_without_any_stream_the_exit_code_is_that_of_the_command() -> None:
    assert shell("$run <&- >&- 2>&-").returncode == 0


def test_a_full_disk_at_stdout_is_named() -> None:
    done = shell("$run > /dev/full")

    assert done.returncode == 1
    assert (
        done.stderr == b"error: no space left on device: `<stdout>`; free space, or write to "
        b"another disk\n"
    )


WAITS = """
import sys, time
from serve.command.run import run_command
def command():
    print("started")
    exec("time.sleep(60)", {"time": time})  # an interrupt may pass through one, as in dataclasses
sys.exit(run_command(command, extra="serve", goes_on=lambda: "go on so"))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_says_how_to_go_on(number: int, code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(number)

    _, errors = process.communicate(timeout=30)

    assert (process.returncode, errors) == (code, "stopped; go on so\n")


def test_a_stop_during_the_report_of_a_mistake_changes_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def report(line: str, code: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # as the parent does once another process ended
        print(f"{line} ({code})")

    def refuse(line: str) -> None:
        report(line, 1)

    for raised, code, line in (
        (ValueError("no column `a`"), 2, "error: no column `a` (2)\n"),
        (Refusal("worse"), 1, "refused: worse (1)\n"),
    ):
        found = run_command(
            raises(raised), extra="serve", goes_on=str, report=report, refuse=refuse
        )
        assert (found, capsys.readouterr().out) == (code, line)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
