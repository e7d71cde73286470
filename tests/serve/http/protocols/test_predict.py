"""Hugging Face and text-embeddings-inference clients get the answer of `POST /predict`."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from answers import LONG, PAIRS, TEXTS, StartServer, assert_same, native, post
from huggingface_hub import AsyncInferenceClient, InferenceClient


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


@pytest.mark.parametrize(
    ("agent", "nested"),
    [
        ("@huggingface/inference/4.13.30 Node.js/20", True),
        ("@huggingface/inference/3.1.3", True),
        ("unknown/None; hf_hub/0.20.3; python/3.11.7", True),
        ("python-requests/2.32", False),
        ("text-embeddings-client/1", False),
    ],
)
@pytest.mark.parametrize("path", ["/", "/predict"])
def test_clients_of_hugging_face_get_a_list_per_text_without_parameters(
    serve: StartServer, path: str, agent: str, nested: bool
) -> None:
    server = serve("single")
    body = json.dumps({"inputs": TEXTS[0]}).encode()

    answer = post(server, path, body, "application/json", **{"user-agent": agent}).json()

    assert_same(answer if nested else [answer], native(server, TEXTS[:1]))


PIPELINE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"parameters": {"return_all_scores": True}}, {}),
    ({"parameters": {"return_all_scores": False}}, {"top_k": 1}),
    ({"parameters": {"truncation": "longest_first", "padding": True}}, {}),
    ({"parameters": {"truncation": True, "max_length": 512, "padding": "max_length"}}, {}),
    ({"options": {"wait_for_model": True, "use_cache": False}}, {}),
]
"""What other servers of pipelines take, and the same in our own parameters."""


@pytest.mark.parametrize(("fields", "parameters"), PIPELINE)
def test_fields_of_other_servers_are_taken_for_what_they_mean(
    serve: StartServer, fields: dict[str, Any], parameters: dict[str, Any]
) -> None:
    server = serve("single")

    answer = server.post({"inputs": [*TEXTS, LONG], **fields}).json()

    assert_same(answer, native(server, [*TEXTS, LONG], **parameters))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parameters": {"top_k": 2, "return_all_scores": True}}, "send one of them"),
        ({"parameters": {"truncation": "only_first"}}, "longest_first or do_not_truncate"),
        ({"parameters": {"max_length": 31}}, "31 is less than the model's 32 tokens"),
        ({"parameters": {"topk": 2}}, "`parameters.topk`; did you mean `parameters.top_k`?"),
        ({"parameters": {"top-k": 2}}, "did you mean `parameters.top_k`?"),
        ({"topK": 2}, "unknown field `topK`; did you mean `parameters.top_k`?"),
        ({"parameter": {}}, "did you mean `parameters`?"),
        ({"options": {"temperature": 1}}, "unknown field `options.temperature`"),
    ],
)
def test_field_that_cannot_be_honoured_is_refused(
    serve: StartServer, fields: dict[str, Any], message: str
) -> None:
    response = serve("single").post({"inputs": TEXTS, **fields})

    assert response.status_code == 422
    assert message in response.json()["error"]


def test_do_not_truncate_refuses_long_texts(serve: StartServer) -> None:
    body = {"inputs": LONG, "parameters": {"truncation": "do_not_truncate"}}

    assert "over the limit of 32 tokens" in serve("single").post(body).json()["error"]


def test_texts_come_in_objects_as_pipelines_take_them(serve: StartServer) -> None:
    single, pair = serve("single"), serve("pair")
    objects = [{"text": text} for text in TEXTS]
    pairs = [{"text_pair": second, "text": first} for first, second in PAIRS]

    assert_same([single.post({"inputs": objects[0]}).json()], native(single, TEXTS[:1]))
    assert_same(single.post({"inputs": objects}).json(), native(single, TEXTS))
    assert_same([pair.post({"inputs": pairs[0]}).json()], native(pair, PAIRS[:1]))
    assert_same(pair.post({"inputs": pairs}).json(), native(pair, PAIRS))


@pytest.mark.parametrize(
    ("kind", "inputs", "message"),
    [
        ("single", {"text": ""}, "field `inputs.text`: the text is empty"),
        ("single", [{"text": "a"}, {"text": 3}], "field `inputs.1.text`: expected a string"),
        ("single", {"text": "a", "text_pair": "b"}, "`inputs.text_pair`: this model classifies si"),
        ("single", {"text": "a", "id": 1}, "unknown field `inputs.id`"),
        ("pair", {"text": "a"}, "field `inputs.text`: this model classifies pairs"),
        ("pair", {"text_pair": "a"}, "field `inputs.text`: required beside `text_pair`"),
        ("pair", [{"text": "a", "textPair": "b"}], "did you mean `text_pair`?"),
        ("pair", {"text": "a", "text_pair": " "}, "field `inputs.text_pair`: the text is empty"),
    ],
)
def test_object_that_is_no_text_is_named(
    serve: StartServer, kind: str, inputs: Any, message: str
) -> None:
    response = serve(kind).post({"inputs": inputs})

    assert response.status_code == 422
    assert message in response.json()["error"]


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_decisions_need_no_abstention(serve: StartServer, kind: str) -> None:
    server = serve(kind)

    verdicts = native(server, TEXTS, decide=True)

    assert [each.keys() for each in verdicts] == [{"confidence", "predicted", "labels"}] * 3
    assert_same([each["labels"] for each in verdicts], native(server, TEXTS))
    if kind == "single":
        assert [each["predicted"] for each in verdicts] == [
            [each["labels"][0]["label"]] for each in verdicts
        ]


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
