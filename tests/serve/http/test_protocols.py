"""Every wire format, as its own client speaks it, gives the answer of `POST /predict`."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from huggingface_hub import AsyncInferenceClient, InferenceClient
from processes import Server, free_port, run
from tritonclient.utils import InferenceServerException

from serve.bundle.seal import open_bundle
from serve.http.protocols.tensors import read_infer, requested_outputs
from serve.http.schemas import RequestError

StartServer = Callable[..., Server]

TEXTS = ["my parcel is late", "paid the invoice twice", "account locked, café 日本"]
PAIRS = [["parcel late", "courier"], ["invoice paid", "charge"], ["reset code", "password"]]

LONG = "parcel " * 100

BINARY = "Inference-Header-Content-Length"
INFER = "/v2/models/textloop/infer"


def native(server: Server, inputs: Any, **parameters: Any) -> Any:
    """Labels and scores of a list of inputs, from `/predict`."""
    response = server.post({"inputs": inputs, "parameters": parameters})
    assert response.status_code == 200, response.text
    return response.json()


def post(server: Server, path: str, body: bytes, kind: str = "", **headers: str) -> httpx.Response:
    headers |= {"content-type": kind} if kind else {}
    return httpx.post(f"{server.url}{path}", content=body, headers=headers, timeout=60)


def assert_same(answers: Any, expected: Any) -> None:
    """The same labels in the same order, with the same scores."""
    assert len(answers) == len(expected)
    for answer, wanted in zip(answers, expected, strict=True):
        assert [entry["label"] for entry in answer] == [entry["label"] for entry in wanted]
        scores = [entry["score"] for entry in wanted]
        assert [entry["score"] for entry in answer] == pytest.approx(scores, abs=1e-5)


# Hugging Face


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hugging Face clients refuse to send anything, to this machine too, while offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"function_to_apply": "none"}])
def test_hugging_face_clients_read_the_answer(serve: StartServer, options: dict[str, Any]) -> None:
    server = serve("single")
    expected = native(server, TEXTS[:1], **options)

    async def ask() -> Any:
        async with AsyncInferenceClient(model=server.url) as client:
            return await client.text_classification(TEXTS[0], **options)

    with InferenceClient(model=server.url) as client:
        answer = client.text_classification(TEXTS[0], **options)

    assert_same([answer], expected)
    assert_same([asyncio.run(ask())], expected)


@pytest.mark.usefixtures("online")
def test_hugging_face_client_sees_what_is_wrong(serve: StartServer) -> None:
    with InferenceClient(model=serve("single").url, provider="hf-inference") as client:
        with pytest.raises(Exception, match="`inputs`: the text is empty"):
            client.text_classification(" ")
        assert client.health_check()
        assert client.get_endpoint_info()["model_id"] == "textloop"


# text-embeddings-inference


def test_tei_shapes(serve: StartServer) -> None:
    server = serve("single")
    expected = native(server, TEXTS[:2])

    assert_same([server.post({"inputs": TEXTS[0]}).json()], native(server, TEXTS[:1]))
    assert_same(server.post({"inputs": [[TEXTS[0]], [TEXTS[1]]]}).json(), expected)


def test_tei_pairs(serve: StartServer) -> None:
    server = serve("pair")

    assert_same([server.post({"inputs": PAIRS[0]}).json()], native(server, PAIRS[:1]))
    assert_same(server.post({"inputs": PAIRS}).json(), native(server, PAIRS))


def test_tei_raw_scores_are_logits(serve: StartServer) -> None:
    server = serve("single")

    answer = server.post({"inputs": TEXTS[0], "raw_scores": True}).json()

    assert_same([answer], native(server, TEXTS[:1], function_to_apply="none"))


def test_tei_truncation_can_be_forbidden(serve: StartServer) -> None:
    response = serve("single").post({"inputs": LONG, "truncate": False})

    assert response.status_code == 422
    assert response.json()["error_type"] == "Tokenizer"
    assert "102 tokens, over the limit of 32 tokens" in response.json()["error"]


@pytest.mark.parametrize(("side", "kept"), [("Right", "invoice "), ("left", "parcel ")])
def test_tei_truncation_direction_cuts_that_side(serve: StartServer, side: str, kept: str) -> None:
    server = serve("single")
    body = {"inputs": "invoice " * 40 + "parcel " * 40, "truncation_direction": side}

    answer = server.post(body).json()

    assert_same([answer], native(server, [kept * 30]))


def test_tei_timing_headers_are_whole_numbers(serve: StartServer) -> None:
    headers = serve("single").post({"inputs": TEXTS}).headers

    for name in ("compute", "total", "tokenization", "queue", "inference"):
        assert int(headers[f"x-{name}-time"]) >= 0
    assert int(headers["x-compute-characters"]) == sum(map(len, TEXTS))
    assert int(headers["x-compute-tokens"]) > 2 * len(TEXTS)
    assert headers["x-compute-type"].startswith("cpu+")


def test_tei_info(serve: StartServer) -> None:
    info = httpx.get(f"{serve('single').url}/info").json()

    assert info.keys() >= {
        "model_id", "model_sha", "model_dtype", "served_model_name", "model_type",
        "max_concurrent_requests", "max_input_length", "max_batch_tokens", "max_batch_requests",
        "max_client_batch_size", "auto_truncate", "tokenization_workers", "version", "sha",
        "docker_label",
    }  # fmt: skip
    assert info["model_type"]["classifier"] == {
        "id2label": {"0": "billing", "1": "delivery", "2": "login"},
        "label2id": {"billing": 0, "delivery": 1, "login": 2},
    }


@pytest.mark.parametrize(
    ("body", "status"), [(b'{"inputs": []}', 422), (b"{", 400), (b"[" + b" " * 2_000_000, 413)]
)
def test_tei_errors_have_a_type(serve: StartServer, body: bytes, status: int) -> None:
    response = post(serve("single"), "/predict", body)

    assert response.status_code == status
    assert response.json()["error_type"] == "Validation"


# SageMaker


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


# Vertex AI, and V1 of KServe, which has the same bodies

INSTANCES = ["/vertex/predict", "/v1/models/textloop:predict"]


@pytest.mark.parametrize("path", INSTANCES)
def test_instances_get_predictions_in_their_order(serve: StartServer, path: str) -> None:
    server = serve("single")
    instances = [TEXTS[0], {"inputs": TEXTS[1]}, {"text": TEXTS[2]}]

    answer = post(server, path, json.dumps({"instances": instances}).encode()).json()

    assert answer.keys() == {"predictions"}
    assert_same(answer["predictions"], native(server, TEXTS))


@pytest.mark.parametrize("path", INSTANCES)
def test_instances_of_a_pair_model(serve: StartServer, path: str) -> None:
    server = serve("pair")
    text, pair = PAIRS[2]
    instances = [PAIRS[0], {"inputs": PAIRS[1]}, {"text_pair": pair, "text": text}]

    answer = post(server, path, json.dumps({"instances": instances}).encode()).json()

    assert_same(answer["predictions"], native(server, PAIRS))


@pytest.mark.parametrize("path", INSTANCES)
def test_instances_come_with_parameters(serve: StartServer, path: str) -> None:
    server = serve("single")
    parameters = {"top_k": 2, "function_to_apply": "sigmoid"}
    body = json.dumps({"instances": TEXTS, "parameters": parameters}).encode()

    answer = post(server, path, body).json()

    assert_same(answer["predictions"], native(server, TEXTS, **parameters))


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        ("single", {}, "field `instances` is required"),
        ("single", {"instances": "a"}, "field `instances`"),
        ("single", {"instances": []}, "field `instances`"),
        ("single", {"instances": ["a"] * 513}, "field `instances`: 513 texts"),
        ("single", {"instances": ["a", 3]}, "field `instances.1`: expected a string"),
        ("single", {"instances": ["a", PAIRS[0]]}, "field `instances.1`: expected a string"),
        ("single", {"instances": [{"text": "a"}, {"text": ""}]}, "field `instances.1.text`"),
        ("single", {"instances": [{"inputs": [" "]}]}, "field `instances.0.inputs.0`"),
        ("single", {"instances": [{"text": 5}]}, "field `instances.0.text`: expected a string"),
        ("single", {"instances": [{}]}, "field `instances.0.text`: expected a string"),
        (
            "single",
            {"instances": [{"inputs": "a", "text": "a"}]},
            "unknown field `instances.0.text`",
        ),
        ("single", {"instances": [{"text": "a", "x": 1}]}, "unknown field `instances.0.x`"),
        ("single", {"instances": ["a"], "parameters": {"k": 1}}, "unknown field `parameters.k`"),
        ("pair", {"instances": ["a", "b"]}, "field `instances.0`: this model classifies pairs"),
        ("pair", {"instances": [["a", "b"], ["c", ""]]}, "field `instances.1.1`: the text is"),
        ("pair", {"instances": [{"text": "a", "text_pair": ""}]}, "`instances.0.text_pair`: the"),
        ("pair", {"instances": [{"text": "a"}]}, "field `instances.0.text`: this model"),
        (
            "single",
            {"instances": ["a", {"text": LONG}], "parameters": {"truncation": False}},
            "field `instances.1.text`: 102 tokens, over the limit of 32 tokens",
        ),
    ],
)
def test_instance_that_is_wrong_is_named(
    serve: StartServer, kind: str, body: Any, message: str
) -> None:
    response = post(serve(kind), "/vertex/predict", json.dumps(body).encode())

    assert response.status_code == 422
    assert message in response.json()["error"]
    assert response.json()["field"] in message


def test_routes_that_vertex_names_are_its_own_even_if_they_are_taken(
    bundles: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/predict")
    monkeypatch.setenv("AIP_HEALTH_ROUTE", "/health")
    server = Server(bundles("single"))
    try:
        answer = server.post({"instances": TEXTS}).json()
        refused = server.post({"inputs": TEXTS})
        health = httpx.get(f"{server.url}/health")
        document = httpx.get(f"{server.url}/openapi.json").json()
        expected = post(server, "/", json.dumps({"inputs": TEXTS}).encode()).json()
    finally:
        server.kill()

    assert_same(answer["predictions"], expected)
    assert refused.status_code == 422
    assert "field `instances` is required" in refused.json()["error"]
    assert health.json() == {"status": "ok"}
    body = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"]["$ref"].endswith("/InstancesRequest")


@pytest.mark.parametrize("variable", ["AIP_PREDICT_ROUTE", "AIP_HEALTH_ROUTE"])
def test_route_that_is_no_path_is_refused(bundles: Callable[[str], Path], variable: str) -> None:
    command = ("-m", "serve", "run", "--bundle", bundles("single"), "--port", free_port())

    result = run(*command, **{variable: "v1/{model}"})

    assert result.returncode == 2
    assert f"{variable} is `v1/{{model}}`, expected a path" in result.stderr


# KServe


def test_kserve_v1_says_what_is_there(serve: StartServer) -> None:
    url = serve("single").url

    assert httpx.get(f"{url}/").json() == {"status": "alive"}
    assert httpx.get(f"{url}/v1/models").json() == {"models": ["textloop"]}
    ready = httpx.get(f"{url}/v1/models/textloop")
    assert ready.status_code == 200
    assert ready.json() == {"name": "textloop", "ready": True}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models/other"),
        ("POST", "/v1/models/other:predict"),
        ("GET", "/v2/models/other"),
        ("GET", "/v2/models/other/ready"),
        ("GET", "/v2/models/textloop/versions/0"),
        ("GET", "/v2/models/textloop/versions/0/ready"),
        ("POST", "/v2/models/other/infer"),
        ("POST", "/v2/models/textloop/versions/0/infer"),
    ],
)
def test_kserve_unknown_model_or_version_is_404(serve: StartServer, method: str, path: str) -> None:
    response = httpx.request(method, f"{serve('single').url}{path}")

    assert response.status_code == 404
    assert "; this server has `" in response.json()["error"]


@pytest.fixture
def client(serve: StartServer) -> Iterator[triton.InferenceServerClient]:
    """Triton's client of the server of single texts."""
    with triton.InferenceServerClient(f"127.0.0.1:{serve('single').port}") as client:
        yield client


