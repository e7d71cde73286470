"""Send requests in any wire format, and compare their answers with those of `POST /predict`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from processes import Server

StartServer = Callable[..., Server]

TEXTS = ["my parcel is late", "paid the invoice twice", "account locked, café 日本"]
PAIRS = [["parcel late", "courier"], ["invoice paid", "charge"], ["reset code", "password"]]

LONG = "parcel " * 100

BINARY = "Inference-Header-Content-Length"
INFER = "/v2/models/textloop/infer"


def native(server: Server, inputs: Any, **parameters: Any) -> Any:
    """Return the labels and scores of a list of inputs, from `/predict`."""
    response = server.post({"inputs": inputs, "parameters": parameters})
    assert response.status_code == 200, response.text
    return response.json()


def post(server: Server, path: str, body: bytes, kind: str = "", **headers: str) -> httpx.Response:
    headers |= {"content-type": kind} if kind else {}
    return httpx.post(f"{server.url}{path}", content=body, headers=headers, timeout=60)


def assert_same(answers: Any, expected: Any) -> None:
    """Check for the same labels in the same order, with the same scores."""
    assert len(answers) == len(expected)
    for answer, wanted in zip(answers, expected, strict=True):
        assert [entry["label"] for entry in answer] == [entry["label"] for entry in wanted]
        scores = [entry["score"] for entry in wanted]
        assert [entry["score"] for entry in answer] == pytest.approx(scores, abs=1e-5)
