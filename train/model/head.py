"""Initialize the head with a linear probe: a linear model fitted on the frozen features.

A randomly initialized head spends the first epochs learning what the encoder already knows. The
probe takes seconds to fit and has the same weights as the last linear layer of the stock
classification head.

Shape suffixes: N examples, L tokens, D features, C labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from serve.inference.equivalence import move, to_tensors
from serve.inference.text import Encoding, TextEncoder
from train.model.base import last_linear
from train.model.frozen_layers import (
    BATCH_TOKENS,
    CACHED_HIDDEN_STATES,
    CachedHiddenStates,
    batches_by_length,
)
from train.model.loss import Loss

L2 = 10.0
"""Weight decay: L2 * sum of squared weights is added to the loss summed over all rows, on
standardized features. Chosen on validation rows of the quickstart and of Banking77."""


def init_head(
    model: Any,
    encoder: TextEncoder,
    encodings: Sequence[Encoding],
    targets: Tensor,
    loss: Loss,
    *,
    device: torch.device,
    states: CachedHiddenStates | None = None,
    progress: Callable[[int], object] = lambda rows: None,
) -> float:
    """Fit the last layer of `model` on its own features, in place; returns training accuracy.

    targets: int64 of shape (N,), or float 0/1 of shape (N, C) for a multi-label task.
    states: cached hidden states whose first N rows are these texts. progress: called with the
    number of texts after each batch. Leaves the model on `device`, in evaluation mode.
    """
    _, last = last_linear(model)
    features_ND = features(
        model, encoder, encodings, device=device, states=states, progress=progress
    )
    has_bias = last.bias is not None
    weight_CD, bias_C = fit_probe(features_ND, targets, loss, last.out_features, bias=has_bias)
    with torch.no_grad():
        last.weight.copy_(weight_CD)
        if has_bias:
            last.bias.copy_(bias_C)
    logits_NC = features_ND @ weight_CD.T + bias_C
    if loss.task == "multi_label":
        return float(((logits_NC >= 0) == targets.bool()).all(dim=1).float().mean())
    return float((logits_NC.argmax(dim=1) == targets).float().mean())


def fit_probe(
    features_ND: Tensor, targets: Tensor, loss: Loss, num_labels: int, *, bias: bool = True
) -> tuple[Tensor, Tensor]:
    """Fit a regularized linear model by L-BFGS from zero; returns weights (C, D) and bias (C,).

    bias: False for heads without one (those of decoders); the returned bias is then 0.
    """
    mean_D = features_ND.mean(dim=0) if bias else torch.zeros(features_ND.shape[1])
    scale = (features_ND - mean_D).std().clamp_min(1e-12)
    standard_ND = (features_ND - mean_D) / scale
    weight_CD = torch.zeros(num_labels, features_ND.shape[1], requires_grad=True)
    bias_C = torch.zeros(num_labels, requires_grad=bias)
    optimizer = torch.optim.LBFGS(
        [weight_CD, bias_C] if bias else [weight_CD],
        max_iter=200,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def step() -> Tensor:
        optimizer.zero_grad()
        logits_NC = standard_ND @ weight_CD.T + bias_C
        value = (loss.total(logits_NC, targets) + L2 * weight_CD.square().sum()) / len(targets)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(step)  # type: ignore[no-untyped-call]
    weight_CD, bias_C = weight_CD.detach() / scale, bias_C.detach()
    return weight_CD, bias_C - weight_CD @ mean_D


@torch.no_grad()
def features(
    model: Any,
    encoder: TextEncoder,
    encodings: Sequence[Encoding],
    *,
    device: torch.device,
    states: CachedHiddenStates | None = None,
    progress: Callable[[int], object] = lambda rows: None,
) -> Tensor:
    """Return the input of the last layer, (N, D) in fp32 on the CPU, in the order given."""
    _, last = last_linear(model)
    move(model, device).eval()
    caught: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    features_ND = torch.empty(len(encodings), last.in_features)
    lengths = [len(encoding["input_ids"]) for encoding in encodings]
    try:
        for rows in batches_by_length(lengths, BATCH_TOKENS):
            batch = encoder.pad([encodings[row] for row in rows])
            inputs = to_tensors(batch, device)
            if states is not None:
                inputs[CACHED_HIDDEN_STATES] = states.padded(rows).to(device)
            model(**inputs)
            caught_ND = caught.pop()
            if caught_ND.dim() == 3:  # decoders classify every position and use the last
                last_N = inputs["attention_mask"].sum(dim=1) - 1
                caught_ND = caught_ND[torch.arange(len(rows), device=device), last_N]
            features_ND[rows] = caught_ND.float().cpu()
            progress(len(rows))
    finally:
        hook.remove()
    return features_ND
