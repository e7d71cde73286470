"""The server as clients see it: real processes, real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from processes import ROOT, Server, children_of, free_port, left_after, run, workers_of
from rows import make_rows

from serve.bundle.seal import open_bundle
from serve.inference.predictor import Predictor

StartServer = Callable[[str], Server]

LONG = "parcel " * 100

BAD_BODIES: list[tuple[bytes, int, str]] = [
    (b'{"inputs": ""}', 422, "`inputs`: the text is empty"),
    (b'{"inputs": ["ok", " \\n"]}', 422, "`inputs.1`: the text is empty"),
    (b'{"inputs": 5}', 422, "`inputs`: expected a string or a list of strings, got a number"),
    (b'{"inputs": ["ok", {"a": 1}]}', 422, "`inputs.1`: expected a string, got an object"),
    (b'{"inputs": "ok"', 400, "not valid JSON"),
    (b'{"text": "ok"}', 422, "`inputs` is required"),
    (
        json.dumps({"inputs": ["ok", LONG], "parameters": {"truncation": False}}).encode(),
        422,
        "`inputs.1`: 102 tokens, over the limit of 32 tokens",
    ),
    (b'{"inputs": "' + b"x" * 2_000_000 + b'"}', 413, "over the limit of 2000000 bytes"),
]
"""Invalid bodies, the status of each, and a part of its error message."""

MORE_BAD_BODIES: list[tuple[bytes, int, str]] = [
    (b"", 400, "not valid JSON"),
    (b"\xff\xfe", 400, "not valid JSON"),
    (b"[]", 422, "the body must be a JSON object"),
    (b'{"inputs": NaN}', 422, "got a number"),
    (b'{"inputs": ' + b"[" * 100_000, 400, "not valid JSON"),
    (b'{"inputs": []}', 422, "the list is empty"),
    (b'{"inputs": "\\ud800"}', 400, "not valid JSON"),
    (b'{"inputs": [["a", "b"]]}', 422, "`inputs.0`: expected a string, got a list of 2"),
    (json.dumps({"inputs": ["a"] * 513}).encode(), 422, "over the limit of 512 texts"),
    (b'{"inputs": "a", "top_k": 1}', 422, "unknown field `top_k`"),
    (b'{"inputs": "a", "parameters": {"k": 1}}', 422, "unknown field `parameters.k`"),
    (b'{"inputs": "a", "parameters": {"top_k": 0}}', 422, "parameters.top_k"),
    (b'{"inputs": "a", "parameters": {"top_k": true}}', 422, "parameters.top_k"),
    (b'{"inputs": "a", "parameters": {"function_to_apply": "relu"}}', 422, "function_to_apply"),
    (b'{"inputs": "a", "parameters": {"truncation": "yes"}}', 422, "parameters.truncation"),
    (b'{"inputs": "a", "parameters": 3}', 422, "parameters"),
]


def send(server: Server, body: bytes) -> httpx.Response:
    return httpx.post(f"{server.url}/predict", content=body, timeout=60)


@pytest.mark.parametrize(("body", "status", "message"), BAD_BODIES + MORE_BAD_BODIES)
def test_bad_request_gets_its_own_4xx(
    serve: StartServer, body: bytes, status: int, message: str
) -> None:
    response = send(serve("single"), body)

    assert response.status_code == status
    assert message in response.json()["error"]


def test_thousand_requests_every_tenth_malformed(
    serve: StartServer, bundles: Callable[[str], Path]
) -> None:
    server = serve("single")
    texts = [row["text"] for row in make_rows(1000, seed=11)]
    expected_NC = Predictor.load(bundles("single"), device="cpu").predict(texts)
    labels = open_bundle(bundles("single")).manifest.labels

    async def all_answers() -> list[httpx.Response]:
        gate = asyncio.Semaphore(32)
        limits = httpx.Limits(max_connections=32)

        async with httpx.AsyncClient(limits=limits, timeout=60) as client:

            async def one(number: int) -> httpx.Response:
                body = json.dumps({"inputs": texts[number]}).encode()
                if number % 10 == 0:
                    body = BAD_BODIES[number // 10 % len(BAD_BODIES)][0]
                async with gate:
                    return await client.post(f"{server.url}/predict", content=body)

            return await asyncio.gather(*map(one, range(1000)))

    answers = asyncio.run(all_answers())

    for number, answer in enumerate(answers):
        if number % 10 == 0:
            _, status, message = BAD_BODIES[number // 10 % len(BAD_BODIES)]
            assert answer.status_code == status
            assert message in answer.json()["error"]
        else:
            assert answer.status_code == 200
            scores = {entry["label"]: entry["score"] for entry in answer.json()}
            got = np.array([scores[label] for label in labels])
            assert np.abs(got - expected_NC[number]).max() <= 1e-4


def test_one_text_gets_a_flat_list_sorted_by_score(serve: StartServer) -> None:
    response = serve("single").post({"inputs": "my parcel is late"})

    scores = [entry["score"] for entry in response.json()]
    assert {entry["label"] for entry in response.json()} == {"billing", "delivery", "login"}
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1)


def test_list_gets_one_list_per_text_in_order(serve: StartServer) -> None:
    texts = ["parcel courier", "invoice charge"]

    together = serve("single").post({"inputs": texts}).json()
    apart = [serve("single").post({"inputs": text}).json() for text in texts]

    assert [[e["label"] for e in entry] for entry in together] == [
        [e["label"] for e in entry] for entry in apart
    ]
    assert len(serve("single").post({"inputs": texts[:1]}).json()) == 1


def test_parameters_make_the_answer_nested_as_hugging_face_clients_expect(
    serve: StartServer,
) -> None:
    body = {"inputs": "my parcel is late", "parameters": {"top_k": 2}}

    answer = serve("single").post(body).json()

    assert [len(entry) for entry in answer] == [2]
    assert serve("single").post({"inputs": "x", "parameters": {}}).json()[0][0]["label"]


def test_functions_to_apply(serve: StartServer) -> None:
    def scores(function: str) -> np.ndarray:
        body = {"inputs": "my parcel", "parameters": {"function_to_apply": function}}
        answer = serve("single").post(body).json()[0]
        return np.array([entry["score"] for entry in answer])

    logits = scores("none")

    assert scores("softmax") == pytest.approx(np.exp(logits) / np.exp(logits).sum(), abs=1e-5)
    assert scores("sigmoid") == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-5)


def test_multi_label_scores_are_independent_probabilities(serve: StartServer) -> None:
    answer = serve("multi").post({"inputs": "parcel courier invoice charge"}).json()
    raw = {"inputs": "parcel courier invoice charge", "parameters": {"function_to_apply": "none"}}
    logits = {e["label"]: e["score"] for e in serve("multi").post(raw).json()[0]}

    for entry in answer:
        assert entry["score"] == pytest.approx(1 / (1 + np.exp(-logits[entry["label"]])), abs=1e-5)


def test_pair_model_takes_pairs(serve: StartServer) -> None:
    server = serve("pair")

    batch = server.post({"inputs": [["parcel late", "courier"], ["invoice", "charge"]]}).json()
    flat = server.post({"inputs": ["parcel late", "courier"]}).json()

    assert len(batch) == 2
    assert [entry["label"] for entry in flat] == [entry["label"] for entry in batch[0]]
    assert flat[0]["score"] == pytest.approx(batch[0][0]["score"], abs=1e-5)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("one text", "expected [text, text_pair], got a string"),
        (["a", "b", "c"], "`inputs.0`: this model classifies pairs"),
        ([["a", "b"], ["c"]], "`inputs.1`: this model classifies pairs"),
        ([["a", ""]], "`inputs.0.1`: the text is empty"),
    ],
)
def test_pair_model_refuses_what_is_no_pair(serve: StartServer, inputs: Any, message: str) -> None:
    response = serve("pair").post({"inputs": inputs})

    assert response.status_code == 422
    assert message in response.json()["error"]


def test_long_text_is_cut_by_default(serve: StartServer) -> None:
    assert serve("single").post({"inputs": LONG}).status_code == 200


def test_body_without_content_type_and_chunked_body_are_read(serve: StartServer) -> None:
    def chunks() -> Any:
        yield b'{"inputs": '
        yield b'"my parcel"}'

    response = httpx.post(f"{serve('single').url}/predict", content=chunks())

    assert response.status_code == 200


def test_info_health_and_documentation(serve: StartServer, bundles: Callable[[str], Path]) -> None:
    server = serve("single")
    info = httpx.get(f"{server.url}/info").json()
    document = httpx.get(f"{server.url}/openapi.json").json()

    assert httpx.get(f"{server.url}/health/live").json() == {"status": "ok"}
    for path in ("/health", "/health/ready"):
        assert httpx.get(f"{server.url}{path}").json() == {
            "status": "ok",
            "model_processes_ready": 1,
            "model_processes": 1,
        }
    assert info["backend"] == "onnx"
    assert info["backend_reason"].startswith("int8 export: accuracy")
    assert info["model_version"] == open_bundle(bundles("single")).manifest.version
    assert info["labels"] == ["billing", "delivery", "login"]
    assert info["limits"]["max_texts_per_request"] == 512
    assert "swagger" in httpx.get(f"{server.url}/docs").text
    assert {"/health/live", "/health/ready", "/info", "/metrics", "/predict"} <= set(
        document["paths"]
    )
    assert "inputs" in document["components"]["schemas"]["PredictRequest"]["properties"]
    response = server.post({"inputs": "x"})
    assert response.headers["x-model-version"] == info["model_version"]
    assert httpx.get(f"{server.url}/none").json()["error"] == "Not Found"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_every_process_with_exit_code_0(
    bundles: Callable[[str], Path], number: signal.Signals
) -> None:
    """Stock LitServe dies of SIGTERM and leaves its children holding the port."""
    server = Server(bundles("single"))
    group = server.process.pid
    assert len(children_of(group)) >= 3

    if number == signal.SIGTERM:
        server.process.terminate()  # the main process alone, as a container runtime does
    else:
        os.killpg(group, signal.SIGINT)  # the whole group, as a terminal does
    code = server.process.wait(timeout=60)

    assert code == 0
    assert left_after(group) == []
    assert "Traceback" not in server.log.read_text()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", server.port))


def test_second_signal_does_not_cut_the_end_short(bundles: Callable[[str], Path]) -> None:
    server = Server(bundles("single"))
    group = server.process.pid

    os.killpg(group, signal.SIGINT)
    time.sleep(0.05)
    server.process.terminate()
    code = server.process.wait(timeout=60)

    assert code == 0
    assert left_after(group) == []


def test_port_that_is_taken_is_named(serve: StartServer, bundles: Callable[[str], Path]) -> None:
    port = serve("single").port

    result = run("-m", "serve", "run", "--bundle", bundles("single"), "--port", port)

    assert result.returncode == 2
    assert f"cannot bind 127.0.0.1:{port}" in result.stderr


def test_key_that_stock_litserve_would_check_is_not_ignored(
    bundles: Callable[[str], Path],
) -> None:
    command = ("-m", "serve", "run", "--bundle", bundles("single"))

    result = run(*command, "--port", free_port(), LIT_SERVER_API_KEY="secret")

    assert result.returncode == 2
    assert "set api_keys_file" in result.stderr


def test_signal_while_the_model_loads_ends_the_server(bundles: Callable[[str], Path]) -> None:
    port = free_port()
    command = [sys.executable, "-m", "serve", "run", "--bundle", str(bundles("single"))]
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not workers_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(1)  # the worker has been handed its work and is importing

    process.terminate()
    output, _ = process.communicate(timeout=60)

    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert left_after(process.pid) == []


@pytest.mark.slow
def test_idle_server_sleeps(serve: StartServer) -> None:
    """Stock batching with a zero timeout spins in two processes while idle."""
    group = serve("single").process.pid

    def ticks() -> int:
        total = 0
        for pid in children_of(group):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total

    time.sleep(0.5)
    before = ticks()
    time.sleep(5)
    seconds = (ticks() - before) / os.sysconf("SC_CLK_TCK")

    assert seconds <= 0.1, f"{seconds:.2f} CPU seconds in 5 s without a request, over 2 %"


def test_probes_answer_head_as_load_balancers_ask(serve: StartServer) -> None:
    response = httpx.head(f"{serve('single').url}/health/ready")

    assert response.status_code == 200
    assert response.content == b""
    assert httpx.head(f"{serve('single').url}/predict").status_code == 405