def tensor(
    name: str, texts: list[str], *, binary: bool, columns: tuple[int, ...] = ()
) -> triton.InferInput:
    values = np.array([text.encode() for text in texts], dtype=object)
    each = triton.InferInput(name, [len(texts), *columns], "BYTES")
    each.set_data_from_numpy(values.reshape(-1, *columns), binary_data=binary)
    return each


def best_first(result: triton.InferResult, labels: list[str]) -> list[Any]:
    """The scores of Triton's client, as `/predict` answers."""
    return [
        [{"label": labels[c], "score": float(row[c])} for c in np.argsort(-row, kind="stable")]
        for row in result.as_numpy("scores")
    ]


def label_texts(result: triton.InferResult) -> list[str]:
    """Triton's client gives bytes for a binary tensor and strings for one in JSON."""
    labels = result.as_numpy("label").tolist()
    return [label.decode() if isinstance(label, bytes) else label for label in labels]


def test_triton_client_sees_server_and_model(
    client: triton.InferenceServerClient, bundles: Callable[[str], Path]
) -> None:
    version = open_bundle(bundles("single")).manifest.version

    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("textloop")
    assert client.is_model_ready("textloop", version)
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert client.get_model_metadata("textloop", version) == {
        "name": "textloop",
        "versions": [version],
        "platform": "textloop",
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {
                "name": "scores",
                "datatype": "FP32",
                "shape": [-1, 3],
                "parameters": {"labels": ["billing", "delivery", "login"]},
            },
        ],
    }


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("columns", [(), (1,)])
def test_triton_client_gets_the_native_answer(
    serve: StartServer,
    client: triton.InferenceServerClient,
    binary_in: bool,
    binary_out: bool,
    columns: tuple[int, ...],
) -> None:
    expected = native(serve("single"), TEXTS)
    metadata = client.get_model_metadata("textloop")

    result = client.infer(
        "textloop",
        [tensor("text", TEXTS, binary=binary_in, columns=columns)],
        model_version=metadata["versions"][0],
        request_id="seven",
        outputs=[
            triton.InferRequestedOutput(name, binary_data=binary_out)
            for name in ("scores", "label")
        ],
    )

    labels = metadata["outputs"][1]["parameters"]["labels"]
    assert_same(best_first(result, labels), expected)
    assert label_texts(result) == [answer[0]["label"] for answer in expected]
    response = result.get_response()
    assert response["id"] == "seven"
    assert response["model_version"] == metadata["versions"][0]
    assert [output["name"] for output in response["outputs"]] == ["scores", "label"]


