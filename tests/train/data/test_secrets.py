"""No message shows what a variable stands for, and no credentials are accepted in plain sight."""

from __future__ import annotations

import base64
import random
import re
import sqlite3
import string
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, unquote_plus, urlsplit

import pytest
from moto.server import ThreadedMotoServer
from processes import run

from serve.language.credentials import hide
from train.data.addresses import expand, presentable
from train.data.sources import open_source
from train.portable import check_portable, portable

SAS = "sv=2024-11-04&sig=abcDEF%2Bghi%2FjklMNO%3D"


class Handler(BaseHTTPRequestHandler):
    """Answers /STATUS/... with that status; repeats path and headers in body and reason."""

    def do_GET(self) -> None:
        kind = urlsplit(self.path).path.split("/")[1]
        echo = f"{self.path} {unquote(self.path)} {self.headers['Authorization']}"
        body = f"{echo},{echo}\n1\n".encode()
        status = int(kind) if kind.isdigit() else 200
        self.send_response(status, re.sub(r"[^ -~]", "", echo))
        if status // 100 == 3:
            self.send_header("Location", self.path)
        self.send_header("Content-Length", str(len(body) + 5 * (kind == "short")))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def plain(text: str) -> str:
    for _ in range(4):
        text = unquote_plus(text)
    return re.sub(r"[\W_]+", "", text.casefold())


def assert_hidden(message: str, secret: str) -> None:
    """Six letters or digits in a row are taken for a part of the secret, in any spelling."""
    for value in (secret, base64.b64encode(f"me:{secret}".encode()).decode()):
        text = plain(value)
        for start in range(max(1, len(text) - 5)):
            assert text[start : start + 6] not in plain(message), message


def random_secrets(count: int) -> list[str]:
    random_ = random.Random(7)
    letters = string.ascii_letters + string.digits + "%/+=&;:@!~ é日\"'<>|^`{}[]\\"
    return [
        "".join(random_.choice(letters) for _ in range(random_.randint(16, 40)))
        for _ in range(count)
    ]


def failure(source: str, cache: Path) -> str:
    with (
        pytest.raises(ValueError, match="cannot read") as caught,
        open_source(source, cache_dir=cache) as table,
    ):
        list(table.rows)
    error: BaseException | None = caught.value
    assert error is not None
    assert error.__cause__ is None
    return str(error)


KINDS = ["401", "403", "404", "410", "429", "500", "301", "302", "307", "short", "echo"]


