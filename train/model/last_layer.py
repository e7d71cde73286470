"""The last layer, computed for the one token that the head looks at.

The stock heads of BERT and its kin see the first token's last state alone. For it the last
layer needs keys and values of all tokens, but query, attention, output and feed-forward of the
first one only: a fifth of the layer's work, with the same logits and the same gradients.

Shape suffixes: N texts, L tokens, E hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from serve.inference.pooling import layers_of
from serve.inference.text import Encoding, TextEncoder

TOLERANCE = 1e-4


def shorten_last_layer(
    model: Any, encoder: TextEncoder, encodings: Sequence[Encoding], device: torch.device
) -> bool:
    """Run the last layer for the first token alone, in place; whether that is done.

    It is left as it is in other architectures, and if logits of these texts were others.
    Leaves the model on `device`.
    """
    try:
        layer: Any = layers_of(model)[-1]
    except ValueError:
        return False
    forward = _FORWARDS.get(type(layer).__name__)
    if forward is None or model.config._attn_implementation not in ("sdpa", "eager"):
        return False
    if getattr(model, "mean_pooling", None) or getattr(layer, "is_decoder", False):
        return False
    batch = encoder.pad(encodings)
    inputs = {name: torch.from_numpy(ids).to(device) for name, ids in batch.items()}
    training = model.training
    model.to(device).eval()
    with torch.no_grad():
        whole_NC = model(**inputs).logits
        layer.forward = lambda states_NLE, attention_mask=None, *_, **__: forward(
            layer, states_NLE, attention_mask
        )
        same = bool((model(**inputs).logits - whole_NC).abs().max() <= TOLERANCE)
    if not same:
        del layer.forward
    model.train(training)
    return same


def _bert(layer: Any, states_NLE: Tensor, mask: Tensor | None) -> Tensor:
    inner = layer.attention.self
    first_N1E = states_NLE[:, :1]
    attended_N1E = _attend(
        inner, inner.query(first_N1E), inner.key(states_NLE), inner.value(states_NLE), mask
    )
    middle_N1E = layer.attention.output(attended_N1E, first_N1E)
    last_N1E: Tensor = layer.feed_forward_chunk(middle_N1E)
    return last_N1E


def _distilbert(layer: Any, states_NLE: Tensor, mask: Tensor | None) -> Tensor:
    inner = layer.attention
    first_N1E = states_NLE[:, :1]
    attended_N1E = _attend(
        inner, inner.q_lin(first_N1E), inner.k_lin(states_NLE), inner.v_lin(states_NLE), mask
    )
    middle_N1E = layer.sa_layer_norm(inner.out_lin(attended_N1E) + first_N1E)
    last_N1E: Tensor = layer.output_layer_norm(layer.ffn(middle_N1E) + middle_N1E)
    return last_N1E


def _attend(
    inner: Any, query_N1E: Tensor, key_NLE: Tensor, value_NLE: Tensor, mask: Tensor | None
) -> Tensor:
    """The first token's attention to all, before the output projection."""
    query, key, value = (
        each.view(*each.shape[:2], -1, inner.attention_head_size).transpose(1, 2)
        for each in (query_N1E, key_NLE, value_NLE)
    )
    attended = functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=None if mask is None else mask[:, :, :1],
        dropout_p=inner.dropout.p if inner.training else 0.0,
        scale=inner.scaling,
    )
    return attended.transpose(1, 2).flatten(2)


_FORWARDS: dict[str, Callable[[Any, Tensor, Tensor | None], Tensor]] = {
    "BertLayer": _bert,
    "RobertaLayer": _bert,
    "XLMRobertaLayer": _bert,
    "ElectraLayer": _bert,
    "TransformerBlock": _distilbert,
}
"""By the name of an architecture's layer."""
