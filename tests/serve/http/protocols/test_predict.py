"""Hugging Face and text-embeddings-inference clients get the answer of `POST /predict`."""

from __future__ import annotations

import asyncio
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
