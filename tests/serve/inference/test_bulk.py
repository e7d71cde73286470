"""Passes over many texts give what stock PyTorch gives, text by text, and restore its threads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import NO_PAD_TOKEN, base_of
from rows import make_rows

from serve.inference.backends import bulk
from serve.inference.backends.bulk import OneDnnProducts, may_use_onednn, side_by_side
from serve.inference.backends.torch import TorchBackend
from serve.inference.passes import batched_logits
from serve.inference.predictor import Predictor
from train.audit.embed import embed
from train.config.run import RunConfig
from train.model.base import Base, load_base
from train.model.head import features, features_by_pooling

CPU = torch.device("cpu")
TEXTS = [
    " ".join(row["text"] for row in make_rows(1 + number % 3, seed=number)) for number in range(600)
]


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2  # restored by every pass
    torch.set_num_threads(before)


def load(
    name: str,
    make_config: Callable[..., dict[str, Any]],
    tokenizer: Path,
    path: Path,
    pooling: str = "native",
) -> Base:
    base = base_of(name, tokenizer, path / "base")
    model = {"base": str(base), "pad_token": NO_PAD_TOKEN.get(name), "pooling": pooling}
    return load_base(RunConfig(**make_config(path / "run", model=model)), ("a", "b", "c"))


def relative(first: Any, second: Any) -> float:
    first, second = np.asarray(first), np.asarray(second)
    return float(np.abs(first - second).max() / np.abs(second).max())


def logits(base: Base, texts: Sequence[str], *, stock: bool = False) -> Any:
    backend = TorchBackend(base.model, device="cpu", stock=stock)
    return batched_logits(backend, base.encoder, base.encoder.encode(texts), batch_size=32)


def notes(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == bulk.__name__]


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the products by oneDNN."""
    counted: list[int] = []
    stock = OneDnnProducts.__torch_function__

    def count(self: Any, func: Any, *rest: Any) -> Any:
        if func is torch.nn.functional.linear:
            counted.append(1)
        return stock(self, func, *rest)

    monkeypatch.setattr(OneDnnProducts, "__torch_function__", count)
    return counted


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "deberta-v3", "qwen3", "gpt2"])
def test_results_are_those_of_stock_pytorch_text_by_text(
    name: str,
    make_config: Callable[..., dict[str, Any]],
    tiny_base: Path,
    tmp_path: Path,
    used: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    base = load(name, make_config, tiny_base, tmp_path)
    encodings = base.encoder.encode(TEXTS)
    few = range(0, 600, 59)

    found_ND = features(base.model, base.encoder, encodings, device=CPU)
    embedded_ND = embed(base, TEXTS, device="cpu")
    found_NC = logits(base, TEXTS)

    assert used
    assert not notes(caplog)  # oneDNN was not refused
    torch.set_num_threads(1)  # a few texts at a time are run by stock PyTorch
    used.clear()
    for row in few:
        one_1D = features(base.model, base.encoder, [encodings[row]], device=CPU)
        assert relative(found_ND[[row]], one_1D) < 1e-5
        assert relative(embedded_ND[[row]], embed(base, [TEXTS[row]], device="cpu")) < 1e-5
        assert relative(found_NC[[row]], logits(base, [TEXTS[row]], stock=True)) < 1e-5
    assert not used
    torch.set_num_threads(2)


def test_both_poolings_are_computed_side_by_side(
    make_config: Callable[..., dict[str, Any]], tiny_base: Path, tmp_path: Path
) -> None:
    """Passes at the same time must not see each other's masks."""
    base = load("bert", make_config, tiny_base, tmp_path / "native")
    mean = load("bert", make_config, tiny_base, tmp_path / "mean", "mean")
    encodings = base.encoder.encode(TEXTS)

    both = features_by_pooling(base.model, base.encoder, encodings, device=CPU)

    torch.set_num_threads(1)
    alone = [features(mean.model, mean.encoder, [each], device=CPU) for each in encodings[:40]]
    assert relative(both["mean"][:40], torch.cat(alone)) < 1e-5
    assert relative(both["native"][:40], both["mean"][:40]) > 1e-2
    torch.set_num_threads(2)


def test_the_same_texts_give_the_same_bits_in_any_run(
    make_config: Callable[..., dict[str, Any]], tiny_base: Path, tmp_path: Path
) -> None:
    base = load("bert", make_config, tiny_base, tmp_path)

    first, second = logits(base, TEXTS), logits(base, TEXTS)

    assert np.array_equal(first, second)
    assert relative(logits(base, TEXTS[::-1])[::-1], first) < 1e-5


def test_another_result_of_onednn_is_not_used_and_the_user_is_told(
    make_config: Callable[..., dict[str, Any]],
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    base = load("bert", make_config, tiny_base, tmp_path)
    expected_NC = logits(base, TEXTS, stock=True)

    def wrong(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        return found * 1.001 if func is torch.nn.functional.linear else found

    monkeypatch.setattr(OneDnnProducts, "__torch_function__", wrong)
    with caplog.at_level(logging.WARNING):
        found_NC = logits(base, TEXTS)

    assert relative(found_NC, expected_NC) < 1e-6
    (note,) = notes(caplog)
    assert "BertForSequenceClassification runs by stock PyTorch" in note
    assert "of the largest value" in note


def test_an_operator_that_fails_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    def run() -> torch.Tensor:
        if torch._C._len_torch_function_stack():
            raise NotImplementedError("no such operator")
        return torch.ones(2)

    assert not may_use_onednn(run, name="Tiny")
    assert "Tiny runs by stock PyTorch, which is slower: no such operator" in caplog.text


def test_onednn_computes_no_gradients_and_no_other_type() -> None:
    layer = torch.nn.Linear(8, 4)
    x = torch.randn(3, 8)

    with OneDnnProducts():
        layer(x).sum().backward()
        with torch.no_grad():
            half = layer.bfloat16()(x.bfloat16())

    assert layer.weight.grad is not None
    assert half.dtype == torch.bfloat16


def test_long_texts_run_alone_on_all_threads_and_an_error_ends_the_pass() -> None:
    threads = list(side_by_side(lambda _: torch.get_num_threads(), [10, 10, 10, 5000]))
    assert threads == [1, 1, 1, 2]

    ran: list[int] = []

    def fail(number: int) -> int:
        ran.append(number)
        raise ValueError("a damaged text")

    with pytest.raises(ValueError, match="a damaged text"):
        list(side_by_side(fail, [10] * 1000))
    assert len(ran) < 1000


def test_a_bundle_is_evaluated_side_by_side(
    bundles: Callable[[str], Path], used: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundles("single")
    torch.set_num_threads(2)  # making it changed them
    predictor = Predictor.load(bundle, device="cpu", backend="torch")
    seen: list[int] = []

    probabilities_NC = predictor.predict(TEXTS, progress=seen.append)

    assert used
    assert sum(seen) == len(TEXTS)
    monkeypatch.setattr(bulk, "may_use_onednn", None)  # not asked for a few texts
    few_NC = Predictor.load(bundle, device="cpu", backend="torch").predict(TEXTS[:5])
    assert np.abs(probabilities_NC[:5] - few_NC).max() < 1e-5
