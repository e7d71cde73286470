"""Predictions do not depend on the company a text keeps."""

from __future__ import annotations

import pickle
import queue
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import make_rows

from serve.loop import ClassifierAPI, ClassifierLoop, _Request, classify
from serve.predictor import Predictor, pick_device
from serve.text import Encoding

TEXTS = [row["text"] for row in make_rows(150, seed=4)]


@pytest.fixture(scope="module")
def predictor(bundles: Callable[[str], Path]) -> Predictor:
    return Predictor.load(bundles("single"), device="cpu")


def test_rows_come_back_in_the_order_of_the_texts(predictor: Predictor) -> None:
    """Batches are sorted by length inside; stock length grouping loses the order."""
    together_NC = predictor.predict(TEXTS)

    apart_NC = np.concatenate([predictor.predict([text]) for text in TEXTS])

    assert together_NC.shape == (150, 3)
    assert np.abs(together_NC - apart_NC).max() < 1e-5
    assert together_NC.sum(axis=1) == pytest.approx(np.ones(150), abs=1e-5)


def test_a_failing_request_does_not_fail_its_neighbours(predictor: Predictor) -> None:
    good, other = predictor.encoder.encode(TEXTS[:2])
    bad: Encoding = good | {"input_ids": [10**6] * len(good["input_ids"])}
    requests = [
        _Request(0, name, 0.0, [encoding])
        for name, encoding in (("a", good), ("b", bad), ("c", other))
    ]

    answers = classify(predictor, requests)

    assert isinstance(answers[1], Exception)
    assert answers[0] == pytest.approx(predictor.logits([good]), abs=1e-5)
    assert answers[2] == pytest.approx(predictor.logits([other]), abs=1e-5)


def test_answers_are_split_by_request(predictor: Predictor) -> None:
    encodings = predictor.encoder.encode(TEXTS[:6])
    requests = [_Request(0, "a", 0.0, encodings[:1]), _Request(0, "b", 0.0, encodings[1:])]

    answers = classify(predictor, requests)

    assert [np.shape(answer) for answer in answers] == [(1, 3), (5, 3)]


def test_waiting_requests_share_a_batch_and_expired_ones_are_dropped(
    bundles: Callable[[str], Path],
) -> None:
    api = ClassifierAPI(str(bundles("single")), max_batch_texts=4)
    api.request_timeout = 30.0
    waiting: queue.Queue[tuple[int, str, float, list[Encoding]]] = queue.Queue()
    now = time.monotonic()
    for uid, age_s, num_texts in [
        ("a", 0, 1),
        ("late", 31, 1),
        ("b", 1, 2),
        ("c", 0, 3),
        ("d", 0, 1),
    ]:
        waiting.put((0, uid, now - age_s, [{"input_ids": [2, 3]}] * num_texts))

    batches = [[r.uid for r in ClassifierLoop()._collect(api, waiting)] for _ in range(2)]

    assert batches == [["a", "b", "c"], ["d"]]


def test_what_a_worker_is_given_can_be_pickled(bundles: Callable[[str], Path]) -> None:
    api = ClassifierAPI(str(bundles("single")), max_batch_texts=4)

    assert pickle.loads(pickle.dumps(api)).bundle_path == api.bundle_path


def test_cuda_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    assert pick_device("auto") == "cpu"
    with pytest.raises(ValueError, match="sees no CUDA GPU"):
        pick_device("cuda")
