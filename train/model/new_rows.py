"""Fit the head's rows of labels that its base, a bundle, does not know.

Shape suffixes: N examples, D features, C labels, K new labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from train.model.head import L2
from train.model.loss import Loss


def fit_new_rows(
    head: nn.Linear, new: tuple[int, ...], features_ND: Tensor, targets: Tensor, loss: Loss
) -> None:
    """Fit the rows of new labels on frozen features, in place, with the other rows as they are.

    targets: int64 of shape (N,), or float 0/1 of shape (N, C) for a multi-label task. The loss is
    that over all labels, plus L2 times the squared weights of the new rows on standardized
    features, by L-BFGS; see `train.model.head.fit_probe`.
    """
    has_bias = head.bias is not None
    mean_D = features_ND.mean(dim=0) if has_bias else torch.zeros(features_ND.shape[1])
    scale = (features_ND - mean_D).std().clamp_min(1e-12)
    standard_ND = (features_ND - mean_D) / scale
    with torch.no_grad():
        kept_NC = torch.nn.functional.linear(features_ND, *_parameters(head))
    index_K = torch.tensor(new)
    weight_KD = torch.zeros(len(new), features_ND.shape[1], requires_grad=True)
    bias_K = torch.zeros(len(new), requires_grad=has_bias)
    optimizer = torch.optim.LBFGS(
        [weight_KD, bias_K] if has_bias else [weight_KD],
        max_iter=200,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def step() -> Tensor:
        optimizer.zero_grad()
        logits_NC = kept_NC.index_copy(1, index_K, standard_ND @ weight_KD.T + bias_K)
        value = (loss.total(logits_NC, targets) + L2 * weight_KD.square().sum()) / len(targets)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(step)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        head.weight[index_K] = (weight_KD / scale).to(head.weight)
        if has_bias:
            head.bias[index_K] = (bias_K - weight_KD @ mean_D / scale).to(head.bias)


def _parameters(head: nn.Linear) -> tuple[Tensor, Tensor | None]:
    bias = None if head.bias is None else head.bias.cpu().float()
    return head.weight.cpu().float(), bias
