"""A binary model with a decision threshold is served by it, in every protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from altered import calibrated
from processes import Server, running
from rows import make_rows, write_jsonl

from serve.bundle.binary import DecisionThreshold
from serve.bundle.manifest import Abstention
from serve.bundle.seal import open_bundle
from serve.inference.decision import Rules
from serve.inference.predictor import Predictor
from serve.predict_file import predict_file

TEXTS = [row["text"] for row in make_rows(40, seed=9)]
LOGIN, OTHER = 0, 1


def threshold(value: float | None) -> DecisionThreshold:
    return DecisionThreshold(
        positive_label="login",
        threshold=value,
        chosen_for="recall",
        wish=0.95,
        confidence=0.95,
        reason="12 of 30 rows have the label",
        rows=30,
        positives=12,
    )


@pytest.fixture(scope="module")
def eager(bundles: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that predicts login for three in four texts in int8; none in full precision."""
    predictor = Predictor.load(bundles("binary"), device="cpu", backend="onnx")
    scores_N = np.sort(predictor.predict(TEXTS)[:, LOGIN])
    below = float(scores_N[9:11].mean())
    assert below < 0.4
    return calibrated(
        bundles("binary"),
        tmp_path_factory.mktemp("eager"),
        decision={"torch": threshold(None), "onnx": threshold(below)},
        abstention={
            "onnx": Abstention(
                max_risk=0.1, risk_confidence=0.95, abstain_below=0.45, reason="", rows=30
            )
        },
    )


@pytest.fixture(scope="module")
def server(eager: Path) -> Iterator[Server]:
    with running(eager) as server:
        yield server


@pytest.fixture(scope="module")
def expected(eager: Path) -> list[str]:
    predictor = Predictor.load(eager, device="cpu", backend="onnx")
    probabilities_NC = predictor.predict(TEXTS)
    decision = predictor.rules.decide(probabilities_NC)
    best_N = probabilities_NC.argmax(axis=1)
    labels = [("login", "other")[c] for c in decision.predicted_NC.argmax(axis=1)]
    assert labels.count("login") == 30
    assert sum(best_N == LOGIN) < 30
    return labels


