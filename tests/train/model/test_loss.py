"""The loss is correct under gradient accumulation; the stock one is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from train.config.run import LossSection
from train.model.loss import Loss, make_loss

LOGITS_NC = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, -2.0], [-1.0, 0.3, 0.4]])
CLASSES_N = torch.tensor([0, 1, 1])
CHOICES_NC = torch.tensor([[1.0, 0, 1], [0, 0, 1], [0, 0, 0]])


def gradient(tiny_base: Path, output: Path, *, accumulation: int, loss: Any) -> torch.Tensor:
    """Return the head's gradient in the first update over the same eight rows."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_base, num_labels=3)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    rows = [{"input_ids": [2, 5 + n, 6 + n, 3], "labels": n % 3} for n in range(8)]
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(output),
            per_device_train_batch_size=8 // accumulation,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            optim="sgd",
            learning_rate=1.0,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            save_strategy="no",
            use_cpu=True,
            dataloader_pin_memory=False,
            disable_tqdm=True,
        ),
        train_dataset=rows,
        compute_loss_func=loss,
    )
    before = model.classifier.weight.detach().clone()
    trainer.train()
    return before - model.classifier.weight.detach()


def test_stock_loss_grows_with_accumulation(tiny_base: Path, tmp_path: Path) -> None:
    """transformers#47688: once this fails, the bug is fixed and our loss can be removed."""
    whole = gradient(tiny_base, tmp_path, accumulation=1, loss=None)
    pieces = gradient(tiny_base, tmp_path, accumulation=4, loss=None)

    assert torch.allclose(pieces, 4 * whole, rtol=1e-3, atol=1e-6)


def test_our_loss_is_the_same_under_accumulation(tiny_base: Path, tmp_path: Path) -> None:
    loss = Loss(task="single_label")

    whole = gradient(tiny_base, tmp_path, accumulation=1, loss=loss)
    pieces = gradient(tiny_base, tmp_path, accumulation=4, loss=loss)

    assert torch.allclose(pieces, whole, rtol=1e-4, atol=1e-7)


def test_single_label_loss_is_the_mean_cross_entropy() -> None:
    value = Loss(task="single_label", label_smoothing=0.1)({"logits": LOGITS_NC}, CLASSES_N)

    expected = functional.cross_entropy(LOGITS_NC, CLASSES_N, label_smoothing=0.1)
    assert value.item() == pytest.approx(expected.item())


def test_loss_of_two_parts_adds_up_to_the_whole() -> None:
    loss = Loss(task="single_label")
    whole = loss({"logits": LOGITS_NC}, CLASSES_N)

    parts = [
        loss({"logits": LOGITS_NC[rows]}, CLASSES_N[rows], num_items_in_batch=3)
        for rows in (slice(0, 1), slice(1, 3))
    ]

    assert sum(parts).item() == pytest.approx(whole.item())


def test_multi_label_loss_counts_every_decision() -> None:
    loss = Loss(task="multi_label", label_smoothing=0.2)

    value = loss({"logits": LOGITS_NC}, CHOICES_NC, num_items_in_batch=9)

    expected = functional.binary_cross_entropy_with_logits(LOGITS_NC, CHOICES_NC * 0.8 + 0.1)
    assert value.item() == pytest.approx(expected.item())


def test_balanced_weights_make_labels_count_alike() -> None:
    rows = [("a",)] * 6 + [("b",)] * 2
    section = LossSection(class_weights="balanced")

    single = make_loss(section, "single_label", ("a", "b"), rows)
    multi = make_loss(section, "multi_label", ("a", "b"), rows)

    assert single.weights_C is not None
    assert single.weights_C.tolist() == pytest.approx([8 / 12, 8 / 4])
    assert multi.weights_C is not None
    assert multi.weights_C.tolist() == pytest.approx([2 / 6, 6 / 2])
    weighted = single({"logits": torch.zeros(2, 2)}, torch.tensor([0, 1]))
    assert weighted.item() == pytest.approx((8 / 12 + 8 / 4) / 2 * 0.6931, rel=1e-3)


def test_weight_of_an_unknown_label_is_refused() -> None:
    with pytest.raises(ValueError, match="names 'c', which is not a label"):
        make_loss(LossSection(class_weights={"c": 2.0}), "single_label", ("a", "b"), [("a",)])
