"""From logits to scores and labels. Pure.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pydantic_core
from numpy.typing import NDArray

Array = NDArray[np.float32]
Activation = Literal["softmax", "sigmoid", "none"]


def softmax(logits_NC: Array) -> Array:
    """Compute the softmax over the last axis.

    The row's maximum is subtracted first, so finite logits cannot overflow.
    """
    exp_NC = np.exp(logits_NC - logits_NC.max(axis=-1, keepdims=True))
    return np.asarray(exp_NC / exp_NC.sum(axis=-1, keepdims=True), dtype=np.float32)


def sigmoid(logits_NC: Array) -> Array:
    """Compute the logistic function; exp is taken only of values up to 0, so it cannot overflow."""
    exp_NC = np.exp(-np.abs(logits_NC))
    return np.asarray(np.where(logits_NC >= 0, 1.0, exp_NC) / (1.0 + exp_NC), dtype=np.float32)


def activate(logits_NC: Array, activation: Activation) -> Array:
    """Return scores in [0, 1] for softmax and sigmoid, the logits themselves for none."""
    if activation == "softmax":
        return softmax(logits_NC)
    if activation == "sigmoid":
        return sigmoid(logits_NC)
    return logits_NC


def default_activation(task: str) -> Activation:
    """Return the activation that `transformers.pipeline` uses: sigmoid for multi-label models."""
    return "sigmoid" if task == "multi_label" else "softmax"


def chosen(scores_NC: Array, task: str, thresholds_C: Array | None = None) -> NDArray[np.bool_]:
    """Return the predicted labels, bool of shape (N, C).

    Single-label: the highest score of each text; scores may be logits or probabilities.
    Multi-label: each probability at or above its label's threshold; None means 0.5 for all.
    """
    if task == "multi_label":
        return np.asarray(scores_NC >= (0.5 if thresholds_C is None else thresholds_C))
    return np.asarray(scores_NC.argmax(axis=1)[:, None] == np.arange(scores_NC.shape[1]))


def confidence(
    probabilities_NC: Array, predicted_NC: NDArray[np.bool_], task: str
) -> NDArray[np.float64]:
    """Return the confidence in the predicted labels, in [0, 1], of shape (N,).

    Single-label: the probability of the predicted label, which is under 0.5 where the threshold
    of a binary model is and has decided. Multi-label: the probability that
    every label is correct, assuming independent labels: the product over labels of p where
    the label is predicted and 1 - p where it is not.
    """
    agreed_NC = np.where(predicted_NC, probabilities_NC, 1.0 - probabilities_NC)
    if task == "multi_label":
        return np.asarray(agreed_NC.astype(np.float64).prod(axis=1))
    return np.asarray(probabilities_NC[predicted_NC].astype(np.float64))


def best_first(
    scores_NC: Array, top_k: int | None, first_N: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], Array]:
    """Return label indices and scores of shape (N, K), highest score of each text first.

    top_k: number of labels; None: all. Equal scores keep label order. first_N: the label of
    each text that comes first whatever its score.
    """
    rows_N1 = np.arange(len(scores_NC))[:, None]
    keys_NC = scores_NC
    if first_N is not None:
        keys_NC = scores_NC.copy()
        keys_NC[rows_N1, first_N[:, None]] = np.inf
    order_NK = np.argsort(-keys_NC, axis=-1, kind="stable")[:, :top_k]
    return order_NK, scores_NC[rows_N1, order_NK]


def json_heads(labels: Sequence[str]) -> list[bytes]:
    """Return the JSON that `ranked_json` writes before each label's score."""
    return [b'{"label":' + pydantic_core.to_json(label) + b',"score":' for label in labels]


def ranked_json(
    scores_NC: Array,
    heads: Sequence[bytes],
    top_k: int | None,
    first_N: NDArray[np.int64] | None = None,
) -> list[bytes]:
    """Return the `{"label", "score"}` entries of each text as JSON, in the order of `best_first`.

    heads: the result of `json_heads`, in the label order of the scores. Takes half the time of
    dictionaries.
    """
    order_NK, scores_NK = best_first(scores_NC, top_k, first_N)
    rows = []
    for order_K, scores_K in zip(order_NK.tolist(), scores_NK.tolist(), strict=True):
        numbers = pydantic_core.to_json(scores_K)[1:-1].split(b",")
        entries = [heads[c] + number for c, number in zip(order_K, numbers, strict=True)]
        rows.append(b"[" + b"},".join(entries) + b"}]")
    return rows