def post(server: Server, path: str, body: Any) -> Any:
    response = httpx.post(f"{server.url}{path}", json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("parameters", [{}, {"top_k": 1}, {"function_to_apply": "none"}])
def test_first_label_of_an_answer_is_the_predicted_one(
    server: Server, expected: list[str], parameters: dict[str, Any]
) -> None:
    answer = server.post({"inputs": TEXTS, "parameters": parameters}).json()

    assert [each[0]["label"] for each in answer] == expected
    if not parameters:
        assert any(each[0]["score"] < each[1]["score"] for each in answer)
        assert [sum(entry["score"] for entry in each) for each in answer] == pytest.approx(
            [1.0] * len(TEXTS), abs=1e-5
        )


def test_single_text_is_answered_with_the_predicted_label_first(
    server: Server, expected: list[str]
) -> None:
    answers = [server.post({"inputs": text}).json() for text in TEXTS[:10]]

    assert [each[0]["label"] for each in answers] == expected[:10]


def test_verdict_holds_the_predicted_label_and_its_own_probability(
    server: Server, expected: list[str]
) -> None:
    answer = server.post({"inputs": TEXTS, "parameters": {"abstain": True}}).json()

    assert [each["predicted"] for each in answer] == [[label] for label in expected]
    for each in answer:
        assert each["labels"][0]["label"] == each["predicted"][0]
        assert each["confidence"] == pytest.approx(each["labels"][0]["score"])
        assert each["abstain"] == (each["confidence"] < 0.45)
    assert {each["abstain"] for each in answer} == {True, False}


@pytest.mark.parametrize("path", ["/v1/models/textloop:predict", "/vertex/predict"])
def test_instances_are_predicted_by_the_threshold(
    server: Server, expected: list[str], path: str
) -> None:
    answer = post(server, path, {"instances": TEXTS})["predictions"]

    assert [each[0]["label"] for each in answer] == expected


def test_kserve_v2_label_and_classes_follow_the_threshold(
    server: Server, expected: list[str]
) -> None:
    text = {"name": "text", "shape": [len(TEXTS)], "datatype": "BYTES", "data": TEXTS}
    outputs = [{"name": "label"}, {"name": "scores", "parameters": {"classification": 1}}]

    label, classes = post(
        server, "/v2/models/textloop/infer", {"inputs": [text], "outputs": outputs}
    )["outputs"]

    assert label["data"] == expected
    assert [each.split(":")[2] for each in classes["data"]] == expected


def test_sagemaker_lines_follow_the_threshold(server: Server, expected: list[str]) -> None:
    answer = httpx.post(
        f"{server.url}/invocations",
        content="\n".join(json.dumps({"text": text}) for text in TEXTS),
        headers={"content-type": "application/jsonlines"},
        timeout=60,
    ).json()

    assert [each[0]["label"] for each in answer] == expected


def test_info_states_the_threshold_of_the_served_backend(server: Server, eager: Path) -> None:
    decision = httpx.get(f"{server.url}/info", timeout=60).json()["decision"]

    sealed = open_bundle(eager).manifest.calibration
    assert sealed is not None
    assert decision == {
        "positive_label": "login",
        "threshold": sealed.decision["onnx"].threshold,
        "reason": "12 of 30 rows have the label",
    }


@pytest.mark.slow
def test_info_says_that_half_decides_where_no_threshold_was_found(eager: Path) -> None:
    with running(eager, "backend=torch") as server:
        decision = httpx.get(f"{server.url}/info", timeout=60).json()["decision"]
        answer = server.post({"inputs": TEXTS, "parameters": {}}).json()

    assert (decision["threshold"], decision["reason"]) == (0.5, "12 of 30 rows have the label")
    assert all(each[0]["score"] >= each[1]["score"] for each in answer)


def test_texts_are_counted_by_the_predicted_label(server: Server, expected: list[str]) -> None:
    def count() -> float:
        metrics = httpx.get(f"{server.url}/metrics", timeout=60).text
        name = 'textloop_labels_total{arm="champion",label="login"'
        (line,) = [each for each in metrics.splitlines() if each.startswith(name)]
        return float(line.rpartition(" ")[2])

    server.post({"inputs": TEXTS[:1]})
    before = count()
    server.post({"inputs": TEXTS})

    assert count() - before == expected.count("login")


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_file_classifier_predicts_by_the_threshold(
    eager: Path, expected: list[str], tmp_path: Path, suffix: str
) -> None:
    predictor = Predictor.load(eager, device="cpu", backend="onnx")
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": text} for text in TEXTS])

    predict_file(predictor, source, tmp_path / f"out.{suffix}", text_columns=("text",))

    content = (tmp_path / f"out.{suffix}").read_text()
    assert content.count("login") == expected.count("login") + sum("login" in t for t in TEXTS)
    if suffix == "jsonl":
        rows = [json.loads(line) for line in content.splitlines()]
        assert [row["predicted_label"] for row in rows] == expected
        predicted_NC = predictor.predict(TEXTS)
        scores = [
            float(p_C[LOGIN if label == "login" else OTHER])
            for p_C, label in zip(predicted_NC, expected, strict=True)
        ]
        assert [row["predicted_score"] for row in rows] == pytest.approx(scores, abs=1e-5)


def test_probability_equal_to_the_threshold_predicts_the_positive_label() -> None:
    p_NC = np.array([[0.3, 0.7], [0.29, 0.71], [0.9, 0.1]], dtype=np.float32)
    rules = Rules(
        task="single_label",
        thresholds_C=None,
        abstention=None,
        binary=threshold(float(np.float32(0.3))),
        positive=0,
    )

    decision = rules.decide(p_NC)

    assert decision.predicted_NC.tolist() == [[True, False], [False, True], [True, False]]
    assert decision.confidence_N.tolist() == [p_NC[0, 0], p_NC[1, 1], p_NC[2, 0]]
