"""SQL, S3 and HTTP give the rows of a file; failures are named, and secrets are not."""

from __future__ import annotations

import json
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import datasets
import pytest
from moto.server import ThreadedMotoServer
from processes import run

from train.data.addresses import expand
from train.data.sources import open_source

ROWS = [{"text": "None, again: 12:30", "label": "007"}, {"text": "hello ✓", "label": "1"}]
CSV = 'text,label\n"None, again: 12:30",007\nhello ✓,1\n'


def rows_of(source: str, cache: Path) -> list[dict[str, Any]]:
    with open_source(source, cache_dir=cache) as table:
        return [row for block in table.rows for row in block]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "rows.db"
    connection = sqlite3.connect(path)
    connection.execute("create table messages (id integer primary key, text, label)")
    values = [(2, *ROWS[1].values()), (1, *ROWS[0].values())]
    connection.executemany("insert into messages values (?, ?, ?)", values)
    connection.commit()
    connection.close()
    return path


@contextmanager
def http_server(path: str, body: bytes, *, sent: int | None = None) -> Iterator[str]:
    """A server that has one file, and may close the connection after `sent` bytes of it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path != path:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:sent])
            if sent is not None:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    "query",
    [
        "messages",
        "main.messages",
        "SELECT text, label FROM messages ORDER BY id",
        "SELECT text, label FROM messages WHERE text LIKE '%12:30' "
        "UNION ALL SELECT text, label FROM messages WHERE text LIKE 'hello%'",
    ],
)
def test_sql_table_and_query_give_the_rows_in_order(database: Path, query: str) -> None:
    rows = rows_of(f"sql:sqlite:///{database}#{query}", database.parent)

    assert [{"text": row["text"], "label": row["label"]} for row in rows] == ROWS


def test_sql_rows_come_in_blocks_and_in_the_types_of_the_database(database: Path) -> None:
    query = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) "
        "SELECT i, NULL AS empty FROM n"
    )
    with open_source(f"sql:sqlite:///{database}#{query}", cache_dir=database.parent) as table:
        sizes = [len(block) for block in table.rows]

    assert sum(sizes) == 5000
    assert max(sizes) == 1024


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("sql:sqlite:///{db}", "expected sql:URL#QUERY or sql:URL#TABLE"),
        ("sql:sqlite:///{db}.none#t", "there is no database file at"),
        ("sql:sqlite:///{db}#nothing", "NoSuchTableError: nothing"),
        ("sql:sqlite:///{db}#SELECT x FROM messages", "no such column: x"),
        ("sql:sqlite:///{db}#SELECT text, text FROM messages", "returns two columns `text`"),
        ("sql:sqlite:///{db}#DELETE FROM messages", "expected a SELECT"),
        ("sql:nonsense#t", "cannot read `sql:nonsense#t`"),
    ],
)
def test_sql_source_that_cannot_be_read_says_why(database: Path, source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rows_of(source.format(db=database), database.parent)

    assert len(rows_of(f"sql:sqlite:///{database}#messages", database.parent)) == 2
    assert not Path(f"{database}.none").exists()


def test_password_comes_from_the_environment_and_is_never_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Port 1 refuses the connection; the driver names its URL in some messages."""
    monkeypatch.setenv("DB_PASSWORD", "s3cr3t/@:")
    monkeypatch.setenv("DB_PATH", "s3cr3t-place.db")
    address = expand("sql:postgresql://me:${DB_PASSWORD}@127.0.0.1:1/db#t").text

    with pytest.raises(ValueError, match="cannot read") as failure:
        rows_of("sql:sqlite:///${DB_PATH}#t", tmp_path)

    assert address == "sql:postgresql://me:s3cr3t%2F%40%3A@127.0.0.1:1/db#t"
    assert "s3cr3t" not in str(failure.value)
    assert "${DB_PATH}" in str(failure.value)


def test_password_in_plain_sight_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"contains a password.*write \$\{NAME\}") as failure:
        rows_of("sql:postgresql://me:s3cr3t@host/db#t", tmp_path)

    assert "s3cr3t" not in str(failure.value)


