"""Compute the last layer only for the first token, the one that the head reads.

The stock heads of BERT and its relatives use the first token's last state alone. It needs keys
and values of all tokens, but query, attention output and feed-forward of the first one only: a
fifth of the layer's work, with the same logits and gradients.

Shape suffixes: N texts, L tokens, E hidden size, C labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from serve.inference.equivalence import check_equivalent, evaluating, to_tensors
from serve.inference.pooling import layers_of
from serve.inference.text import Encoding, TextEncoder

TOLERANCE = 1e-4


def shorten_last_layer(
    model: Any, encoder: TextEncoder, encodings: Sequence[Encoding], device: torch.device
) -> bool:
    """Run the last layer for the first token only, in place; returns whether that was possible.

    The layer stays unchanged in unknown architectures, and if the logits of these texts would
    change or the model does not fit on `device`; else the model is left there.
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
    inputs = to_tensors(encoder.pad(encodings), device)
    try:
        with evaluating(model, device):
            full_NC = model(**inputs).logits
            layer.forward = lambda states_NLE, attention_mask=None, *_, **__: forward(
                layer, states_NLE, attention_mask
            )
            short_NC = model(**inputs).logits
        check_equivalent(short_NC, full_NC, TOLERANCE)
    except ValueError:
        layer.__dict__.pop("forward", None)
        return False
    return True


def _bert(layer: Any, states_NLE: Tensor, mask: Tensor | None) -> Tensor:
    attn = layer.attention.self
    first_N1E = states_NLE[:, :1]
    attended_N1E = _attend(
        attn, attn.query(first_N1E), attn.key(states_NLE), attn.value(states_NLE), mask
    )
    middle_N1E = layer.attention.output(attended_N1E, first_N1E)
    last_N1E: Tensor = layer.feed_forward_chunk(middle_N1E)
    return last_N1E


def _distilbert(layer: Any, states_NLE: Tensor, mask: Tensor | None) -> Tensor:
    attn = layer.attention
    first_N1E = states_NLE[:, :1]
    attended_N1E = _attend(
        attn, attn.q_lin(first_N1E), attn.k_lin(states_NLE), attn.v_lin(states_NLE), mask
    )
    middle_N1E = layer.sa_layer_norm(attn.out_lin(attended_N1E) + first_N1E)
    last_N1E: Tensor = layer.output_layer_norm(layer.ffn(middle_N1E) + middle_N1E)
    return last_N1E


def _attend(
    attn: Any, query_N1E: Tensor, key_NLE: Tensor, value_NLE: Tensor, mask: Tensor | None
) -> Tensor:
    """Return the first token's attention over all tokens, before the output projection."""
    query, key, value = (
        each.view(*each.shape[:2], -1, attn.attention_head_size).transpose(1, 2)
        for each in (query_N1E, key_NLE, value_NLE)
    )
    attended = functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=None if mask is None else mask[:, :, :1],
        dropout_p=attn.dropout.p if attn.training else 0.0,
        scale=attn.scaling,
    )
    return attended.transpose(1, 2).flatten(2)


_FORWARDS: dict[str, Callable[[Any, Tensor, Tensor | None], Tensor]] = {
    "BertLayer": _bert,
    "RobertaLayer": _bert,
    "XLMRobertaLayer": _bert,
    "ElectraLayer": _bert,
    "TransformerBlock": _distilbert,
}
"""Shortened forward pass by class name of the layer."""
