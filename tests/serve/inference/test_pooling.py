"""Mean pooling: what the head computes, and that stock classes refuse to load it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import CONFIGS, base_of
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from serve.inference.backends.torch import TorchBackend
from serve.inference.pooling import (
    MeanPooling,
    is_pooled,
    layers_of,
    load_classifier,
    set_custom_model_type,
)
from serve.inference.predictor import Predictor
from train.config.run import RunConfig
from train.evaluation.evaluate import evaluate
from train.fit.fit import fit
from train.merge.merge import merge
from train.model.base import load_base
from train.publish.push import _copy

MakeConfig = Callable[..., dict[str, Any]]
FIRST_TOKEN_HEADS = ["bert", "deberta-v3", "distilbert", "electra", "mpnet", "roberta"]


def classifier(name: str) -> Any:
    config = CONFIGS[name]()
    config.num_labels = 3
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config).eval()


@torch.no_grad()
def by_hand(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return a stock model's logits with each first token's last state replaced by the mean."""
    caught: list[torch.Tensor] = []

    def state(output: Any) -> Any:
        return output[0] if isinstance(output, tuple) else output

    last = layers_of(model)[-1]
    handle = last.register_forward_hook(lambda _, __, output: caught.append(state(output).clone()))
    model(**inputs)
    handle.remove()
    mean_NE = torch.stack(
        [
            row[mask.bool()].mean(dim=0)
            for row, mask in zip(*caught, inputs["attention_mask"], strict=True)
        ]
    )

    def put(_: Any, __: Any, output: Any) -> Any:
        state(output)[:, 0] = mean_NE
        return output

    handle = last.register_forward_hook(put)
    logits_NC: torch.Tensor = model(**inputs).logits
    handle.remove()
    return logits_NC


@pytest.mark.parametrize("name", FIRST_TOKEN_HEADS)
def test_head_sees_the_mean_of_the_tokens_without_the_padding(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    mask_NL = torch.tensor([[1] * 7, [1] * 3 + [0] * 4])
    inputs = {
        "input_ids": torch.randint(5, 80, (2, 7), generator=generator) * mask_NL,
        "attention_mask": mask_NL,
    }
    expected_NC = by_hand(classifier(name), inputs)
    model = classifier(name)
    with torch.no_grad():
        stock_NC = model(**inputs).logits

        MeanPooling(model)
        logits_NC = model(**inputs).logits

    assert torch.allclose(logits_NC, expected_NC, atol=1e-5)
    assert not torch.allclose(logits_NC, stock_NC, atol=1e-3)


def test_a_head_that_looks_at_the_last_token_is_refused(
    make_config: MakeConfig, tiny_base: Path, tmp_path: Path
) -> None:
    base = base_of("qwen2", tiny_base, tmp_path / "base")
    config = RunConfig(**make_config(tmp_path, model={"base": str(base), "pooling": "mean"}))

    with pytest.raises(ValueError, match=r"not look at the first token.*model.pooling: native"):
        load_base(config, ("a", "b"))


def test_modernbert_has_its_own_mean_and_stays_a_stock_model(
    make_config: MakeConfig, tiny_base: Path, tmp_path: Path
) -> None:
    base = base_of("modernbert", tiny_base, tmp_path / "base")
    config = RunConfig(**make_config(tmp_path, model={"base": str(base), "pooling": "mean"}))

    model = load_base(config, ("a", "b")).model
    model.save_pretrained(tmp_path / "saved")
    set_custom_model_type(tmp_path / "saved")

    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert stock.config.classifier_pooling == "mean"


@pytest.mark.parametrize(
    ("method", "trained_layers"),
    [("probe", None), pytest.param("lora", None, marks=pytest.mark.slow), ("lora", 1)],
)
def test_run_with_mean_pooling_from_fit_to_answers(
    make_config: MakeConfig, tmp_path: Path, method: str, trained_layers: int | None
) -> None:
    values = make_config(tmp_path / "run", export_int8=True, method=method)
    values["model"] |= {"pooling": "mean", "trained_layers": trained_layers}
    if method == "probe":
        values = {k: v for k, v in values.items() if k not in ("trainer", "lora")}
    config = RunConfig(**values)
    fit(config)
    bundle = merge(config)
    evaluate(config)

    assert max(v for k, v in bundle.manifest.parity.items() if k.startswith("adapter_")) <= 1e-4
    # The export pools as well: on the first token alone, logits are off by more than 1.
    assert bundle.manifest.int8 is not None
    assert bundle.manifest.int8.max_logit_difference < 0.3
    texts = ["parcel courier late", "invoice paid twice bill please", "password"]
    full = Predictor.load(bundle.path, device="cpu", backend="torch").predict(texts)
    best = full.argmax(axis=1)
    assert [bundle.manifest.labels[n] for n in best] == ["delivery", "billing", "login"]


def test_checkpoints_of_a_mean_pooled_model_are_refused_too_and_resumed(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = make_config(tmp_path / "run", method="full", model={"pooling": "mean"})
    del values["lora"]
    config = RunConfig(**values)
    fit(config)
    checkpoints = sorted((tmp_path / "run" / "checkpoints").glob("checkpoint-*"))
    record = (tmp_path / "run" / "adapter" / "fit.json").read_text()
    shutil.rmtree(checkpoints[-1])

    fit(config)

    assert len(checkpoints) == 2
    assert f"resuming from {checkpoints[0]}" in capsys.readouterr().out
    again = (tmp_path / "run" / "adapter" / "fit.json").read_text()
    assert losses(again) == losses(record)
    with pytest.raises(ValueError, match="textloop_mean_pooled"):
        AutoModelForSequenceClassification.from_pretrained(checkpoints[0])
    destination = tmp_path / "pushed"
    _copy(checkpoints[0], destination)
    assert is_pooled(destination)


def losses(record: str) -> list[float]:
    return [line["loss"] for line in json.loads(record)["log_history"] if "loss" in line]


def test_a_mean_pooled_model_is_no_base(tmp_path: Path, make_config: MakeConfig) -> None:
    model = classifier("bert")
    MeanPooling(model)
    model.save_pretrained(tmp_path / "base")
    set_custom_model_type(tmp_path / "base")

    with pytest.raises(ValueError, match="start from its original base"):
        fit(RunConfig(**make_config(tmp_path / "run", model={"base": str(tmp_path / "base")})))


def test_stock_classes_refuse_a_mean_pooled_model(tmp_path: Path, tiny_base: Path) -> None:
    model = classifier("bert")
    MeanPooling(model)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(tmp_path)

    set_custom_model_type(tmp_path)

    for load in (
        lambda: AutoModelForSequenceClassification.from_pretrained(tmp_path),
        lambda: pipeline("text-classification", str(tmp_path)),
    ):
        with pytest.raises(ValueError, match="textloop_mean_pooled"):
            load()
    again, _ = load_classifier(tmp_path)
    ids_NL = torch.arange(5, 12).unsqueeze(0)
    with torch.no_grad():
        expected_NC = model(input_ids=ids_NL).logits
        assert torch.allclose(again(input_ids=ids_NL).logits, expected_NC, atol=1e-6)
    assert TorchBackend.load(tmp_path, device="cpu").model.config.model_type == "bert"
