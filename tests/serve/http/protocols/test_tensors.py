"""Tensors of KServe V2: wrong ones are named, damaged bodies are refused."""

from __future__ import annotations

import gc
import json
import random
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from answers import BINARY, INFER, LONG, StartServer, post

from serve.http.protocols.tensors import read_infer, requested_outputs
from serve.http.schemas import RequestError


def text_input(**changes: Any) -> dict[str, Any]:
    """A request with one input of two texts, of which some is changed."""
    start = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]}
    return {"inputs": [start | changes]}


def outputs(name: str, **parameters: Any) -> dict[str, Any]:
    """A request of one text for one output."""
    return text_input() | {"outputs": [{"name": name, "parameters": parameters}]}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 422, "field `inputs` is required"),
        ({"inputs": []}, 422, "field `inputs`"),
        (text_input(name="words"), 400, "unknown input `words`; this model takes `text`"),
        ({"inputs": text_input()["inputs"] * 2}, 400, "input `text` comes twice"),
        (text_input(datatype="FP32"), 422, "field `inputs.0.datatype`"),
        (text_input(shape=[]), 422, "field `inputs.0.shape`"),
        (text_input(shape=[-2]), 422, "field `inputs.0.shape.0`"),
        (text_input(shape=[1, 2]), 400, "shape is [1, 2], expected [N] or [N, 1]"),
        (text_input(shape=[3]), 400, "shape is [3], but `data` holds 2"),
        (text_input(shape=[2**40]), 422, "field `text`: more than 512 texts"),
        (text_input(shape=[0], data=[]), 422, "field `text`: the list is empty"),
        (text_input(data=None), 400, "neither a list as `data` nor `binary_data_size`"),
        (text_input(data=["a", 1]), 400, "element 1 is not a string"),
        (text_input(data=["a", ["b"]]), 400, "element 1 is not a string"),
        (text_input(data=["a", " "]), 422, "field `text.1`: the text is empty"),
        (text_input(parameters={"binary_data_size": 9}), 400, "both `data` and `binary_data_size`"),
        (
            text_input(parameters={"shared_memory_region": "x"}),
            422,
            "`shared_memory_region` is not",
        ),
        (text_input(parameters={"content_type": "base64"}), 422, "`inputs.0.parameters.content_"),
        (
            text_input(data=None, parameters={"binary_data_size": 9}),
            400,
            "binary_data_size is 9, but 0 bytes are left",
        ),
        (text_input() | {"outputs": [{"name": "logits"}]}, 400, "unknown output `logits`"),
        (text_input() | {"parameters": {"top_k": 1}}, 422, "the parameter `classification`"),
        (text_input() | {"parameters": {"abstain": True}}, 422, "`abstain` is not supported"),
        (text_input() | {"parameters": {"functionToApply": 1}}, 422, "mean `function_to_apply`?"),
        (text_input() | {"parameters": {"timeout": -1}}, 422, "field `parameters.timeout`"),
        (text_input() | {"output": []}, 422, "unknown field `output`; did you mean `outputs`?"),
        (text_input() | {"model_version": "0"}, 404, "unknown version `0`; this server has"),
        (text_input() | dict.fromkeys(map(str, range(101))), 422, "101 unknown fields"),
        (outputs("label", classification=1), 400, "output `label` has no classification"),
        (outputs("scores", classification=0), 422, "`outputs.0.parameters.classification`"),
        (outputs("scores", shared_memory_region="x"), 422, "`shared_memory_region` is not"),
        (
            text_input(data=["a", LONG]) | {"parameters": {"truncation": False}},
            422,
            "field `text.1`: 102 tokens, over the limit of 32 tokens",
        ),
    ],
)
def test_tensor_that_is_wrong_is_named(
    serve: StartServer, body: Any, status: int, message: str
) -> None:
    response = post(serve("single"), INFER, json.dumps(body).encode())

    assert response.status_code == status
    assert message in response.json()["error"]


def binary_body(elements: bytes, *, size: int | None = None) -> tuple[bytes, int]:
    """A body of two texts in the binary extension, and the length of its JSON."""
    size = len(elements) if size is None else size
    head = json.dumps(text_input(data=None, parameters={"binary_data_size": size})).encode()
    return head + elements, len(head)


@pytest.mark.parametrize(
    ("elements", "size", "message"),
    [
        (b"\1\0\0\0a\1\0\0\0b", 99, "binary_data_size is 99, but 10 bytes are left"),
        (b"\1\0\0\0a\1\0\0\0b", 5, "the bytes end within element 1"),
        (b"\1\0\0\0a\1\0\0\0b!", 10, "1 bytes are left after the last input"),
        (b"\1\0\0\0a\1\0\0\0b!", 11, "1 bytes are left after 2 elements"),
        (b"\1\0\0\0a\1\0", None, "the bytes end within element 1"),
        (b"\1\0\0\0a\xff\xff\xff\xffb", None, "the bytes end within element 1"),
        (b"\1\0\0\0a\1\0\0\0\xff", None, "element 1 is not UTF-8"),
        (b"\1\0\0\0a\0\0\0\0", None, "field `text.1`: the text is empty"),
    ],
)
def test_bytes_that_are_no_tensor_are_refused(
    serve: StartServer, elements: bytes, size: int | None, message: str
) -> None:
    body, length = binary_body(elements, size=size)

    response = post(serve("single"), INFER, body, **{BINARY: str(length)})

    assert response.status_code in (400, 422)
    assert message in response.json()["error"]


