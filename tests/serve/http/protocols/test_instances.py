"""Vertex AI and KServe V1, which share their bodies, get the answer of `POST /predict`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from answers import LONG, PAIRS, TEXTS, StartServer, assert_same, native, post
from processes import Server, free_port, run

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
def test_instances_may_bring_fields_of_their_own(serve: StartServer, path: str) -> None:
    server = serve("single")
    instances = [
        {"inputs": TEXTS[0], "id": 7, "key": "a"},
        {"text": TEXTS[1], "created": "2026-01-01", "text_id": 3, "label": None},
        TEXTS[2],
    ]
    body = {"instances": instances, "signature_name": "serving_default"}

    answer = post(server, path, json.dumps(body).encode()).json()

    assert_same(answer["predictions"], native(server, TEXTS))


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
        ("single", {"instances": [{"text": "a", "textPair": "b"}]}, "`instances.0.textPair`; did"),
        ("single", {"instances": [{"text": "a", "top_k": 1}]}, "field `instances.0.top_k`; it bel"),
        ("single", {"instances": [{"text": "a", "text_pair": "b"}]}, "classifies single texts"),
        ("single", {"instances": ["a"], "params": {}}, "`params`"),
        ("single", {"instances": ["a"], "parameters": {"k": 1}}, "unknown field `parameters.k`"),
        ("single", {"instances": ["a"], "parameters": {"topk": 1}}, "mean `parameters.top_k`?"),
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
    assert response.json()["field"] in response.json()["error"]


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
