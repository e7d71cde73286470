"""Initialize the head with a linear probe: a linear model fitted on the frozen features.

A randomly initialized head spends the first epochs learning what the encoder already knows. The
probe takes seconds to fit and has the same weights as the last linear layer of the stock
classification head.

Shape suffixes: N examples, L tokens, D features, C labels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
    """Fit a regularized linear model on targets; returns weights (C, D) and bias (C,).

    bias, l2: see `fit_linear`.
    """
    return fit_linear(
        features_ND,
        num_labels,
        lambda logits_NC: loss.total(logits_NC, targets),
        bias=bias,
        l2=l2,
    )


def fit_linear(
    features_ND: Tensor,
    outputs: int,
    total: Callable[[Tensor], Tensor],
    *,
    bias: bool = True,
    l2: float = L2,
) -> tuple[Tensor, Tensor]:
    """Fit linear outputs of standardized features by L-BFGS from zero.

    total: the loss, summed over all rows, of the outputs, (N, K). l2: times the squared weights, is
    added to it. Returns weights (K, D) and bias (K,) for the features as they are. bias: False
    for heads without one (those of decoders); the returned bias is then 0.
    """
    mean_D = features_ND.mean(dim=0) if bias else torch.zeros(features_ND.shape[1])
    scale = (features_ND - mean_D).std().clamp_min(1e-12)
    standard_ND = (features_ND - mean_D) / scale
    weight_KD = torch.zeros(outputs, features_ND.shape[1], requires_grad=True)
    bias_K = torch.zeros(outputs, requires_grad=bias)
    optimizer = torch.optim.LBFGS(
        [weight_KD, bias_K] if bias else [weight_KD],
        max_iter=200,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def step() -> Tensor:
        optimizer.zero_grad()
        outputs_NK = standard_ND @ weight_KD.T + bias_K
        value = (total(outputs_NK) + l2 * weight_KD.square().sum()) / len(features_ND)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(step)  # type: ignore[no-untyped-call]
    weight_KD, bias_K = weight_KD.detach() / scale, bias_K.detach()
    return weight_KD, bias_K - weight_KD @ mean_D


def probes_of_folds(
    features_ND: Tensor,
    targets: Tensor,
    loss: Loss,
    num_labels: int,
    fold_N: NDArray[np.int64],
    **options: Any,
) -> Iterator[tuple[NDArray[np.bool_], Tensor, Tensor]]:
    """Fit one probe per fold on the rows of the other folds: yields its own rows, weights, bias.

    options: of `fit_probe`. A fold beside which there is no other is left out.
    """
    for fold in np.unique(fold_N):
        held_N = np.asarray(fold_N == fold)
        if held_N.all():
            continue
        seen_N = torch.from_numpy(~held_N)
        yield (
            held_N,
            *fit_probe(features_ND[seen_N], targets[seen_N], loss, num_labels, **options),
        )


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
