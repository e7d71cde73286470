"""Where rows come from: files, URLs, SQL databases and the Hub, one block of rows at a time.

Decides the forms of `data.train`, `data.validation` and `data.test`. What a usable row is, is
`train.data.rows`' matter. Every value is kept as it is written: no "NA" becomes missing and no
"007" becomes 7.

A source at a URL is copied to the disk whole before its first row is used, so that a
connection that breaks half-way gives an error and no half of a data set.

`${NAME}` anywhere in a source stands for an environment variable. Passwords must be written
so: the configuration goes into the bundle. Messages hold the name and never the value.
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from serve.tables import Row, blocks, parse_rows

BLOCK_ROWS = 1024
FORMATS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")

_HUB = re.compile(
    r"hub:(?P<name>[^:@#]+)(?::(?P<config>[^@#]+))?(?:@(?P<revision>[^#]+))?#(?P<split>.+)"
)
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_USER = re.compile(r"^(?:sql:)?[\w+.-]+://(?P<user>[^/\s]*)@")
_PASSWORD = re.compile(r"^[^:]*:(?P<password>.+)$")
_TABLE = re.compile(r"(?:(?P<schema>\w+)\.)?(?P<name>\w+)")


class SourceError(ValueError):
    """A source that cannot be read; the message is whole and holds no secret."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """An open source."""

    rows: Iterator[list[Row]]
    """Blocks of consecutive rows; raises SourceError where the reading fails."""

    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By column, the names behind integer labels where the data set brings them."""


@contextlib.contextmanager
def open_source(source: str, *, cache_dir: Path) -> Iterator[Table]:
    """Open a source; see `DataConfig.train` for its forms.

    cache_dir: where copies of remote files lie while they are read, and data sets of the Hub.
    Raises SourceError, which is a ValueError, for one that cannot be read.
    """
    address, secrets = expand(source)
    with contextlib.ExitStack() as stack:
        with _explained(source, secrets):
            if source.startswith("hub:"):
                table = _open_hub(source, cache_dir)
            elif source.startswith("sql:"):
                table = _open_sql(address, stack)
            else:
                table = _open_file(address, cache_dir, stack)
        yield Table(rows=_explained_rows(table, source, secrets), class_names=table.class_names)


def expand(source: str) -> tuple[str, dict[str, str]]:
    """The source with its variables replaced, and what must not be printed: value to name.

    A value between `://` and `@` is percent-encoded, so that a password may hold any character.
    Raises SourceError for a variable that is not set, and for a password in plain sight.
    """
    user = _USER.match(source)
    start, end = user.span("user") if user else (0, 0)
    password = _PASSWORD.match(source[start:end])
    if password and not _VARIABLE.search(password["password"]):
        hidden = source[: start + password.start("password")] + "***" + source[end:]
        raise SourceError(
            f"`{hidden}` holds a password, and the configuration goes into the bundle; "
            "put it into an environment variable and write ${NAME} in its place"
        )
    secrets: dict[str, str] = {}

    def value_of(match: re.Match[str]) -> str:
        value = os.environ.get(match[1])
        if not value:
            raise SourceError(f"`{source}`: the environment variable {match[1]} is not set")
        encoded = quote(value, safe="")
        secrets[value] = secrets[encoded] = match[0]
        return encoded if start <= match.start() < end else value

    return _VARIABLE.sub(value_of, source), secrets


@contextlib.contextmanager
def _explained(source: str, secrets: Mapping[str, str]) -> Iterator[None]:
    """Any failure as a SourceError that names the source and hides the secrets."""
    try:
        yield
    except Exception as error:
        cause = error.__cause__ or error
        reason = (str(cause).strip().splitlines() or [""])[0]
        known = isinstance(error, ValueError) and not isinstance(error, UnicodeError)
        if not known or not reason:
            reason = f"{type(cause).__name__}: {reason}"
        for secret in sorted(secrets, key=len, reverse=True):
            reason = reason.replace(secret, secrets[secret])
    else:
        return
    # The error itself may hold a password, so it is not shown as the cause.
    raise SourceError(f"cannot read `{source}`: {reason}") from None


def _explained_rows(table: Table, source: str, secrets: Mapping[str, str]) -> Iterator[list[Row]]:
    while True:
        with _explained(source, secrets):
            block = next(table.rows, None)
        if block is None:
            return
        yield block


