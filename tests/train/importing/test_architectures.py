"""Every architecture is imported with the logits of the stock pipeline, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import pipeline

from serve.inference.predictor import Predictor
from tests.train.importing.checkpoints import ARCHITECTURES, LABELS, REFUSED
from tests.train.importing.conftest import bring, refusal_of

TEXTS = ["invoice paid twice", "ok", "where is my parcel " * 40, "Müller said: 这个 👍 [SEP] box"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_imported_bundle_answers_as_the_stock_pipeline(
    name: str, make: Callable[..., Path], tmp_path: Path
) -> None:
    source = make(name)

    imported = bring(source, tmp_path / "bundle")

    parity = imported.bundle.manifest.parity
    assert parity["texts"] >= 20
    assert max(parity["stock_single"], parity["stock_batch"]) <= 1e-4
    stock = pipeline("text-classification", str(source), top_k=None, device="cpu")
    predictor = Predictor.load(tmp_path / "bundle", device="cpu")
    served_NC = predictor.predict(TEXTS)
    limit = imported.bundle.manifest.max_length
    for text, served_C in zip(TEXTS, served_NC, strict=True):
        scores = {
            e["label"]: e["score"] for e in stock([text], truncation=True, max_length=limit)[0]
        }
        np.testing.assert_allclose(served_C, [scores[label] for label in LABELS], atol=1e-4)


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_what_cannot_be_served_alike_is_refused_with_the_reason(
    name: str, reason: str, make: Callable[..., Path], tmp_path: Path
) -> None:
    assert reason in refusal_of(make(name), tmp_path / "bundle")


def test_pairs_are_compared_as_pairs(make: Callable[..., Path], tmp_path: Path) -> None:
    bundle = bring(make("bert"), tmp_path / "bundle", pair=True).bundle

    assert bundle.manifest.is_pair
    assert bundle.manifest.parity["stock_single"] <= 1e-4
    assert Predictor.load(bundle.path, device="cpu").predict([("invoice", "paid")]).shape == (1, 3)


def test_multi_label_models_answer_with_sigmoids(make: Callable[..., Path], tmp_path: Path) -> None:
    source = make("bert", problem_type="multi_label_classification")

    bundle = bring(source, tmp_path / "bundle").bundle

    assert bundle.manifest.task == "multi_label"
    stock = pipeline("text-classification", str(source), top_k=None, device="cpu")
    scores = {each["label"]: each["score"] for each in stock(["invoice paid"])[0]}
    served_C = Predictor.load(bundle.path, device="cpu").predict(["invoice paid"])[0]
    np.testing.assert_allclose(served_C, [scores[label] for label in LABELS], atol=1e-4)


def test_a_bundle_whose_weights_differ_is_refused_with_the_figure_and_the_text(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from train.importing import convert

    write = convert.write_checkpoint

    def alter(checkpoint: object, directory: Path) -> None:
        with torch.no_grad():
            checkpoint.model.classifier.bias[0] += 0.01
        write(checkpoint, directory)

    monkeypatch.setattr(convert, "write_checkpoint", alter)

    message = refusal_of(make(), tmp_path / "bundle")

    assert "differ by 1.0e-02 for " in message
    assert " alone, '" in message  # the kind of text, and the text
    assert "over the tolerance of 1e-04" in message
