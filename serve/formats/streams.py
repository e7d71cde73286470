"""Open a file as text: decompressed, decoded, in bounded memory.

Nothing is guessed: an encoding is taken from a byte order mark or from the user, and is UTF-8
otherwise. What a file seems to be instead is said in the error.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from serve.formats.options import ReadOptions, Say, format_of

HEAD_BYTES = 65_536
_BLOCK_BYTES = 1 << 18

_MAGIC = {
    b"\x1f\x8b": "gzip; give it a name that ends in .gz",
    b"PK\x03\x04": "a zip archive or an Excel workbook (.xlsx); export it as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook (.xls); export it as CSV",
    b"PAR1\x15": "Parquet; give it a name that ends in .parquet",
    b"version https://git-lfs": "a pointer of Git LFS; get the file with `git lfs pull`",
    b"BZh91AY&SY": "bzip2; decompress it first",
    b"(\xb5/\xfd": "Zstandard; decompress it first",
    b"\xfd7zXZ\x00": "xz; decompress it first",
    b"SQLite format 3\x00": "an SQLite database; use sql:sqlite:///FILE#TABLE",
    b"ARROW1": "an Arrow file; write it as Parquet",
    b"%PDF": "a PDF document",
    b"<!doctype html": "a page of HTML; was the download redirected to a login?",
    b"<html": "a page of HTML; was the download redirected to a login?",
}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class _Bounded(io.RawIOBase):
    """Bytes of another stream; refuses a line that is too long, before it is in memory."""

    def __init__(self, inner: Any, options: ReadOptions) -> None:
        self._inner, self._options = inner, options
        self._line_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count: int = self._inner.readinto(buffer)
        data = bytes(buffer[:count])
        end = max(data.rfind(b"\n"), data.rfind(b"\r"))
        self._line_bytes = count - end - 1 if end >= 0 else self._line_bytes + count
        if self._line_bytes > self._options.max_row_bytes:
            raise ValueError(too_long("a line", self._options))
        return count

    def close(self) -> None:
        self._inner.close()
        super().close()


def too_long(what: str, options: ReadOptions) -> str:
    """Return the message for a row over the limit."""
    limit_mb = options.max_row_bytes // 1_000_000
    advice = options.remedy("max_row_mb", str(2 * limit_mb), "split the file")
    return f"{what} is longer than {limit_mb} MB; {advice}"


def looks_like(head: bytes) -> str | None:
    """Return what the first bytes of a file show it to be, if that is no text."""
    start = head.lstrip()[:40]
    for magic, name in _MAGIC.items():
        if (start.lower() if magic.startswith(b"<") else start).startswith(magic):
            return name
    return "a tar archive; unpack it first" if head[257:262] == b"ustar" else None


def read_head(path: Path) -> bytes:
    """Return the first bytes of a file, decompressed."""
    with _open_bytes(path) as file:
        return file.read(HEAD_BYTES)


def _open_bytes(path: Path) -> IO[bytes]:
    if format_of(path)[1]:
        return gzip.open(path)  # type: ignore[return-value]
    return path.open("rb")


def pick_encoding(head: bytes, options: ReadOptions, say: Say) -> str:
    """Return the codec of a file. Raises ValueError for one that is not text."""
    marked = next((codec for mark, codec in _MARKS if head.startswith(mark)), None)
    if options.encoding:
        name = codecs.lookup(options.encoding).name
        if marked is None:
            _say_utf8(head, name, options, say)
            return name
        if not name.replace("-sig", "").startswith(marked.replace("-sig", "")):
            raise ValueError(
                f"the file has the byte order mark of {marked.replace('-sig', '').upper()}, but "
                f"{options.named('encoding')}={options.encoding}; remove it"
            )
        return marked  # the named codec would keep the mark as a character
    if marked:
        if marked != "utf-8-sig":
            say(f"read as {marked.upper()}, as its byte order mark says")
        return marked
    if what := looks_like(head):
        raise ValueError(f"the file looks like {what}")
    if head and not head.strip(b"\0"):
        raise ValueError("the file is damaged: it begins with zeros")
    sample = head[:4096].partition(b"\n")[0]  # a header or first row: zeros in a text are text
    zeros = [sample[start::2].count(0) for start in (0, 1)]
    if max(zeros) > len(sample) / 6 and min(zeros) < max(zeros) / 8:
        codec = "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
        advice = options.remedy("encoding", codec, "save it as UTF-8")
        raise ValueError(f"the file looks like UTF-16 without a byte order mark; {advice}")
    return "utf-8"


def _say_utf8(head: bytes, name: str, options: ReadOptions, say: Say) -> None:
    """Say that a file is not in the encoding that the user named, but in UTF-8."""
    if name.startswith("utf") or head.isascii():
        return
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return
    say(f"read as {options.encoding}, as {options.named('encoding')} says, but it is valid UTF-8")


def open_text(
    path: Path, encoding: str, options: ReadOptions, *, newline: str | None, bounded: bool = True
) -> IO[str]:
    """Open a file as text. newline: as for `open`. bounded: refuse lines that are too long."""
    source: Any = _open_bytes(path)
    if bounded:
        source = io.BufferedReader(_Bounded(source, options), _BLOCK_BYTES)
    return io.TextIOWrapper(source, encoding=encoding, newline=newline)


@contextmanager
def explained(path: Path, options: ReadOptions, *, named: bool) -> Iterator[None]:
    """Turn what can fail while a file is read into ValueError. named: begin with the path."""
    try:
        yield
        return
    except UnicodeDecodeError as error:
        reason = _wrong_byte(path, error.encoding, options) or str(error)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        reason = f"the gzip file is incomplete or damaged: {error}"
    except OSError as error:
        reason = error.strerror or str(error)
    except ValueError as error:
        reason = str(error)
    raise ValueError(f"`{path}`: {reason}" if named else reason)


def _wrong_byte(path: Path, encoding: str, options: ReadOptions) -> str | None:
    """Describe the first byte that is not of the encoding: its line, offset and likely meaning.

    The error of a text stream counts from the start of its last block.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    before = lines = 0
    with _open_bytes(path) as file:
        block = True
        while block:
            data = file.read(1 << 20)
            block = bool(data)
            pending = decoder.getstate()[0]
            try:
                decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                start, content = error.start, bytes(error.object)
                line = lines + content[:start].count(b"\n") + 1
                where = f"byte {before - len(pending) + start} is 0x{content[start]:02x}"
                name = encoding.removesuffix("-sig").upper()
                return f"line {line}: the file is not {name} ({where}){_advice(error, options)}"
            before += len(data)
            lines += data.count(b"\n")
    return None


def _advice(error: UnicodeDecodeError, options: ReadOptions) -> str:
    if options.encoding:
        return f"; {options.named('encoding')}={options.encoding} does not fit"
    if not error.encoding.startswith("utf-8"):
        return "; the file is damaged or incomplete, as its byte order mark names this encoding"
    content = bytes(error.object)
    if b"\n\0" in content or b"\0\n" in content:
        advice = options.remedy("encoding", "utf-16-le", "save it as UTF-8")
        return f"; if it is UTF-16 without a byte order mark, {advice}"
    before = content[max(0, error.start - 12) : error.start].rpartition(b"\n")[2]
    after = content[error.start : error.start + 12].partition(b"\n")[0]
    seen = (before + after).decode("cp1252", "replace").strip()
    advice = options.remedy("encoding", "cp1252", "save it as UTF-8")
    others = "; Excel also writes cp932 in Japan, gbk in China, cp1251 in Russia"
    return (
        f"; if it is cp1252 (Western Windows), where it says `{seen}`, {advice}"
        f"{others if options.key else ''}"
    )