def test_triton_client_gets_all_outputs_in_bytes_by_default(
    serve: StartServer, client: triton.InferenceServerClient
) -> None:
    result = client.infer("textloop", [tensor("text", TEXTS, binary=True)])

    assert [list(output) for output in result.get_response()["outputs"]] == [
        ["name", "shape", "datatype", "parameters"]
    ] * 2
    assert_same(
        best_first(result, ["billing", "delivery", "login"]), native(serve("single"), TEXTS)
    )


def test_triton_client_selects_an_output_and_a_function(
    serve: StartServer, client: triton.InferenceServerClient
) -> None:
    result = client.infer(
        "textloop",
        [tensor("text", TEXTS, binary=True)],
        outputs=[triton.InferRequestedOutput("scores")],
        parameters={"function_to_apply": "none"},
    )

    assert result.as_numpy("label") is None
    expected = native(serve("single"), TEXTS, function_to_apply="none")
    assert_same(best_first(result, ["billing", "delivery", "login"]), expected)


@pytest.mark.parametrize("binary", [True, False])
def test_triton_client_sends_pairs(serve: StartServer, binary: bool) -> None:
    server = serve("pair")
    texts, pairs = map(list, zip(*PAIRS, strict=True))

    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        result = client.infer(
            "textloop",
            [
                tensor("text_pair", pairs, binary=binary),
                tensor("text", texts, binary=not binary),
            ],
        )

    assert_same(best_first(result, ["billing", "delivery", "login"]), native(server, PAIRS))