def test_variable_that_is_not_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the environment variable NO_SUCH_THING is not set"):
        rows_of("https://host/${NO_SUCH_THING}.csv", tmp_path)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_http_gives_the_rows_of_the_file(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"rows.{suffix}"
    if suffix == "csv":
        file.write_text(CSV)
    elif suffix == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        datasets.Dataset.from_list(ROWS).to_parquet(file)

    with http_server(f"/a/rows.{suffix}?key=x", file.read_bytes()) as url:
        rows = rows_of(f"{url}/a/rows.{suffix}?key=x", tmp_path / "cache")

    assert rows == ROWS
    assert list((tmp_path / "cache").iterdir()) == []


def test_http_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with (
        http_server("/rows.csv", b"") as url,
        pytest.raises(ValueError, match=r"cannot read `http.*none.csv`: there is no file"),
    ):
        rows_of(f"{url}/none.csv", tmp_path)


def test_http_connection_that_breaks_gives_an_error_and_no_rows(tmp_path: Path) -> None:
    """The part that arrives is a valid CSV of fewer rows."""
    body = (CSV + "more,1\n" * 10_000).encode()
    used: list[Any] = []

    def use(url: str) -> None:
        with open_source(f"{url}/rows.csv", cache_dir=tmp_path / "cache") as table:
            used.extend(table.rows)

    with (
        http_server("/rows.csv", body, sent=len(CSV.encode())) as url,
        pytest.raises(ValueError, match=r"cannot read `http.*rows.csv`: ContentLengthError"),
    ):
        use(url)

    assert used == []
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.fixture(scope="module")
def bucket() -> Iterator[None]:
    """An S3 server on a local socket with one bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="data")
        client.put_object(Bucket="data", Key="a/rows.csv", Body=CSV.encode())
        client.close()
        yield
    server.stop()


@pytest.mark.usefixtures("bucket")
def test_s3_gives_the_rows_of_the_file(tmp_path: Path) -> None:
    assert rows_of("s3://data/a/rows.csv", tmp_path) == ROWS


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("source", ["s3://data/none.csv", "s3://nobody/rows.csv"])
def test_s3_file_that_is_not_there_is_named(tmp_path: Path, source: str) -> None:
    with pytest.raises(ValueError, match=f"cannot read `{source}`: there is no file"):
        rows_of(source, tmp_path)


def test_failure_in_the_middle_of_a_file_is_named_by_line(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "x"}\n' * 3000 + "{broken\n")

    with pytest.raises(ValueError, match=r"cannot read `.*rows.jsonl`: line 3001: not valid JSON"):
        rows_of(str(file), tmp_path)


def test_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes("text,label\ncafé,1\n".encode("latin-1"))

    with pytest.raises(
        ValueError, match=r"rows.csv`: line 2: the file is not UTF-8 \(byte 14 is 0xe9\)"
    ):
        rows_of(str(tmp_path / "rows.csv"), tmp_path)


MEASURE = """
import sys, tracemalloc
from pathlib import Path
import pyarrow as pa
from train.config.run import RunConfig
from train.data.splits import load_data

values = {"output_dir": sys.argv[2], "data": {"train": sys.argv[1]}, "model": {"base": "x"}}
config = RunConfig.model_validate(values)
pool = pa.default_memory_pool()
tracemalloc.start()
data = load_data(config)
data.fingerprints
print(len(data.train), tracemalloc.get_traced_memory()[1] + pool.max_memory())
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "sql"])
def test_memory_does_not_grow_with_the_data(tmp_path: Path, kind: str) -> None:
    """Both of Python's own memory and Arrow's, at their highest while data are read and split."""
    peaks = []
    for number in (30_000, 90_000):
        rows = [{"text": f"{n} " + "word " * 60, "label": f"l{n % 5}"} for n in range(number)]
        source = str(tmp_path / f"{number}.{kind}")
        table = datasets.Dataset.from_list(rows)
        if kind == "csv":
            table.to_csv(source, index=False)
        elif kind == "jsonl":
            table.to_json(source)
        elif kind == "parquet":
            table.to_parquet(source)
        else:
            connection = sqlite3.connect(source)
            connection.execute("create table t (text, label)")
            values = [tuple(row.values()) for row in rows]
            connection.executemany("insert into t values (?, ?)", values)
            connection.commit()
            connection.close()
            source = f"sql:sqlite:///{source}#t"

        result = run("-c", MEASURE, source, tmp_path / "run")

        assert result.returncode == 0, result.stderr
        peaks.append(int(result.stdout.split()[1]))
    # The texts grow by 18 MB.
    assert peaks[1] - peaks[0] < 5_000_000, peaks
