"""The server and the file classifier apply the bundle's thresholds and abstention."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from altered import abstention, calibrated
from processes import Server, running
from rows import make_rows, write_jsonl

from serve.bundle.seal import open_bundle
from serve.inference.predictor import Predictor
from serve.predict_file import predict_file

TEXTS = [row["text"] for row in make_rows(40, seed=9)]

Bundles = Callable[[str], Path]


def middle(bundle: Path, backend: Any) -> float:
    """Return a confidence that half of the texts reach."""
    predictor = Predictor.load(bundle, device="cpu", backend=backend)
    sure_N = np.sort(predictor.rules.decide(predictor.predict(TEXTS)).confidence_N)
    return float(sure_N[19:21].mean())


@pytest.fixture(scope="module")
def unsure(bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that abstains on half of the texts in int8, and on all in full precision."""
    return calibrated(
        bundles("single"),
        tmp_path_factory.mktemp("unsure"),
        abstention={
            "torch": abstention(1.0),
            "onnx": abstention(middle(bundles("single"), "onnx")),
        },
    )


@pytest.fixture(scope="module")
def server(unsure: Path) -> Iterator[Server]:
    with running(unsure) as server:
        yield server


@pytest.fixture(scope="module")
def several(bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multi-label bundle with thresholds far from 0.5."""
    return calibrated(
        bundles("multi"),
        tmp_path_factory.mktemp("several"),
        thresholds=(0.05, 0.95, 0.5),
        abstention={"torch": abstention(middle(bundles("multi"), "torch"))},
    )


def test_server_reports_where_it_abstains(server: Server, unsure: Path) -> None:
    predictor = Predictor.load(unsure, device="cpu", backend="onnx")
    probabilities_NC = predictor.predict(TEXTS)
    decision = predictor.rules.decide(probabilities_NC)

    answer = server.post({"inputs": TEXTS, "parameters": {"abstain": True}}).json()

    plain = server.post({"inputs": TEXTS, "parameters": {}}).json()
    assert [each["labels"] for each in answer] == plain
    assert [each["predicted"] for each in answer] == [[each[0]["label"]] for each in plain]
    assert [each["confidence"] for each in answer] == pytest.approx(
        decision.confidence_N.tolist(), abs=1e-4
    )
    sure_enough = np.abs(decision.confidence_N - predictor.rules.abstain_below) > 1e-4
    reported = np.array([each["abstain"] for each in answer])
    assert (reported == decision.abstain_N)[sure_enough].all()
    assert 10 < reported.sum() < 30


@pytest.mark.parametrize("options", [{"function_to_apply": "none"}, {"top_k": 1}])
def test_abstention_does_not_depend_on_how_scores_are_shown(
    server: Server, options: dict[str, Any]
) -> None:
    asked = {"inputs": TEXTS[:5], "parameters": {"abstain": True}}
    usual = server.post(asked).json()

    answer = server.post(asked | {"parameters": {"abstain": True, **options}}).json()

    for name in ("abstain", "confidence", "predicted"):
        assert [each[name] for each in answer] == [each[name] for each in usual]
    assert answer[0]["labels"] != usual[0]["labels"]


@pytest.mark.parametrize("parameters", [{}, {"abstain": False}, {"abstain": None}])
def test_abstention_is_reported_only_on_request(server: Server, parameters: dict[str, Any]) -> None:
    answer = server.post({"inputs": TEXTS[:1], "parameters": parameters}).json()

    assert answer[0][0].keys() == {"label", "score"}


def test_instances_report_abstention_too(server: Server) -> None:
    body = {"instances": TEXTS[:4], "parameters": {"abstain": True, "top_k": 2}}
    expected = server.post({"inputs": TEXTS[:4], "parameters": body["parameters"]}).json()

    answer = httpx.post(f"{server.url}/v1/models/textloop:predict", json=body, timeout=60).json()

    for got, wanted in zip(answer["predictions"], expected, strict=True):
        assert got["abstain"] == wanted["abstain"]
        assert got["predicted"] == wanted["predicted"]
        assert got["confidence"] == pytest.approx(wanted["confidence"], abs=1e-5)
        assert [each["label"] for each in got["labels"]] == [
            each["label"] for each in wanted["labels"]
        ]


def test_info_holds_the_calibration(server: Server, unsure: Path) -> None:
    info = httpx.get(f"{server.url}/info", timeout=60).json()

    calibration = open_bundle(unsure).manifest.calibration
    assert info["calibration"] == json.loads(calibration.model_dump_json())


@pytest.mark.parametrize("path", ["/predict", "/v1/models/textloop:predict"])
def test_abstain_without_a_threshold_is_422_with_the_remedy(
    serve: Callable[..., Server], path: str
) -> None:
    name = "inputs" if path == "/predict" else "instances"
    body = {name: TEXTS[:1], "parameters": {"abstain": True}}

    response = httpx.post(f"{serve('single').url}{path}", json=body, timeout=60)

    assert response.status_code == 422
    assert response.json()["field"] == "parameters.abstain"
    assert "calibration.max_risk" in response.json()["error"]


def test_missing_threshold_states_the_reason(bundles: Bundles, tmp_path: Path) -> None:
    bundle = calibrated(bundles("single"), tmp_path, abstention={"torch": abstention(None)})

    rules = Predictor.load(bundle, device="cpu", backend="torch").rules

    assert rules.abstain_below is None
    assert "no row is sure" in rules.no_abstention


def test_file_classifier_uses_each_labels_threshold_and_abstains(
    several: Path, tmp_path: Path
) -> None:
    predictor = Predictor.load(several, device="cpu", backend="torch")
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": text} for text in [*TEXTS, " "]])

    predict_file(predictor, source, tmp_path / "out.jsonl", text_columns=("text",))

    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    failed = rows.pop()
    assert failed["predicted_error"] == "the text is empty"
    assert failed["predicted_abstain"] is None
    labels = predictor.bundle.manifest.labels
    probabilities_NC = predictor.predict(TEXTS)
    for row, p_C in zip(rows, probabilities_NC, strict=True):
        wanted = {
            label
            for label, p, least in zip(labels, p_C, (0.05, 0.95, 0.5), strict=True)
            if p >= least
        }
        assert set(row["predicted_labels"]) == wanted
        assert row["predicted_scores"] == sorted(row["predicted_scores"], reverse=True)
    given = [row["predicted_abstain"] for row in rows]
    assert given == predictor.rules.decide(probabilities_NC).abstain_N.tolist()


def test_server_predicts_by_each_labels_threshold(several: Path) -> None:
    predictor = Predictor.load(several, device="cpu", backend="torch")
    expected_NC = predictor.rules.decide(predictor.predict(TEXTS)).predicted_NC
    labels = np.array(predictor.bundle.manifest.labels)

    with running(several) as server:
        answer = server.post({"inputs": TEXTS, "parameters": {"abstain": True}}).json()

    assert [set(each["predicted"]) for each in answer] == [
        set(labels[each]) for each in expected_NC
    ]
    by_half = [{e["label"] for e in each["labels"] if e["score"] >= 0.5} for each in answer]
    assert by_half != [set(each["predicted"]) for each in answer]