def test_triton_client_sees_what_is_wrong(client: triton.InferenceServerClient) -> None:
    inputs = [tensor("text", TEXTS, binary=True)]

    with pytest.raises(InferenceServerException, match="unknown model `other`") as caught:
        client.infer("other", inputs)
    assert caught.value.status() == "404"
    with pytest.raises(InferenceServerException, match="unknown output `logits`"):
        client.infer("textloop", inputs, outputs=[triton.InferRequestedOutput("logits")])
    with pytest.raises(InferenceServerException, match=r"field `text.1`: the text is empty"):
        client.infer("textloop", [tensor("text", ["a", ""], binary=True)])


def text_input(**changes: Any) -> dict[str, Any]:
    """A request with one input of two texts, of which some is changed."""
    start = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]}
    return {"inputs": [start | changes]}


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
        (text_input(parameters={"shared_memory_region": "x"}), 422, "unknown field `inputs.0.par"),
        (
            text_input(data=None, parameters={"binary_data_size": 9}),
            400,
            "binary_data_size is 9, but 0 bytes are left",
        ),
        (text_input() | {"outputs": [{"name": "logits"}]}, 400, "unknown output `logits`"),
        (text_input() | {"parameters": {"priority": 1}}, 422, "unknown field `parameters.prio"),
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