@pytest.mark.parametrize("length", ["-1", "", "x", "1e3", "9" * 5000, "100000", "²"])
def test_header_length_that_is_none_is_refused(serve: StartServer, length: str) -> None:
    body, _ = binary_body(b"\1\0\0\0a\1\0\0\0b")

    response = httpx.post(
        f"{serve('single').url}{INFER}", content=body, headers={BINARY: length.encode()}
    )

    assert response.status_code == 400
    assert "expected a number of bytes up to that of the body" in response.json()["error"]


def mutants(count: int, *, seed: int) -> Iterator[tuple[bytes, str | None]]:
    """Bodies of good inferences, damaged in one to three places, and the header of each."""
    chooser = random.Random(seed)
    one, one_length = binary_body(b"\3\0\0\0a b\x0c\0\0\0" + "日本 café".encode())
    entries = [
        text_input(name=name, data=None, parameters={"binary_data_size": 10})["inputs"][0]
        for name in ("text", "text_pair")
    ]
    two = json.dumps({"id": "x", "inputs": entries, "outputs": [{"name": "label"}]}).encode()
    good = [
        (json.dumps(text_input() | {"outputs": [{"name": "scores"}]}).encode(), None),
        (one, one_length),
        (two + b"\1\0\0\0a\1\0\0\0b" * 2, len(two)),
    ]
    tokens = b'[ ] { } " , 0 -1 3 513 4294967295 1e400 null \\ud800'.split()
    tokens += [b"9" * 4000, b"[" * 500, bytes(4), b"\xff" * 4, b"\xff\xff\xff\x7f"]
    for _ in range(count):
        body, length = chooser.choice(good)
        for _ in range(chooser.randint(1, 3)):
            # As often in the JSON as in the tensors.
            middle = min(length or 0, len(body))
            start = chooser.randint(*chooser.choice([(0, middle), (middle, len(body))]))
            end = min(len(body), start + chooser.choice([1, 1, 1, 2, 4, 16]))
            same_size = chooser.randbytes(end - start)
            others = [b"", body[start:end] * 2, chooser.choice(tokens)]
            new = chooser.choice([same_size, same_size, *others])
            body = body[:start] + new + body[end:]
            if length is not None and start < length and chooser.random() < 0.9:
                length = max(0, length + len(new) - (end - start))
        if chooser.random() < 0.05:
            body = body[: chooser.randint(0, len(body))]
        yield body, None if length is None else str(length)


def read(body: bytes, header: str | None) -> RequestError | None:
    """The refusal of a body, by models of one input and of two."""
    for names in (["text"], ["text", "text_pair"]):
        try:
            asked, rows = read_infer(body, header, names=names, limit=512)
            requested_outputs(asked)
        except RequestError as error:
            refusal = error
        else:
            assert all(isinstance(text, str) for row in rows for text in row)
            return None
    return refusal


def test_damaged_bodies_are_refused_and_raise_nothing_else() -> None:
    refusals = []
    slowest_s = 0.0
    gc.freeze()  # collecting what other tests left behind is not the parser's time
    for body, header in mutants(20_000, seed=0):
        started_s = time.perf_counter()
        refusals.append(read(body, header))
        slowest_s = max(slowest_s, time.perf_counter() - started_s)
    gc.unfreeze()

    assert slowest_s < 0.5
    statuses = [refusal.status for refusal in refusals if refusal]
    assert set(statuses) == {400, 422}
    assert len(statuses) < 0.99 * len(refusals)  # the damage is not always so plain


@pytest.mark.parametrize("shape", [[500_000], [512]])
def test_body_full_of_empty_texts_is_refused_at_once(shape: list[int]) -> None:
    elements = bytes(2_000_000)
    head = json.dumps(
        text_input(shape=shape, data=None, parameters={"binary_data_size": len(elements)})
    ).encode()
    started_s = time.perf_counter()

    refusal = read(head + elements, str(len(head)))

    assert time.perf_counter() - started_s < 0.2
    assert refusal is not None


def test_damaged_bodies_are_refused_by_the_server(serve: StartServer) -> None:
    server = serve("single")
    refused = [
        (body, header) for body, header in mutants(200, seed=1) if read(body, header) is not None
    ][:60]
    assert len(refused) == 60

    with httpx.Client(base_url=server.url) as client:
        for body, header in refused:
            headers = {} if header is None else {BINARY: header}
            response = client.post(INFER, content=body, headers=headers)
            assert response.status_code in (400, 422), body
            assert response.json()["error"]
    assert server.post({"inputs": "my parcel"}).status_code == 200
