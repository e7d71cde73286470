"""Bodies as they come over the wire: compressed, with a byte order mark, with names twice."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Iterator

import httpx
import pytest
from answers import INFER, TEXTS, StartServer, assert_same, native, post

PACK = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress}
BODY = json.dumps({"inputs": TEXTS}).encode()
LIMIT = 2_000_000


@pytest.mark.parametrize("path", ["/predict", "/", "/invocations"])
@pytest.mark.parametrize("encoding", [*PACK, "GZIP"])
def test_compressed_body_is_read(serve: StartServer, path: str, encoding: str) -> None:
    server = serve("single")
    packed = PACK[encoding.lower()](BODY)

    answer = post(server, path, packed, **{"content-encoding": encoding}).json()

    assert_same(answer, native(server, TEXTS))


@pytest.mark.parametrize("path", ["/v1/models/textloop:predict", "/vertex/predict"])
def test_compressed_instances_are_read(serve: StartServer, path: str) -> None:
    server = serve("single")
    packed = gzip.compress(json.dumps({"instances": TEXTS}).encode())

    answer = post(server, path, packed, **{"content-encoding": "gzip"}).json()

    assert_same(answer["predictions"], native(server, TEXTS))


def test_compressed_body_may_come_in_pieces(serve: StartServer) -> None:
    server = serve("single")
    packed = gzip.compress(BODY)

    def pieces() -> Iterator[bytes]:
        for n in range(len(packed)):
            yield packed[n : n + 1]

    headers = {"content-encoding": "gzip"}
    answer = httpx.post(f"{server.url}/predict", content=pieces(), headers=headers).json()

    assert_same(answer, native(server, TEXTS))


@pytest.mark.parametrize("encoding", ["", "identity", ","])
def test_encoding_that_says_nothing_is_none(serve: StartServer, encoding: str) -> None:
    response = post(serve("single"), "/predict", BODY, **{"content-encoding": encoding})

    assert response.status_code == 200


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "deflate, gzip"])
@pytest.mark.parametrize("path", ["/predict", "/invocations", INFER])
def test_other_encodings_are_refused_with_those_that_are_read(
    serve: StartServer, path: str, encoding: str
) -> None:
    response = post(serve("single"), path, BODY, **{"content-encoding": encoding})

    assert response.status_code == 415
    assert encoding in response.json()["error"]
    assert "send gzip, deflate or an uncompressed body" in response.json()["error"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize(("size", "status"), [(LIMIT, 400), (LIMIT + 1, 413), (10**9, 413)])
def test_decompressed_body_is_bounded(
    serve: StartServer, encoding: str, size: int, status: int
) -> None:
    """A gigabyte of blanks is a megabyte in gzip; all of it would be read as JSON otherwise."""
    server = serve("single")
    compressor = zlib.compressobj(9, wbits=31 if encoding == "gzip" else 15)
    block = b" " * 1_000_000
    packed = b"".join(compressor.compress(block) for _ in range(size // len(block)))
    packed += compressor.compress(b" " * (size % len(block))) + compressor.flush()
    started_s = time.perf_counter()

    response = post(server, "/predict", packed, **{"content-encoding": encoding})

    assert response.status_code == status
    assert ("not valid JSON" if status == 400 else "over the limit of 2000000 bytes") in (
        response.json()["error"]
    )
    assert time.perf_counter() - started_s < 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (gzip.compress(BODY)[:-9], "it is incomplete"),
        (gzip.compress(BODY) + b"!", "data follow its end"),
        (gzip.compress(BODY) + gzip.compress(BODY), "data follow its end"),
        (BODY, "incorrect header check"),
        (gzip.compress(BODY)[:-4] + b"abcd", "incorrect length check"),
        (b"", "it is incomplete"),
    ],
)
def test_damaged_gzip_is_named(serve: StartServer, body: bytes, message: str) -> None:
    response = post(serve("single"), "/predict", body, **{"content-encoding": "gzip"})

    assert response.status_code == 400
    assert f"the body is not valid gzip: {message}" in response.json()["error"].replace(
        "Error -3 while decompressing data: ", ""
    )


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", {"inputs": TEXTS}),
        ("/invocations", {"inputs": TEXTS}),
        ("/vertex/predict", {"instances": TEXTS}),
        (INFER, {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}),
    ],
)
def test_byte_order_mark_is_skipped(serve: StartServer, path: str, body: object) -> None:
    response = post(serve("single"), path, b"\xef\xbb\xbf" + json.dumps(body).encode())

    assert response.status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/predict", b'{"inputs": "first", "inputs": "second"}', "inputs"),
        ("/predict", b'{"inputs": "a", "in\\u0070uts" : "b"}', "inputs"),
        ("/predict", b'{"inputs": "a", "parameters": {"top_k": 1, "top_k": 2}}', "top_k"),
        ("/vertex/predict", b'{"instances": [{"text": "a", "text": "b"}]}', "text"),
        (INFER, b'{"id": "1", "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", '
                b'"data": ["a"]}], "id": "2"}', "id"),
    ],
)  # fmt: skip
def test_name_that_comes_twice_is_refused(
    serve: StartServer, path: str, body: bytes, name: str
) -> None:
    response = post(serve("single"), path, body)

    assert response.status_code == 422
    assert f"the body has the field `{name}` twice" in response.json()["error"]


@pytest.mark.parametrize("text", ['say "inputs": twice', '{"inputs": 1, "inputs": 2}', "a:b:c"])
def test_names_within_a_text_do_not_count(serve: StartServer, text: str) -> None:
    body = {"inputs": [text, "inputs", "inputs"], "parameters": {"top_k": 1}}

    assert serve("single").post(body).status_code == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"inputs": "a\\ud800b"}', "half of a surrogate pair"),
        (b'{"inputs": "a\\udc00"}', "half of a surrogate pair"),
        (b'{"inputs": "caf\xe9"}', "it is not UTF-8"),
    ],
)
def test_json_that_is_no_text_is_explained(serve: StartServer, body: bytes, message: str) -> None:
    response = post(serve("single"), "/predict", body)

    assert response.status_code == 400
    assert f"the body is not valid JSON: {message}" in response.json()["error"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", {"inputs": "a", "x" * 1_000_000: 1}),
        ("/predict", {"inputs": {"text": "a", "x" * 1_000_000: 1}}),
        ("/predict", {"inputs": "a", "parameters": {"truncation": "x" * 1_000_000}}),
        ("/v1/models/" + "x" * 60_000, None),
        (INFER, {"inputs": [{"name": "x" * 1_000_000, "shape": [1], "datatype": "BYTES"}]}),
        (INFER, {"model_version": "x" * 1_000_000, "inputs": []}),
    ],
)
def test_error_repeats_little_of_what_was_sent(serve: StartServer, path: str, body: object) -> None:
    url = f"{serve('single').url}{path}"

    response = httpx.get(url) if body is None else httpx.post(url, json=body)

    assert 400 <= response.status_code < 500
    assert len(response.content) < 1000
