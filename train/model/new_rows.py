"""Fit the head's rows of labels that its base, a bundle, does not know.

Shape suffixes: N examples, D features, C labels, K new labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from train.model.head import fit_linear
from train.model.loss import Loss


def fit_new_rows(
    head: nn.Linear, new: tuple[int, ...], features_ND: Tensor, targets: Tensor, loss: Loss
) -> None:
    """Fit the rows of new labels on frozen features, in place, with the other rows as they are.

    targets: int64 of shape (N,), or float 0/1 of shape (N, C) for a multi-label task. The loss is
    that over all labels, regularized in the new rows; see `train.model.head.fit_linear`.
    """
    has_bias = head.bias is not None
    with torch.no_grad():
        kept_NC = torch.nn.functional.linear(features_ND, *_parameters(head))
    index_K = torch.tensor(new)
    weight_KD, bias_K = fit_linear(
        features_ND,
        len(new),
        lambda new_NK: loss.total(kept_NC.index_copy(1, index_K, new_NK), targets),
        bias=has_bias,
    )
    with torch.no_grad():
        head.weight[index_K] = weight_KD.to(head.weight)
        if has_bias:
            head.bias[index_K] = bias_K.to(head.bias)


def _parameters(head: nn.Linear) -> tuple[Tensor, Tensor | None]:
    bias = None if head.bias is None else head.bias.cpu().float()
    return head.weight.cpu().float(), bias
