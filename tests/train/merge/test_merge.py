"""The merged model is the trained one, and the stock classes agree with the server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import Server
from rows import make_rows
from transformers import AutoModelForSequenceClassification, pipeline

from serve.bundle.seal import open_bundle
from serve.inference.predictor import Predictor
from train.config.run import RunConfig
from train.fit.fit import fit
from train.merge.merge import MergeRefused, merge
from train.merge.parity import tolerance_of

KINDS = ["single", "multi", "pair"]


def texts_of(kind: str, num_texts: int) -> list[Any]:
    columns = 2 if kind == "pair" else 1
    rows = make_rows(num_texts, seed=3, columns=columns)
    return [(row["text"], row["text_pair"]) if columns == 2 else row["text"] for row in rows]


@pytest.mark.parametrize("kind", KINDS)
def test_adapter_merged_and_reloaded_logits_agree(
    kind: str, bundles: Callable[[str], Path]
) -> None:
    parity = open_bundle(bundles(kind)).manifest.parity

    assert parity["adapter_merged"] <= 1e-4
    assert parity["adapter_reloaded"] <= 1e-4
    assert parity["texts"] > 0


@pytest.mark.parametrize(
    "kind",
    [KINDS[0], *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])],
)
def test_pipeline_and_server_give_the_same_labels_and_scores(
    kind: str, bundles: Callable[[str], Path], serve: Callable[[str], Server]
) -> None:
    texts = texts_of(kind, 500)
    classify = pipeline("text-classification", model=str(bundles(kind)), top_k=None)
    inputs = [{"text": t[0], "text_pair": t[1]} if kind == "pair" else t for t in texts]
    expected = classify(inputs, batch_size=50, truncation=True)

    answers = serve(kind, "backend=torch").post({"inputs": texts}).json()

    assert len(answers) == 500
    for want, got in zip(expected, answers, strict=True):
        want_scores = {entry["label"]: entry["score"] for entry in want}
        got_scores = {entry["label"]: entry["score"] for entry in got}
        assert want_scores.keys() == got_scores.keys()
        assert all(abs(want_scores[name] - got_scores[name]) <= 1e-4 for name in want_scores)
        assert want[0]["label"] == got[0]["label"]


def test_bundle_holds_exactly_these_files_and_reloads_strictly(
    bundles: Callable[[str], Path],
) -> None:
    path = bundles("single")

    files = [file for file in path.rglob("*") if file.is_file()]
    assert sorted(str(file.relative_to(path)) for file in files) == [
        "config.json",
        "golden.json",
        "manifest.json",
        "model.safetensors",
        "onnx/model_int8.onnx",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    _, info = AutoModelForSequenceClassification.from_pretrained(path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in files)


def test_untrained_pooler_is_trained_and_saved(
    bundles: Callable[[str], Path], tiny_base: Path
) -> None:
    """Stock peft leaves the pooler as it was: all-zero bias, weights of the base."""
    model = AutoModelForSequenceClassification.from_pretrained(bundles("single"))
    base = AutoModelForSequenceClassification.from_pretrained(tiny_base)

    pooler = model.bert.pooler.dense
    assert pooler.bias.any()
    assert not np.allclose(pooler.weight.detach(), base.bert.pooler.dense.weight.detach())


def test_full_fine_tuning_makes_a_bundle_too(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    values = make_config(tmp_path / "run", method="full", trainer={"learning_rate": 1e-3})
    del values["lora"]
    config = RunConfig.model_validate(values)

    fit(config)
    bundle = merge(config)

    assert bundle.manifest.parity["adapter_reloaded"] <= 1e-4
    assert Predictor.load(bundle.path).predict(["my parcel is late"]).shape == (1, 3)


def test_merge_refuses_a_model_that_is_not_the_trained_one(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig.model_validate(make_config(tmp_path / "run"))
    fit(config)
    monkeypatch.setattr("train.merge.parity.TOLERANCE", -1.0)

    with pytest.raises(MergeRefused, match="differ by up to"):
        merge(config)

    assert not (tmp_path / "run" / "bundle").exists()
    assert not list((tmp_path / "run").glob(".bundle*"))


@pytest.mark.parametrize(
    ("largest", "tolerance"), [(3.0, 1e-4), (10.0, 1e-4), (2000.0, 2e-2), (float("nan"), 1e-4)]
)
def test_tolerance_grows_with_logits_that_fp32_cannot_hold_closer(
    largest: float, tolerance: float
) -> None:
    logits_NC = np.array([[0.0, -largest]], dtype=np.float32)

    assert tolerance_of(logits_NC) == pytest.approx(tolerance)
