"""The journal of a run over a file: which rows are done, so that a stopped run can go on.

It lies next to the output as `OUTPUT.partial`. Its first line says what the answers depend on;
each further line is the answer to one row, with the row's position and a hash of what was
answered. Lines are written and synced in blocks. A run goes on after the last whole block, so
that it makes the same batches, and the same scores, as a run that was never stopped.

One run at a time: the journal is locked (`flock`) while it is open, and the kernel releases the
lock when the process ends, however it ends. The journal appears under its name with its first
line, so a file of that name without it belongs to someone else and is never touched.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import stat
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from serve.files import sync_directory

FORMAT = "textloop predict journal 1"
Answer = dict[str, Any]


class Journal:
    """An open, locked journal. `rows`: number of rows that are done."""

    def __init__(self, path: Path, file: BinaryIO, run: str) -> None:
        self.path = path
        self.rows = 0
        self.run = run
        """Hex digits that name this run; the same after it was stopped and started again."""
        self._file = file

    def append(self, parts: Sequence[Sequence[object]], answers: Sequence[Answer]) -> None:
        """Add a block of answers and sync it. parts: what was answered, per row."""
        last = len(answers) - 1
        lines = []
        for number, (part, answer) in enumerate(zip(parts, answers, strict=True)):
            record: dict[str, Any] = {"row": self.rows + number, "of": digest(part)}
            record |= {"answer": answer} if number < last else {"answer": answer, "end": True}
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.write("".join(lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows += len(answers)

    def answers(self) -> Iterator[tuple[str, Answer]]:
        """Yield the digest and the answer of each row that is done, in order."""
        with self.path.open("rb") as file:
            next(file)
            for number, line in enumerate(file):
                record = _record(line, number)
                if record is None:
                    raise self._damaged(number)
                yield record["of"], record["answer"]

    def remove(self) -> None:
        """Delete the file; the lock is held until the journal is closed."""
        self.path.unlink()

    def _recover(self, start: int) -> None:
        """Count the rows of whole blocks, and cut off what a stopped run left after them."""
        end = position = start
        number = 0
        self._file.seek(start)
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            record = _record(line, number)
            if record is None:
                raise self._damaged(number)
            number, position = number + 1, position + len(line)
            if record.get("end"):
                self.rows, end = number, position
        self._file.truncate(end)
        self._file.seek(end)

    def _damaged(self, number: int) -> ValueError:
        return ValueError(
            f"`{self.path}` is damaged at row {number + 1}; remove it to start from scratch"
        )


def digest(parts: Sequence[object]) -> str:
    """Return 64 bits of the SHA-256 of the texts that an answer is for, in hex."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


@contextmanager
def open_journal(path: Path, identity: dict[str, str]) -> Iterator[Journal]:
    """Start or resume the journal `path` and hold its lock.

    identity: what the answers depend on, by its name in messages. Raises ValueError if another
    process has the journal open, if the file is not a journal, and for a different identity.
    """
    with _locked(path, identity) as file:
        header = file.readline(1 << 16)
        values = _header(header)
        if values is None:
            raise ValueError(
                f"`{path}` is in the way: it is not a journal of this version of the command; "
                "move or remove it, or write to a different output"
            )
        was = values["identity"]
        if changed := [name for name in was | identity if was.get(name) != identity.get(name)]:
            changes = ", ".join(f"{n} (`{was.get(n)}`, now `{identity.get(n)}`)" for n in changed)
            raise ValueError(
                f"`{path}` belongs to a run with a different {changes}; repeat that run's "
                "command to finish it, or remove the file to start from scratch"
            )
        journal = Journal(path, file, values["run"])
        journal._recover(len(header))
        yield journal


def _header(line: bytes) -> dict[str, Any] | None:
    """Return the first line of a journal, or None if it is something else."""
    try:
        values: dict[str, Any] = json.loads(line)
        known = values["format"] == FORMAT and line.endswith(b"\n") and values["run"].isalnum()
        return values if known and isinstance(values["identity"], dict) else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _record(line: bytes, number: int) -> dict[str, Any] | None:
    """Return the record of row `number`, or None if the line is not one."""
    try:
        record = json.loads(line)
        same = record["row"] == number and isinstance(record["answer"], dict) and record["of"]
    except (ValueError, TypeError, KeyError):
        return None
    return record if same else None


def _locked(path: Path, identity: dict[str, str]) -> BinaryIO:
    """Open the journal `path` at its first line, locked; create it if it does not exist."""
    while True:
        try:
            # Neither follow a link nor wait for the writer of a pipe: both are not ours.
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            if created := _create(path, identity):
                return created
            continue
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise
            raise _not_a_file(path) from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise _not_a_file(path)
        file = os.fdopen(descriptor, "rb+")
        try:
            _lock(file, path)
            if _is_at(file, path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # another run finished in between and removed it


def _create(path: Path, identity: dict[str, str]) -> BinaryIO | None:
    """Create the journal with its first line, locked; None if the name is taken meanwhile."""
    run = uuid.uuid4().hex
    header = json.dumps({"format": FORMAT, "run": run, "identity": identity}) + "\n"
    temporary = path.with_name(f".{run}.tmp")
    file = temporary.open("xb+")
    try:
        _lock(file, path)
        file.write(header.encode())
        file.flush()
        os.fsync(file.fileno())
        os.link(temporary, path)  # unlike rename, fails if another process was faster
        sync_directory(path.parent)
        file.seek(0)
        return file
    except BaseException as error:
        file.close()
        if isinstance(error, FileExistsError):
            return None
        raise
    finally:
        temporary.unlink()


def _not_a_file(path: Path) -> ValueError:
    return ValueError(
        f"`{path}` is in the way: it is not a file; move or remove it, or write to a different "
        "output"
    )


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"another run is working on `{path}`; wait until it ends, or write to a different "
            "output"
        ) from None
    except OSError as error:
        raise OSError(error.errno, f"cannot lock the file ({error.strerror})", str(path)) from None


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is still the one at `path`."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    return False
