"""The shortened last layer gives the logits and gradients of the full one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from layered_models import CPU, SIZES, encoder, encodings, model_of
from transformers import AlbertConfig, AutoModelForSequenceClassification

from serve.inference.equivalence import to_tensors
from serve.inference.pooling import MeanPooling
from train.model.last_layer import shorten_last_layer


def outcome(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return logits and the gradients of all weights."""
    logits = model(**to_tensors(encoder().pad(encodings()), CPU)).logits
    logits.square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return logits.detach(), gradients


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["bert", "distilbert", "electra", "roberta"])
def test_first_token_alone_gives_the_same_logits_and_gradients(
    name: str, implementation: str
) -> None:
    model, short = model_of(name), model_of(name)
    model.config._attn_implementation = short.config._attn_implementation = implementation

    assert shorten_last_layer(short, encoder(), encodings(), CPU)

    (logits, gradients), (short_logits, short_gradients) = outcome(model), outcome(short)
    torch.testing.assert_close(short_logits, logits, atol=1e-5, rtol=0)
    assert gradients.keys() == short_gradients.keys()
    for weight, gradient in gradients.items():
        torch.testing.assert_close(short_gradients[weight], gradient, atol=1e-4, rtol=1e-4)


def test_most_of_the_last_layer_is_not_run() -> None:
    model = model_of("bert")
    shorten_last_layer(model, encoder(), encodings(), CPU)
    rows: list[int] = []
    for layer in model.bert.encoder.layer:
        layer.intermediate.register_forward_hook(lambda _, x, __: rows.append(x[0].shape[1]))

    outcome(model)

    assert rows == [12, 12, 1]


def test_shared_layers_are_left_unchanged() -> None:
    """ALBERT runs one layer many times."""
    settings = AlbertConfig(embedding_size=16, **SIZES)
    model = AutoModelForSequenceClassification.from_config(settings).eval()

    assert not shorten_last_layer(model, encoder(), encodings(), CPU)


@pytest.mark.parametrize("name", ["llama", "modernbert", "mpnet"])
def test_other_architectures_are_left_unchanged(name: str) -> None:
    model = model_of(name)
    before, _ = outcome(model)

    assert not shorten_last_layer(model, encoder(), encodings(), CPU)

    assert torch.equal(outcome(model)[0], before)


def test_a_head_on_the_mean_needs_all_tokens() -> None:
    model = model_of("bert")
    MeanPooling(model)

    assert not shorten_last_layer(model, encoder(), encodings(), CPU)


def test_a_head_on_another_token_is_detected() -> None:
    """A head on the last token gives other logits, so the layer is left unchanged."""
    model = model_of("bert")
    pooler = model.bert.pooler
    pooler.forward = lambda states: pooler.activation(pooler.dense(states[:, -1]))
    before, _ = outcome(model)

    assert not shorten_last_layer(model, encoder(), encodings(), CPU)

    assert torch.equal(outcome(model)[0], before)
