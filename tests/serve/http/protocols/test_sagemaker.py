"""SageMaker's requests get the answer of `POST /predict`."""

from __future__ import annotations

import csv
import io
import json

import httpx
import pytest
from answers import LONG, PAIRS, TEXTS, StartServer, assert_same, native, post


def test_sagemaker_ping(serve: StartServer) -> None:
    response = httpx.get(f"{serve('single').url}/ping")

    assert response.status_code == 200
    assert response.json() == {"status": "ok"}


@pytest.mark.parametrize(
    "kind",
    [
        *("application/json", "application/JSON; charset=UTF-8", "application/vnd.a+json", ""),
        "application/octet-stream",  # what boto3 sends by default
        "application/x-www-form-urlencoded",  # what curl sends by default
    ],
)
def test_sagemaker_takes_json_under_its_names(serve: StartServer, kind: str) -> None:
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
        ("application/jsonl", "".join(json.dumps({"id": 1, "text": t}) + "\n" for t in TEXTS)),
        ("application/x-ndjson", "\ufeff" + "\n".join(map(json.dumps, TEXTS))),
        ("application/csv", '"{}"\n"{}"\n"{}"'.format(*TEXTS)),
        ("text/csv", '\ufeffinputs\n"{}"\n"{}"\n"{}"'.format(*TEXTS)),
        ("text/csv", '"Text"\n"{}"\n"{}"\n"{}"'.format(*TEXTS)),
        ("text/csv; header=present", '"my, own"\n"{}"\n"{}"\n"{}"'.format(*TEXTS)),
        ('text/csv; Header="present"', 'a,b,c\n"{}"\n"{}"\n"{}"'.format(*TEXTS)),
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
        ("application/jsonlines", b'{"inputs": "a", "parameters": {}}', 422, "`lines.0.parameters"),
        ("application/jsonlines", b'{"inputs": "a", "inputs": "b"}', 422, "field `inputs` twice"),
        ("text/csv", b"inputs\n", 422, "no text after the header `inputs`"),
        ("text/csv; header=present", b"a\n", 422, "no text after the header `a`"),
        ("text/csv; header=yes", b"a\n", 415, "expected present or absent"),
        ("text/csv; charset=iso-8859-1", b"a\n", 415, "charset `iso-8859-1` is not read"),
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


def test_sagemaker_header_that_is_said_to_be_a_text_is_one(serve: StartServer) -> None:
    server = serve("single")

    answer = post(server, "/invocations", b"inputs\nparcel\n", "text/csv; header=absent").json()

    assert_same(answer, native(server, ["inputs", "parcel"]))


def test_sagemaker_header_of_pairs_is_no_pair(serve: StartServer) -> None:
    server = serve("pair")
    rows = "".join(f'"{a}",{b}\n' for a, b in PAIRS)

    answer = post(server, "/invocations", f"text,text_pair\n{rows}".encode(), "text/csv").json()

    assert_same(answer, native(server, PAIRS))


@pytest.mark.parametrize(
    "kind",
    ["application/xml", "application/x-npy", "csv", "text/html", "multipart/form-data; boundary=a"],
)
def test_sagemaker_type_that_is_not_read_is_refused_with_those_that_are(
    serve: StartServer, kind: str
) -> None:
    response = post(serve("single"), "/invocations", b'{"inputs": "a"}', kind)

    assert response.status_code == 415
    for part in (kind, "application/json", "application/jsonlines", "text/csv", "text/plain"):
        assert part in response.json()["error"]


def test_sagemaker_form_is_refused_as_one(serve: StartServer) -> None:
    kind = "application/x-www-form-urlencoded"

    response = post(serve("single"), "/invocations", b"inputs=my+parcel", kind)

    assert response.status_code == 415
    assert f"content type `{kind}` is not read" in response.json()["error"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/jsonlines", "\n".join(map(json.dumps, TEXTS))),
        ("application/json", json.dumps({"inputs": TEXTS})),
        ("text/csv", '"{}"\n"{}"\n"{}"'.format(*TEXTS)),
    ],
)
@pytest.mark.parametrize("accept", ["application/jsonlines", "application/x-ndjson"])
def test_sagemaker_gets_a_line_per_text(
    serve: StartServer, kind: str, body: str, accept: str
) -> None:
    server = serve("single")

    response = post(server, "/invocations", body.encode(), kind, accept=accept)

    assert response.headers["content-type"] == accept
    assert response.text.endswith("\n")
    assert_same([json.loads(line) for line in response.text.splitlines()], native(server, TEXTS))


def test_sagemaker_gets_csv_with_the_best_label_first(serve: StartServer) -> None:
    server = serve("single")
    body = json.dumps({"inputs": TEXTS, "parameters": {"top_k": 2}}).encode()

    response = post(server, "/invocations", body, "application/json", accept="text/csv")

    assert response.headers["content-type"].startswith("text/csv")
    rows = list(csv.reader(io.StringIO(response.text)))
    answer = [
        [{"label": row[n], "score": float(row[n + 1])} for n in range(0, len(row), 2)]
        for row in rows
    ]
    assert_same(answer, native(server, TEXTS, top_k=2))


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("text/*", "text/csv"),
        ("text/html, application/xml;q=0.9, */*;q=0.8", "application/json"),
        ("application/json;q=0.1, application/jsonlines", "application/jsonlines"),
        ("application/json;q=0, */*", "application/jsonlines"),
        ("text/csv;q=0.5, application/json;q=0.5", "application/json"),
    ],
)
def test_sagemaker_accept_decides_by_preference(serve: StartServer, accept: str, kind: str) -> None:
    response = post(serve("single"), "/invocations", b'{"inputs": ["a"]}', accept=accept)

    assert response.status_code == 200
    assert response.headers["content-type"].partition(";")[0] == kind


@pytest.mark.parametrize("accept", ["application/xml", "application/json;q=0", "text/plain"])
def test_sagemaker_answer_that_cannot_be_written_is_406(serve: StartServer, accept: str) -> None:
    response = post(serve("single"), "/invocations", b'{"inputs": ["a"]}', accept=accept)

    assert response.status_code == 406
    assert "writes application/json, application/jsonlines, text/csv" in response.json()["error"]


def test_sagemaker_verdicts_have_no_csv(serve: StartServer) -> None:
    body = b'{"inputs": ["a"], "parameters": {"decide": true}}'

    refused = post(serve("single"), "/invocations", body, accept="text/csv")
    lines = post(serve("single"), "/invocations", body, accept="application/jsonlines")

    assert refused.status_code == 406
    assert json.loads(lines.text).keys() == {"confidence", "predicted", "labels"}
