"""Initialize the head with a linear probe: a linear model fitted on the frozen features.

A randomly initialized head spends the first epochs learning what the encoder already knows. The
probe takes seconds to fit and has the same weights as the last linear layer of the stock
classification head.

Shape suffixes: N examples, L tokens, D features, C labels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from serve.inference.backends.bulk import BULK_TOKENS, Bulk
from serve.inference.equivalence import move, to_tensors
from serve.inference.pooling import MeanPooling, layers_of
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
standardized features, unless a run states or chooses another."""


def fit_head(
    model: Any, features_ND: Tensor, targets: Tensor, loss: Loss, *, l2: float = L2
) -> None:
    """Fit the last layer of `model` on its own features, in place.

    targets: int64 of shape (N,), or float 0/1 of shape (N, C) for a multi-label task.
    """
    _, last = last_linear(model)
    weight_CD, bias_C = fit_probe(
        features_ND, targets, loss, last.out_features, bias=last.bias is not None, l2=l2
    )
    with torch.no_grad():
        last.weight.copy_(weight_CD)
        if last.bias is not None:
            last.bias.copy_(bias_C)


def fit_probe(
    features_ND: Tensor,
    targets: Tensor,
    loss: Loss,
    num_labels: int,
    *,
    bias: bool = True,
    l2: float = L2,
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
        value = (loss.total(logits_NC, targets) + l2 * weight_CD.square().sum()) / len(targets)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(step)  # type: ignore[no-untyped-call]
    weight_CD, bias_C = weight_CD.detach() / scale, bias_C.detach()
    return weight_CD, bias_C - weight_CD @ mean_D


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
    return _features(model, encoder, encodings, 1, device, states, progress)[0]


def features_by_pooling(
    model: Any,
    encoder: TextEncoder,
    encodings: Sequence[Encoding],
    *,
    device: torch.device,
    states: CachedHiddenStates | None = None,
    progress: Callable[[int], object] = lambda rows: None,
) -> dict[str, Tensor]:
    """Return the input of the last layer under each `model.pooling`, as `features`, in one pass.

    The head runs twice on each batch, the second time on the mean over tokens. Only `native` for
    an architecture whose head does not read the first token alone.
    """
    try:
        pooling = MeanPooling(model)
    except ValueError:
        found = features(model, encoder, encodings, device=device, states=states, progress=progress)
        return {"native": found}
    pooling.is_off = True
    hook = layers_of(model)[-1].register_forward_hook(
        lambda _, __, output: pooling.with_pooled(output)
    )
    try:
        native_ND, mean_ND = _features(model, encoder, encodings, 2, device, states, progress)
    finally:
        hook.remove()
    return {"native": native_ND, "mean": mean_ND}


@torch.no_grad()
def _features(
    model: Any,
    encoder: TextEncoder,
    encodings: Sequence[Encoding],
    copies: int,
    device: torch.device,
    states: CachedHiddenStates | None,
    progress: Callable[[int], object],
) -> Tensor:
    """Return the last layer's input, (copies, N, D), where it computes each batch so many times."""
    _, last = last_linear(model)
    move(model, device).eval()
    caught: dict[int, Tensor] = {}  # by thread

    def catch(_: Any, inputs: Any) -> None:
        caught[threading.get_ident()] = inputs[0]

    def run(rows: Sequence[int]) -> Tensor:
        inputs = to_tensors(encoder.pad([encodings[row] for row in rows]), device)
        if states is not None:
            inputs[CACHED_HIDDEN_STATES] = states.padded(rows).to(device)
        model(**inputs)
        caught_ND = caught.pop(threading.get_ident())
        if caught_ND.dim() == 3:  # decoders classify every position and use the last
            last_N = inputs["attention_mask"].sum(dim=1) - 1
            caught_ND = caught_ND[torch.arange(len(rows), device=device), last_N]
        return caught_ND.float().cpu().view(copies, len(rows), -1)

    hook = last.register_forward_pre_hook(catch)
    features_KND = torch.empty(copies, len(encodings), last.in_features)
    lengths = [len(encoding["input_ids"]) for encoding in encodings]
    batches = batches_by_length(lengths, BULK_TOKENS if device.type == "cpu" else BATCH_TOKENS)
    together = states is None  # the model holds the cached states of one pass
    try:
        results = Bulk(model, device).run(run, batches, lengths, together=together)
        for rows, found_KND in zip(batches, results, strict=True):
            features_KND[:, rows] = found_KND
            progress(len(rows))
    finally:
        hook.remove()
    return features_KND
