"""An imported bundle has golden cases, whatever its architecture and tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serve.bundle.golden import read_golden
from serve.inference.golden import check_golden
from serve.inference.passes import BadLogits
from serve.inference.predictor import Predictor
from tests.train.importing.checkpoints import edit
from tests.train.importing.conftest import bring, refusal_of


@pytest.mark.parametrize("name", ["bert", "roberta", "deberta-v3", "modernbert", "gpt2", "qwen3"])
def test_an_imported_model_reproduces_its_golden_cases(
    name: str, make: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = bring(make(name), tmp_path / "bundle").bundle

    golden = read_golden(bundle.path, bundle.manifest)
    assert {precision for case in golden.cases for precision in case.logits} == {"fp32"}
    assert any(case.text is None for case in golden.cases)
    check_golden(Predictor.load(bundle.path, device="cpu"))


def test_a_pair_model_has_pairs(make: Callable[..., Path], tmp_path: Path) -> None:
    bundle = bring(make("bert"), tmp_path / "bundle", pair=True).bundle

    golden = read_golden(bundle.path, bundle.manifest)
    assert any(1 in case.encoding["token_type_ids"] for case in golden.cases)
    check_golden(Predictor.load(bundle.path, device="cpu"))


def test_a_multi_label_model_has_logits_of_all_labels(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    source = make("bert", problem_type="multi_label_classification")

    bundle = bring(source, tmp_path / "bundle").bundle

    golden = read_golden(bundle.path, bundle.manifest)
    assert golden.labels == bundle.manifest.labels
    check_golden(Predictor.load(bundle.path, device="cpu"))


def test_a_tokenizer_written_in_python_has_golden_tokens(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    source = make("bert", vocab_size=400)
    for each in source.glob("*token*"):
        each.unlink()
    settings = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 0, "model_max_length": 64}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))

    bundle = bring(source, tmp_path / "bundle").bundle

    assert not bundle.manifest.tokenizer.fast
    golden = read_golden(bundle.path, bundle.manifest)
    random = [n for case in golden.cases if not case.text for n in case.encoding["input_ids"]]
    assert 3 <= min(random) <= max(random) < 3 + 256  # the ids of bytes
    check_golden(Predictor.load(bundle.path, device="cpu"))


def test_an_imported_bundle_whose_activation_is_another_does_not_serve(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = bring(make("bert"), tmp_path / "bundle").bundle
    predictor = Predictor.load(bundle.path, device="cpu")
    edit(bundle.path, hidden_act="relu")
    altered = Predictor.load(bundle.path, device="cpu", verify=False)

    check_golden(predictor)
    with pytest.raises(ValueError, match="does not answer as when it was sealed"):
        check_golden(altered)


def test_a_model_without_golden_logits_is_not_imported(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> bytes:
        raise BadLogits("the model returned logits that are not finite")

    monkeypatch.setattr("train.golden.make_golden", fail)

    message = refusal_of(make(), tmp_path / "bundle")

    assert "makes no bundle that opens: the model returned logits that are not finite" in message
