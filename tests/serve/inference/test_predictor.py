"""Predictions do not depend on the other texts of a batch, nor on their order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rows import make_rows

from serve.bundle.seal import open_bundle
from serve.inference.passes import BATCH_TOKENS, batch_ends
from serve.inference.placement import pick_backend, pick_device
from serve.inference.predictor import Predictor
from serve.inference.scores import Array
from serve.inference.text import Batch

TEXTS = [row["text"] for row in make_rows(150, seed=4)]


@pytest.fixture(scope="module")
def predictor(bundles: Callable[[str], Path]) -> Predictor:
    return Predictor.load(bundles("single"), device="cpu")


def test_rows_come_back_in_the_order_of_the_texts(predictor: Predictor) -> None:
    """Batches are sorted by length internally; stock length grouping loses the order."""
    together_NC = predictor.predict(TEXTS)

    apart_NC = np.concatenate([predictor.predict([text]) for text in TEXTS])

    assert together_NC.shape == (150, 3)
    assert np.abs(together_NC - apart_NC).max() < 1e-5
    assert together_NC.sum(axis=1) == pytest.approx(np.ones(150), abs=1e-5)


def test_int8_scores_do_not_depend_on_the_batch(predictor: Predictor) -> None:
    """Stock dynamic quantization uses one scale per batch, so scores depend on the batch."""
    assert predictor.backend.name == "onnx"
    encodings = predictor.encoder.encode(TEXTS)
    long = predictor.encoder.encode(["parcel invoice password " * 10])

    alone_NC = np.concatenate([predictor.logits([encoding]) for encoding in encodings])
    together_NC = np.concatenate([predictor.logits([each, *long])[:1] for each in encodings])

    assert np.abs(alone_NC - together_NC).max() <= predictor.backend.tolerance
    assert np.abs(alone_NC - predictor.logits(encodings)).max() <= predictor.backend.tolerance


def test_auto_uses_the_int8_export_if_there_is_one(
    bundles: Callable[[str], Path],
) -> None:
    with_export, without = (open_bundle(bundles(kind)) for kind in ("single", "multi"))

    assert pick_backend(with_export, device="cpu", requested="auto")[0] == "onnx"
    assert pick_backend(with_export, device="cuda", requested="auto")[0] == "torch"
    assert pick_backend(with_export, device="cpu", requested="torch")[0] == "torch"
    assert pick_backend(without, device="cpu", requested="auto") == (
        "torch",
        "the bundle has no int8 export",
    )
    with pytest.raises(ValueError, match="has no int8 export; use torch"):
        pick_backend(without, device="cpu", requested="onnx")
    with pytest.raises(ValueError, match="the device is cuda"):
        pick_backend(with_export, device="cuda", requested="onnx")


def test_warm_up_chooses_one_of_the_candidate_sizes(predictor: Predictor) -> None:
    throughput = predictor.warm_up()

    assert throughput.max_batch_tokens in BATCH_TOKENS["onnx", "cpu"]
    assert throughput.tokens_per_s > 0
    assert predictor.warm_up(100).max_batch_tokens == 100


def test_cuda_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("serve.inference.placement.GPU_NODES", ("/dev/null",))

    assert pick_device("auto") == "cpu"
    with pytest.raises(ValueError, match="sees no CUDA GPU"):
        pick_device("cuda")


def test_batches_are_limited_in_tokens_and_in_texts(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of 64 long texts took gigabytes."""
    shapes = []
    forward = type(predictor.backend).forward

    def recorded(self: Any, batch_NL: Batch) -> Array:
        shapes.append(batch_NL["input_ids"].shape)
        return forward(self, batch_NL)

    monkeypatch.setattr(type(predictor.backend), "forward", recorded)
    long = "parcel " * predictor.encoder.max_length
    many = Predictor(predictor.bundle, predictor.encoder, predictor.backend, batch_size=64)

    many.predict(["parcel"] * 150 + [long] * 50)

    limit = BATCH_TOKENS["onnx", "cpu"][-1]
    assert sum(rows for rows, _ in shapes) == 200
    assert max(rows for rows, _ in shapes) == 64
    assert limit / 2 < max(rows * length for rows, length in shapes) <= limit


@pytest.mark.parametrize(
    ("lengths", "ends"),
    [
        ([3], [1]),
        ([3, 3, 3, 3, 3], [4, 5]),
        ([1, 4, 4, 4, 4], [3, 5]),
        ([2, 12, 13, 40], [1, 2, 3, 4]),
    ],
)
def test_batch_ends(lengths: list[int], ends: list[int]) -> None:
    assert batch_ends(lengths, 4, max_tokens=12) == ends
