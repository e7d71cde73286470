"""Read and write the rows of Parquet files; needs pyarrow (extra `parquet`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from serve.formats.options import Opened, ReadOptions, Row
from serve.formats.streams import looks_like
from serve.language.lines import first_line

BATCH_ROWS = 1024
_WRITTEN_ROWS = 8192


def require_pyarrow() -> None:
    """Raise ValueError that says how to install pyarrow if it is not."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise ValueError("Parquet needs pyarrow; pip install 'textloop[parquet]'") from None


def open_parquet(path: Path, options: ReadOptions, stack: ExitStack) -> Opened:
    """Open a Parquet file until the stack unwinds.

    Raises ValueError for a file of another format, and for a used column that appears twice.
    """
    require_pyarrow()
    import pyarrow.parquet as parquet

    with path.open("rb") as file:
        head = file.read(1024)
    if not head:
        raise ValueError("the file is empty, expected Parquet")
    if not head.startswith((b"PAR1", b"PARE")):
        what = looks_like(head)
        seems = f"it looks like {what}" if what else "it does not begin with PAR1"
        raise ValueError(f"this is no Parquet file: {seems}")
    opened = stack.enter_context(parquet.ParquetFile(path))
    schema = opened.schema_arrow
    counts = Counter(schema.names)
    used = options.used
    twice = [name for name, n in counts.items() if n > 1 and (used is None or name in used)]
    if twice:
        raise ValueError(f"the file has two columns `{twice[0][:40]}`; rename one")
    columns = [name for name in schema.names if counts[name] == 1]
    batches = opened.iter_batches(batch_size=BATCH_ROWS)
    positions = [schema.names.index(name) for name in columns]
    return Opened(
        columns=columns,
        rows=_rows(batches, positions, columns),
        metadata=dict(schema.metadata or {}),
    )


def _rows(batches: Iterable[Any], positions: list[int], names: list[str]) -> Iterator[Row]:
    number = 0
    for batch in batches:
        columns = []
        for position, name in zip(positions, names, strict=True):
            try:
                columns.append(batch.column(position).to_pylist())
            except (ValueError, OverflowError) as error:  # a year over 9999, nanoseconds
                where = f"column `{name[:40]}`, after row {number}"
                raise ValueError(f"{where}: {first_line(error)}") from None
        if not names:
            yield from ({} for _ in range(batch.num_rows))
        for values in zip(*columns, strict=True):
            yield dict(zip(names, values, strict=True))
        number += batch.num_rows


def write_parquet(
    path: Path,
    rows: Callable[[], Iterable[Row]],
    columns: list[str],
    types: Mapping[str, Any],
) -> None:
    """Write the rows of two calls of `rows`; columns without a value get the type string.

    types: values whose type the column of that name has, whatever the rows hold.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    schema = infer_schema(path, rows, columns)
    for name, value in types.items():
        field, index = pa.field(name, pa.array([value]).type), schema.get_field_index(name)
        schema = schema.append(field) if index < 0 else schema.set(index, field)
    with parquet.ParquetWriter(path, schema) as writer:
        for block in _blocks(rows()):
            writer.write_table(pa.table(_arrays(block, schema), schema=schema))


def _arrays(block: list[Row], schema: Any) -> list[Any]:
    import pyarrow as pa

    return [pa.array([_clean(row.get(f.name)) for row in block], f.type) for f in schema]


def infer_schema(path: Path, rows: Callable[[], Iterable[Row]], columns: Iterable[str] = ()) -> Any:
    """Return one type per column that fits all rows.

    path: the file to write, for messages. Raises ValueError if a column has no such type.
    """
    import pyarrow as pa

    schema = pa.schema([])
    for block in _blocks(rows()):
        fields = []
        for name in dict.fromkeys(name for row in block for name in row):
            values = [_clean(row.get(name)) for row in block]
            fields.append(pa.field(name, _type(path, name, values)))
        try:
            schema = pa.unify_schemas([schema, pa.schema(fields)], promote_options="permissive")
        except pa.ArrowException as error:
            raise _unfit(path, first_line(error)) from None
    for name in columns:
        if name not in schema.names:
            schema = schema.append(pa.field(name, pa.string()))
    return schema


def _type(path: Path, name: str, values: list[Any]) -> Any:
    import pyarrow as pa

    try:
        return pa.array(values).type
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        first = error
    try:
        return pa.array(values, pa.uint64()).type  # not inferred
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        raise _unfit(path, f"column `{name[:40]}`: {first_line(first)}") from None


def _unfit(path: Path, reason: str) -> ValueError:
    return ValueError(f"`{path}` cannot store these rows ({reason}); write .jsonl instead")


def _blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    iterator = iter(rows)
    while block := list(islice(iterator, _WRITTEN_ROWS)):
        yield block


def _clean(value: Any) -> Any:
    """Replace lone surrogates, which cannot be encoded as UTF-8, by escapes."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "backslashreplace").decode()
    return value