def _open_file(address: str, cache_dir: Path, stack: contextlib.ExitStack) -> Table:
    suffix = Path(address.partition("?")[0]).suffix
    if suffix not in FORMATS:
        raise ValueError(f"unknown format, expected {', '.join(FORMATS)}")
    if "://" in address:
        path = _fetch(address, suffix, cache_dir, stack)
    else:
        path = Path(address)
        if not path.is_file():
            raise ValueError("there is no data file")
    if suffix == ".json":
        import datasets

        files = {"data_files": str(path), "split": "train", "cache_dir": str(cache_dir)}
        return _table_of(datasets.load_dataset("json", **files))
    if suffix == ".parquet":
        return _open_parquet(path, stack)
    return Table(rows=blocks(parse_rows(path), BLOCK_ROWS))


def _open_parquet(path: Path, stack: contextlib.ExitStack) -> Table:
    import pyarrow.parquet as parquet

    file = stack.enter_context(parquet.ParquetFile(path))
    names: dict[str, list[str]] = {}
    if b"huggingface" in (file.schema_arrow.metadata or {}):
        import datasets

        names = _class_names(datasets.Features.from_arrow_schema(file.schema_arrow))
    rows = (batch.to_pylist() for batch in file.iter_batches(batch_size=BLOCK_ROWS))
    return Table(rows=rows, class_names=names)


def _fetch(url: str, suffix: str, cache_dir: Path, stack: contextlib.ExitStack) -> Path:
    """A local copy of the whole file at a URL, deleted when the stack unwinds."""
    from fsspec.core import url_to_fs

    options: dict[str, Any] = {"skip_instance_cache": True}
    if url.startswith(("http://", "https://")):
        import aiohttp

        # The default gives a download five minutes in all, however large it is.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
        options["client_kwargs"] = {"timeout": timeout}
    try:
        files, path = url_to_fs(url, **options)
    except ImportError as error:
        extra = "pip install 'textloop[s3]'" if url.startswith("s3://") else "pip install it"
        raise ValueError(f"{error}; {extra}") from None
    if url.startswith(("file://", "local://")):
        if not Path(path).is_file():
            raise ValueError("there is no data file")
        return Path(path)
    cache_dir.mkdir(parents=True, exist_ok=True)
    copy = cache_dir / f".{uuid.uuid4().hex}{suffix}"
    stack.callback(copy.unlink, missing_ok=True)
    try:
        files.get_file(path, str(copy))
    except FileNotFoundError:
        raise ValueError("there is no file at this address") from None
    if not url.startswith(("http://", "https://")):  # there the client itself counts the bytes
        size = files.info(path).get("size")
        if size is not None and size != copy.stat().st_size:
            raise ValueError(f"{copy.stat().st_size} of {size} bytes came")
    return copy


def _open_hub(source: str, cache_dir: Path) -> Table:
    import datasets

    match = _HUB.fullmatch(source)
    if match is None:
        raise ValueError(
            "expected hub:OWNER/NAME#SPLIT, or in full hub:OWNER/NAME:CONFIG@REVISION#SPLIT"
        )
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
    """A memory-mapped `datasets.Dataset`."""
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
        raise ValueError("expected sql:URL#QUERY or sql:URL#TABLE, with a URL of SQLAlchemy's")
    try:
        import sqlalchemy
    except ImportError:
        raise ValueError("SQL needs SQLAlchemy; pip install 'textloop[sql]'") from None
    target = sqlalchemy.make_url(url)
    file = target.database or ""
    if target.get_backend_name() == "sqlite" and not Path(file.partition("?")[0]).is_file():
        raise ValueError(f"there is no database file at `{file}`")  # SQLite would make one
    engine = sqlalchemy.create_engine(target, poolclass=sqlalchemy.NullPool, hide_parameters=True)
    stack.callback(engine.dispose)
    # On the server the query is run once; its rows come as they are asked for.
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
        # text() would take `:30` of a time for the name of a parameter.
        result = connection.execute(sqlalchemy.text(query.replace(":", "\\:")))
    if not result.returns_rows:
        raise ValueError("the query gives no rows; expected a SELECT")
    columns = list(result.keys())
    if twice := next((name for name in columns if columns.count(name) > 1), None):
        raise ValueError(f"the query gives two columns `{twice}`; name one with AS")
    rows = (
        [dict(zip(columns, values, strict=True)) for values in part]
        for part in result.partitions(BLOCK_ROWS)
    )
    return Table(rows=rows)
