"""Read rows from files, URLs, SQL databases and the Hub, one block at a time.

Defines the forms of `data.train`, `data.validation` and `data.test`; for how files are read, see
`serve.tables`, for what makes a row usable `train.data.rows`.

A remote file is downloaded completely before its first row is used, so a connection that breaks
half-way raises an error and never yields part of a data set.

`${NAME}` anywhere in a source stands for an environment variable. Passwords must be given this
way, because the configuration is stored in the bundle. Messages show the name, never the value.
"""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from serve.formats.options import ReadOptions, Say, format_of
from serve.tables import DEFAULTS, Row, blocks, open_rows
from train.data.addresses import Address, Unreadable, expand, explained, presentable

BLOCK_ROWS = 1024

_HUB = re.compile(
    r"hub:(?P<name>[^:@#]+)(?::(?P<config>[^@#]+))?(?:@(?P<revision>[^#]+))?#(?P<split>.+)"
)
_TABLE = re.compile(r"(?:(?P<schema>\w+)\.)?(?P<name>\w+)")


@dataclass(frozen=True, kw_only=True)
class Table:
    """An open source."""

    rows: Iterator[list[Row]]
    """Blocks of consecutive rows; raises SourceError if reading fails."""

    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By column, the names of integer labels, if the data set has them."""

    notes: list[str] = field(default_factory=list)
    """What was detected or left out; grows while rows are read."""


@contextlib.contextmanager
def open_source(
    source: str, *, cache_dir: Path, options: ReadOptions = DEFAULTS
) -> Iterator[Table]:
    """Open a source; see `DataConfig.train` for its forms.

    cache_dir: directory of temporary copies of remote files and of Hub data sets. options: how
    files are read. Raises SourceError, which is a ValueError, if the source cannot be read.
    """
    address = expand(source)
    notes: list[str] = []

    def say(note: str) -> None:
        notes.append(f"`{source}`: {presentable(note, address.values)}")

    with contextlib.ExitStack() as stack:
        with explained(address):
            if source.startswith("hub:"):
                table = _open_hub(address.text, cache_dir, stack)
            elif source.startswith("sql:"):
                table = _open_sql(address.text, stack)
            else:
                table = _open_file(address.text, cache_dir, options, say, stack)
        rows = _explained_rows(table, address)
        yield Table(rows=rows, class_names=table.class_names, notes=notes)


def _explained_rows(table: Table, address: Address) -> Iterator[list[Row]]:
    while True:
        with explained(address):
            block = next(table.rows, None)
        if block is None:
            return
        yield block


def _open_file(
    address: str, cache_dir: Path, options: ReadOptions, say: Say, stack: contextlib.ExitStack
) -> Table:
    path = Path(address)
    if "://" in address:
        suffix, compressed = format_of(address.partition("?")[0])
        path = _fetch(address, suffix + ".gz" * compressed, cache_dir, stack)
    with _in_own_words():
        opened = stack.enter_context(open_rows(path, options, say, named=False))
    names: dict[str, list[str]] = {}
    if described := opened.metadata.get(b"huggingface"):
        import datasets

        features = json.loads(described).get("info", {}).get("features") or {}
        names = _class_names(datasets.Features.from_dict(features))
    return Table(rows=_blocks(opened.rows), class_names=names)


def _blocks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    with _in_own_words():
        yield from blocks(rows, BLOCK_ROWS)


@contextlib.contextmanager
def _in_own_words() -> Iterator[None]:
    """Mark what `serve.tables` says about the rows of a file: it names no address."""
    try:
        yield
    except UnicodeError:
        raise
    except ValueError as error:
        raise Unreadable(str(error)) from None


def _fetch(url: str, suffix: str, cache_dir: Path, stack: contextlib.ExitStack) -> Path:
    """Download the file at a URL to a local copy, deleted when the stack unwinds."""
    from fsspec.core import url_to_fs

    options: dict[str, Any] = {"skip_instance_cache": True}
    if url.startswith(("http://", "https://")):
        import aiohttp

        # By default a download may take five minutes in total, whatever its size.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
        options["client_kwargs"] = {"timeout": timeout}
    try:
        files, path = url_to_fs(url, **options)
    except ImportError as error:
        extra = "pip install 'textloop[s3]'" if url.startswith("s3://") else "pip install it"
        raise Unreadable(f"{error}; {extra}") from None
    if url.startswith(("file://", "local://")):
        if not Path(path).is_file():
            raise Unreadable("there is no data file")
        return Path(path)
    cache_dir.mkdir(parents=True, exist_ok=True)
    copy = cache_dir / f".{uuid.uuid4().hex}{suffix}"
    stack.callback(copy.unlink, missing_ok=True)
    try:
        files.get_file(path, str(copy))
    except FileNotFoundError:
        raise Unreadable("there is no file at this URL") from None
    if not url.startswith(("http://", "https://")):  # the HTTP client checks the size itself
        size = files.info(path).get("size")
        if size is not None and size != copy.stat().st_size:
            raise Unreadable(f"incomplete download: received {copy.stat().st_size} of {size} bytes")
    return copy


def _open_hub(source: str, cache_dir: Path, stack: contextlib.ExitStack) -> Table:
    import datasets

    match = _HUB.fullmatch(source)
    if match is None:
        raise Unreadable("expected hub:OWNER/NAME#SPLIT, or hub:OWNER/NAME:CONFIG@REVISION#SPLIT")
    if Path(match["name"]).exists():
        # `datasets` knows local files by path and time, so it would give the rows of before.
        cache_dir.mkdir(parents=True, exist_ok=True)
        cache_dir = Path(stack.enter_context(TemporaryDirectory(dir=cache_dir)))
    return _table_of(
        datasets.load_dataset(
            match["name"],
            match["config"],
            revision=match["revision"],
            split=match["split"],
            cache_dir=str(cache_dir),
        )
    )


def _table_of(dataset: Any) -> Table:
    """Read a memory-mapped `datasets.Dataset`."""
    names = _class_names(dataset.features)
    rows = (
        [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        for batch in dataset.iter(BLOCK_ROWS)
    )
    return Table(rows=rows, class_names=names)


def _class_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    found = {}
    for column, feature in features.items():
        names = getattr(getattr(feature, "feature", feature), "names", None)
        if names:
            found[column] = list(names)
    return found


def _open_sql(address: str, stack: contextlib.ExitStack) -> Table:
    url, _, query = address.removeprefix("sql:").partition("#")
    if not url or not query.strip():
        raise Unreadable("expected sql:URL#QUERY or sql:URL#TABLE, with an SQLAlchemy URL")
    try:
        import sqlalchemy
    except ImportError:
        raise Unreadable("SQL sources need SQLAlchemy; pip install 'textloop[sql]'") from None
    target = sqlalchemy.make_url(url)
    file = target.database or ""
    if target.get_backend_name() == "sqlite" and not Path(file.partition("?")[0]).is_file():
        raise Unreadable("there is no database file at this path")  # SQLite would create one
    engine = sqlalchemy.create_engine(target, poolclass=sqlalchemy.NullPool, hide_parameters=True)
    stack.callback(engine.dispose)
    # The server runs the query once and sends rows as they are read.
    options = {"stream_results": True, "max_row_buffer": BLOCK_ROWS}
    connection = stack.enter_context(engine.connect()).execution_options(**options)
    if match := _TABLE.fullmatch(query.strip()):
        table = sqlalchemy.Table(
            match["name"],
            sqlalchemy.MetaData(),
            schema=match["schema"],
            autoload_with=connection,
        )
        result = connection.execute(table.select().order_by(*table.primary_key.columns))
    else:
        # text() would take `:30` in a time for a parameter name.
        result = connection.execute(sqlalchemy.text(query.replace(":", "\\:")))
    if not result.returns_rows:
        raise Unreadable("the query returns no rows; expected a SELECT")
    columns = list(result.keys())
    if twice := next((name for name in columns if columns.count(name) > 1), None):
        raise Unreadable(f"the query returns two columns `{twice}`; rename one with AS")
    rows = (
        [dict(zip(columns, values, strict=True)) for values in part]
        for part in result.partitions(BLOCK_ROWS)
    )
    return Table(rows=rows)
