"""SageMaker's requests get the answer of `POST /predict`."""

from __future__ import annotations

import json

import httpx
import pytest
from answers import LONG, PAIRS, TEXTS, StartServer, assert_same, native, post


def test_sagemaker_ping(serve: StartServer) -> None:
    response = httpx.get(f"{serve('single').url}/ping")

    assert response.status_code == 200
    assert response.json() == {"status": "ok"}


@pytest.mark.parametrize("kind", ["application/json", "", "application/x-unknown"])
def test_sagemaker_takes_json_under_any_unknown_type(serve: StartServer, kind: str) -> None:
    server = serve("single")

    answer = post(server, "/invocations", json.dumps({"inputs": TEXTS}).encode(), kind).json()

    assert_same(answer, native(server, TEXTS))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/csv", 'my parcel is late\r\npaid the invoice twice\n"account locked, café 日本"\n'),
        ("Text/CSV; charset=utf-8", '"{}"\n"{}"\n"{}"'.format(*TEXTS)),
        ("application/jsonlines", "\n".join(map(json.dumps, TEXTS))),
        ("application/jsonlines", "".join(json.dumps({"inputs": t}) + "\r\n" for t in TEXTS)),
    ],
)
def test_sagemaker_takes_a_text_a_line(serve: StartServer, kind: str, body: str) -> None:
    server = serve("single")

    answer = post(server, "/invocations", body.encode(), kind).json()

    assert_same(answer, native(server, TEXTS))


def test_sagemaker_takes_a_plain_text(serve: StartServer) -> None:
    server = serve("single")

    answer = post(server, "/invocations", TEXTS[2].encode(), "text/plain; charset=utf-8").json()

    assert_same([answer], native(server, TEXTS[2:]))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/csv", "".join(f'"{a}",{b}\n' for a, b in PAIRS)),
        ("application/jsonlines", "\n".join(map(json.dumps, PAIRS))),
        ("application/jsonlines", "\n".join(json.dumps({"inputs": pair}) for pair in PAIRS)),
    ],
)
def test_sagemaker_takes_pairs(serve: StartServer, kind: str, body: str) -> None:
    server = serve("pair")

    answer = post(server, "/invocations", body.encode(), kind).json()

    assert_same(answer, native(server, PAIRS))


def test_sagemaker_text_that_csv_readers_refuse_by_default_is_cut(serve: StartServer) -> None:
    server = serve("single")

    answer = post(server, "/invocations", b"parcel " * 30_000, "text/csv").json()

    assert_same(answer, native(server, [LONG]))


@pytest.mark.parametrize(
    ("kind", "body", "status", "message"),
    [
        ("text/plain", b"", 422, "field `body`: the text is empty"),
        ("text/plain", b"caf\xe9", 400, "not UTF-8"),
        ("text/csv", b"a\nb,c\n", 422, "field `rows.1`: 2 columns, expected 1"),
        ("text/csv", b'a\n""\n', 422, "field `rows.1`: the text is empty"),
        ("text/csv", b"a\n\nb\n", 422, "field `rows.1`: 0 columns, expected 1"),
        ("text/csv", b'a\n"b', 400, "`rows.1` is not valid CSV"),
        ("text/csv", b"", 422, "field `rows`: the list is empty"),
        ("text/csv", b"a\n" * 513, 422, "field `rows`: more than 512 texts"),
        ("application/jsonlines", b'"a"\nb', 400, "`lines.1` is not valid JSON"),
        ("application/jsonlines", b'"a"\n\n"b"', 400, "`lines.1` is not valid JSON"),
        ("application/jsonlines", b'"a"\n{"inputs": 3}', 422, "field `lines.1.inputs`: expected"),
        ("application/jsonlines", b'{"inputs": "a", "n": 1}', 422, "unknown field `lines.0.n`"),
        ("application/jsonlines", b"[" * 9999, 400, "`lines.0` is not valid JSON"),
        ("application/jsonlines", b"1\n" * 513, 422, "field `lines`: more than 512 texts"),
    ],
)
def test_sagemaker_names_the_line_that_is_wrong(
    serve: StartServer, kind: str, body: bytes, status: int, message: str
) -> None:
    response = post(serve("single"), "/invocations", body, kind)

    assert response.status_code == status
    assert message in response.json()["error"]


def test_sagemaker_plain_text_is_no_pair(serve: StartServer) -> None:
    response = post(serve("pair"), "/invocations", b"one text", "text/plain")

    assert response.status_code == 422
    assert "field `body`: this model classifies pairs" in response.json()["error"]