@pytest.mark.parametrize("kind", KINDS)
def test_http_failure_shows_no_spelling_of_a_variable(
    web: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for secret in (SAS, *random_secrets(3)):
        monkeypatch.setenv("TOKEN", secret)
        for source in (
            f"http://{web}/{kind}/x.csv?${{TOKEN}}",
            f"http://{web}/{kind}/${{TOKEN}}/x.csv",
            f"http://me:${{TOKEN}}@{web}/{kind}/x.csv",
        ):
            message = failure(source, tmp_path)

            assert "${TOKEN}" in message
            assert_hidden(message, secret)


@pytest.mark.parametrize(
    ("status", "reason"),
    [("403", r"HTTP 403 \(Forbidden\)"), ("500", "HTTP 500"), ("404", "there is no file")],
)
def test_http_status_is_named_all_the_same(
    web: str, status: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", SAS)

    assert re.search(reason, failure(f"http://{web}/{status}/x.csv?${{TOKEN}}", tmp_path))


def test_other_failures_show_no_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is refused, names that no URL has, SQLite paths and SQL."""
    sqlite3.connect(tmp_path / "rows.db").close()
    for secret in (SAS, *random_secrets(5)):
        monkeypatch.setenv("TOKEN", secret)
        for source in (
            "http://127.0.0.1:1/x.csv?${TOKEN}",
            "http://127.0.0.1:${TOKEN}/x.csv",
            "http://${TOKEN}/x.csv",
            "${TOKEN}://host/x.csv",
            "nosuch://host/${TOKEN}",
            "file:///${TOKEN}/x.csv",
            "/data/${TOKEN}/x.csv",
            "hub:${TOKEN}#train",
            "sql:${TOKEN}#t",
            "sql:sqlite:////dir/${TOKEN}.db#t",
            "sql:nosuch://me:${TOKEN}@host/db#t",
            "sql:postgresql://me@127.0.0.1:${TOKEN}/db#t",
            "sql:sqlite:///" + f"{tmp_path}/rows.db#SELECT ${{TOKEN}}",
            "sql:sqlite:///" + f"{tmp_path}/rows.db#${{TOKEN}}",
        ):
            message = failure(source, tmp_path / "cache")

            assert source in message
            assert_hidden(message, secret)


def test_reason_in_the_words_of_the_source_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite3.connect(tmp_path / "rows-s3cr3t-place.db").close()
    monkeypatch.setenv("PLACE", "s3cr3t-place")
    source = f"sql:sqlite:///{tmp_path}/rows-${{PLACE}}.db"

    assert "no such table: messages" in failure(f"{source}#SELECT x FROM messages", tmp_path)
    assert failure(f"{source}#messages", tmp_path).endswith("NoSuchTableError: messages")


def test_s3_failure_shows_no_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    try:
        for secret in ("abcDEF%2Bghi%2FjklMNO", *random_secrets(2)):
            monkeypatch.setenv("TOKEN", secret)
            for source in ("s3://data/${TOKEN}.csv", "s3://${TOKEN}/x.csv"):
                assert_hidden(failure(source, tmp_path), secret)
    finally:
        server.stop()


def test_failed_download_leaves_nothing_in_the_streams_either(web: str, tmp_path: Path) -> None:
    """Clients that are left open warn, with their address."""
    code = (
        "import sys; from pathlib import Path; from train.data.sources import open_source\n"
        "with open_source(sys.argv[1], cache_dir=Path(sys.argv[2])): pass"
    )
    done = run("-X", "dev", "-c", code, f"http://{web}/403/x.csv?${{TOKEN}}", tmp_path, TOKEN=SAS)

    assert "HTTP 403" in done.stderr
    assert_hidden(done.stdout + done.stderr, SAS)


def test_credentials_of_the_environment_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnop")
    assert presentable("Illegal header value b'Bearer hf_abcdefghijklmnop'") == (
        "Illegal header value b'Bearer ${HF_TOKEN}'"
    )
    assert "abcdefghij" not in presentable("header HF%5FabcDEFGHijklmnop")
    assert presentable("proxy http://me:hunter2@proxy:80 failed") == (
        "proxy http://me:***@proxy:80 failed"
    )


def test_errors_of_the_hub_do_not_show_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set by `hf auth login`, in a file; httpx names a header that it cannot send."""
    import httpx2

    from train.publish import hub

    monkeypatch.setattr(hub, "get_token", lambda: "hf_abcdefghijklmnop\x01")
    error = httpx2.LocalProtocolError("Illegal header value b'Bearer hf_abcdefghijklmnop\\x01'")

    message = hub.explain(error, "hub:me/model")

    assert message.startswith("the connection to hub:me/model failed: LocalProtocolError")
    assert_hidden(message, "abcdefghijklmnop")


def test_traceback_shows_no_credentials() -> None:
    """As MLflow, whose errors repeat its address."""
    code = (
        "from train.data.addresses import hide_in_tracebacks; hide_in_tracebacks()\n"
        "try:\n    raise OSError('API request to http://me:hunter2@host/api failed')\n"
        "except OSError as error:\n    raise RuntimeError('key s3cr3t%2Fvalue') from error"
    )
    done = run("-c", code, AWS_SECRET_ACCESS_KEY="s3cr3t/value")

    assert done.returncode == 1
    assert "http://me:***@host/api" in done.stderr
    assert "hunter2" not in done.stderr
    assert_hidden(done.stderr, "s3cr3t/value")


PLAIN_SIGHT = [
    "sql:postgresql://host/db?user=me&password=hunter2#SELECT 1",
    "sql:mssql+pyodbc:///?odbc_connect=DRIVER%3D%7BODBC%7D%3BUID%3Dme%3BPWD%3Dhunter2#t",
    "sql:mssql+pyodbc:///?odbc_connect=Driver={ODBC Driver 18};Server=h;Pwd={a;hunter2}#t",
    "sql:mssql+pyodbc:///?odbc_connect=UID%3D${USER}%3BPWD%3Dhunter2#t",
    "sql:postgresql://me:hun/ter2@host/db#t",
    "sql:postgresql://me:hun ter2@host/db#t",
    "sql:postgresql://me:hun#ter2@host/db#t",
    "sql:postgresql://me:hun@ter2@host/db#t",
    "sql:postgresql://me:12/hunter2@host/db#t",
    "sql:postgresql://me@corp.com:hunter2@host/db#t",
    "sql:oracle+oracledb://scott/hunter2@host/db#t",
    "SQL:PostgreSQL://me:hunter2@host/db#t",
    "sql:DRIVER={x};SERVER=y;pwd=hunter2#t",
    "sql:host=h password=hunter2 user=me#t",
    "sql:postgresql://me:${P}@h/d#SELECT * FROM dblink('host=x password=hunter2', 'SELECT 1')",
    "https://host/x.csv?sslpassword=hunter2",
    "HTTPS://host/x.csv?Token=hunter2",
    "https://host/x.csv?P%61ssword=hunter2",
    "https://host/x.csv?a=1&api_key=hunter2",
    "https://host/x.csv?access_token=hunter2",
    "https://host/x.csv#access_token=hunter2",
    "https://host/x.csv?X-Amz-Credential=hunter2",
    "https://host/x.csv?key=AIzaSy00hunter2hunter2hunter2",
    "https://hunter2@host/x.csv",
    "https://me:12/hunter2@host/x.csv",
    "s3://bucket/x.csv?X-Amz-Signature=hunter2",
    "s3://AKIA:hunter2@bucket/x.csv",
    "az://c/x.csv?sig=hunter2",
    "az://c/x.csv?AccountKey=hunter2",
    "az://c/x.csv?comp=x;SharedAccessSignature=hunter2",
    "zip://x.csv::https://me:hunter2@host/a.zip",
    "redis://:hunter2@host:6379/0",
    "mongodb+srv://me:hunter2@cluster/db",
    "ftp://me%3Ahunter2@host/x.csv",
    "https:/me:hunter2@host/x.csv",
    "https://proxy/get?url=https%3A%2F%2Fme%3Ahunter2%40host%2Fx.csv",
    "https://me:${P}hunter2@host/x.csv",
    "https://host/x.csv?token=${A}hunter2",
    "sql:mssql+pyodbc:///?odbc_connect=Server=h;PassWord = hunter2;#t",
    "sql:host=h password = 'hunter2 or so' user=me#t",
    "sql:bigquery://project?credentials_base64=hunter2#t",
]


@pytest.mark.parametrize("source", PLAIN_SIGHT)
def test_credentials_in_plain_sight_are_refused_and_not_repeated(source: str) -> None:
    with pytest.raises(ValueError, match=r"\*\*\*.* contains a password") as failure:
        expand(source)

    assert "ter2" not in str(failure.value)
    assert "ter2" not in str(portable({"data": [source]}))


@pytest.mark.parametrize("source", PLAIN_SIGHT)
def test_file_with_credentials_is_not_published(source: str, tmp_path: Path) -> None:
    import json

    file = tmp_path / "manifest.json"
    file.write_text(json.dumps({"config": {"data": {"train": source}}}))

    with pytest.raises(ValueError, match=r"`manifest.json` is not published") as failure:
        check_portable({"manifest.json": file}, private={})

    assert "ter2" not in str(failure.value)


@pytest.mark.parametrize(
    "source",
    [
        "https://host:8080/x.csv",
        "http://127.0.0.1:8000/a@b.csv",
        "https://host/${A}.csv?token=${T}&sig=${S}",
        "https://${USER}@host/x.csv",
        "https://[::1]:80/x@1.csv",
        "https://host/x.csv?key=x",
        "sql:postgresql://me:${P}@host:5432/db#SELECT text FROM t WHERE mail LIKE '%@x'",
        "sql:postgresql://host:5432/db#SELECT text FROM t WHERE mail LIKE '%@x'",
        "sql:sqlite:////data/a@b.db#SELECT token FROM t WHERE token='x' AND t.password=u.password",
        "sql:postgresql://me@host/db#t",
        "sql:mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3D${P}#t",
        "abfs://container@account.dfs.core.windows.net/x.csv",
        "zip://x.csv::https://host/a@b.zip",
        "s3://bucket/token=3/x@1.csv",
        "data/password=3/x.csv?",
        "hub:owner/name:config@revision#train",
    ],
)
def test_address_without_credentials_is_taken(source: str) -> None:
    assert hide(source) == source


@pytest.mark.parametrize(
    "token",
    [
        "hf_" + "abcdefghij" * 3,
        "ghp_" + "abcdefghij" * 4,
        "AKIA" + "ABCDEFGH" * 2,
        "xoxb-123456789012-abcdef",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    ],
)
def test_token_of_a_service_is_recognized_anywhere(token: str) -> None:
    assert hide(f"received Bearer {token}, expected another") == (
        "received Bearer ***, expected another"
    )
    with pytest.raises(ValueError, match="contains a password, token or key"):
        expand(f"https://host/{token}/x.csv")


def test_long_text_is_searched_in_no_time() -> None:
    started = time.perf_counter()
    for text in ("https://h/" + "a" * 100_000, "https://h/?a=%" + "25" * 1000, "a://b:" * 3000):
        assert hide(text) == text

    assert time.perf_counter() - started < 2


def test_message_is_not_spoilt_by_a_password_that_is_a_common_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.csv").write_text("text,label\na,b,c\n")
    for value in ("column", "1", "line", "x"):
        monkeypatch.setenv("TOKEN", value)
        message = failure(f"file://{tmp_path}/x.csv?${{TOKEN}}", tmp_path)
        monkeypatch.setenv("DB_PASSWORD", value)

        assert "because it contains" not in message
        assert presentable("line 1: column x is missing") == "line 1: column x is missing"


def test_variable_counts_anywhere_in_a_hub_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "x.csv").write_text("text,label\na,b\n")
    monkeypatch.setenv("PLACE", str(tmp_path / "rows"))

    with open_source("hub:${PLACE}#train", cache_dir=tmp_path / "cache") as table:
        assert [row for block in table.rows for row in block] == [{"text": "a", "label": "b"}]


def test_password_may_hold_any_character(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P", secret := "a/b@c:d ?#é")

    assert (
        expand("sql:x://me:${P}@host/db#t").text == f"sql:x://me:{quote(secret, safe='')}@host/db#t"
    )
