"""The training loss, correct under gradient accumulation and several processes.

The stock loss is not: the sequence classifiers of transformers accept `num_items_in_batch` and
ignore it, while the Trainer relies on it, skips its own division by the accumulation steps and
multiplies by the number of processes (transformers#47688, open in 5.23). Gradients grow by both
factors and are clipped. This loss is a sum divided by the number of items in the global batch,
as the Trainer expects of a `compute_loss_func`.

Shape suffixes: N examples, C labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from serve.language.spelling import did_you_mean
from train.config.run import LossSection


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Cross-entropy for single-label, binary cross-entropy for multi-label models."""

    task: Literal["single_label", "multi_label"]
    label_smoothing: float = 0.0
    weights_C: Tensor | None = None
    """Single-label: weight of the examples of each label. Multi-label: weight of each label's
    positive examples."""

    def __call__(
        self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Return the sum over this batch divided by the number of items of the global batch.

        outputs: has `logits` of shape (N, C). labels: int64 of shape (N,), or for a multi-label
        model float 0/1 of shape (N, C), where each of the N * C entries is an item.
        num_items_in_batch: of the global batch; None takes those of this batch.
        """
        total = self.total(outputs["logits"].float(), labels)
        items = labels.numel() if num_items_in_batch is None else num_items_in_batch
        return total / items

    def total(self, logits_NC: Tensor, labels: Tensor) -> Tensor:
        """Return the loss summed over the batch."""
        weights_C = None if self.weights_C is None else self.weights_C.to(logits_NC.device)
        if self.task == "multi_label":
            smooth_NC = labels * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
            return functional.binary_cross_entropy_with_logits(
                logits_NC, smooth_NC, pos_weight=weights_C, reduction="sum"
            )
        loss_N = functional.cross_entropy(
            logits_NC, labels, reduction="none", label_smoothing=self.label_smoothing
        )
        if weights_C is not None:
            loss_N = loss_N * weights_C[labels]
        return loss_N.sum()


def make_loss(
    section: LossSection,
    task: Literal["single_label", "multi_label"],
    labels: Sequence[str],
    rows: Sequence[tuple[str, ...]],
) -> Loss:
    """Make the loss of a run. labels: in output order. rows: the training split's labels.

    Balanced weights of label c: n / (C * n_c) for single-label, with mean 1 over the training
    rows; (n - n_c) / n_c for the positive examples of a multi-label model.
    Raises ValueError for a weight of an unknown label.
    """
    weights = section.class_weights
    weights_C: Tensor | None = None
    if isinstance(weights, dict):
        if unknown := sorted(set(weights) - set(labels)):
            hint = did_you_mean(unknown[0], labels)
            raise ValueError(f"loss.class_weights names {unknown[0]!r}, which is not a label{hint}")
        weights_C = torch.tensor([weights.get(label, 1.0) for label in labels])
    elif weights == "balanced":
        counts = Counter(label for row in rows for label in row)
        n_C = torch.tensor([float(counts[label]) for label in labels])
        n = len(rows)
        if task == "multi_label":
            n_C = n_C.clamp_max(n - 1)  # a label on every row keeps a positive weight
            weights_C = (n - n_C) / n_C
        else:
            weights_C = n / (len(labels) * n_C)
    return Loss(task=task, label_smoothing=section.label_smoothing, weights_C=weights_C)
