"""A forward pass without padding: all texts of a batch concatenated into one row.

Attention is limited to each text by `torch.nn.attention.varlen`, and positions restart with each
text. After the last layer the first token of every text is kept, which the stock heads read, or
the mean of its tokens for a mean-pooled model. An architecture that needs anything else gives
other logits, so `PackedModel.check_equivalence` compares them with those of the padded pass
before a model is run this way.

The CPU has no such kernel; attention runs text by text there, for tests only.

Shape suffixes: N texts, L tokens of one text, T tokens of all texts, H heads, D head size,
E hidden size, C labels.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface

from serve.inference.equivalence import check_equivalent, evaluating, to_tensor, to_tensors
from serve.inference.pooling import means_of_segments
from serve.inference.text import Batch

NAME = "textloop_packed"

CU_SEQLENS = "cu_seqlens"
"""Key of the cumulative sequence lengths in a flat batch."""

_segments = threading.local()


def _attention(
    module: Any,
    query_1HTD: torch.Tensor,
    key_1HTD: torch.Tensor,
    value_1HTD: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    query, key, value = (each[0].transpose(0, 1) for each in (query_1HTD, key_1HTD, value_1HTD))
    cu_seqlens, max_seqlen = _segments.cu_seqlens, _segments.max_seqlen
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        out_THD = varlen_attn(
            query, key, value, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, scale=scaling
        )
        assert isinstance(out_THD, torch.Tensor)
        return out_THD.unsqueeze(0), None
    parts = [
        torch.nn.functional.scaled_dot_product_attention(
            query_1HTD[0, :, start:end],
            key_1HTD[0, :, start:end],
            value_1HTD[0, :, start:end],
            scale=scaling,
        )
        for start, end in pairwise(cu_seqlens.tolist())
    ]
    return torch.cat(parts, dim=1).transpose(0, 1).unsqueeze(0), None


def _no_mask(*_: Any, **__: Any) -> None:
    return None


class PackedModel:
    """A stock sequence classifier, called with batches that are packed before the forward pass.

    Raises ValueError for an architecture whose list of layers is not found.
    """

    def __init__(self, model: Any) -> None:
        AttentionInterface.register(NAME, _attention)
        AttentionMaskInterface.register(NAME, _no_mask)
        self.model = model
        base = model.base_model
        layers = getattr(base, "encoder", None) or getattr(base, "transformer", None)
        if layers is None:
            raise ValueError(f"{type(model).__name__} has no `encoder` whose end is known")
        self.layers = layers
        # RoBERTa and its relatives number positions from the padding token's id + 1.
        padding = getattr(base.embeddings, "padding_idx", None)
        self.first_position = 0 if padding is None else padding + 1

    def flat(self, batch_NL: Batch, device: torch.device | str) -> dict[str, torch.Tensor]:
        """Remove the padding of ids and their mask, each (N, L), and copy the rest to `device`.

        Each becomes (1, T), int32; the mask is left out. Adds under `CU_SEQLENS` where each text
        starts and the last one ends, of shape (N + 1,). All of them are views of one tensor, so
        that a GPU takes one copy per batch.
        """
        mask_NL = batch_NL["attention_mask"].astype(bool)
        ends_N = mask_NL.sum(axis=1).cumsum()
        rows = {name: ids_NL for name, ids_NL in batch_NL.items() if name != "attention_mask"}
        parts = [ids_NL[mask_NL] for ids_NL in rows.values()]
        numbers = np.concatenate([*parts, [0], ends_N], dtype=np.int32, casting="same_kind")
        sizes = [len(part) for part in parts]
        *ids, cu_seqlens = torch.split(to_tensor(numbers, device), [*sizes, len(ends_N) + 1])
        return {name: ids_T[None] for name, ids_T in zip(rows, ids, strict=True)} | {
            CU_SEQLENS: cu_seqlens
        }

    def positions(self, cu_seqlens: torch.Tensor, tokens: int) -> torch.Tensor:
        """Return the position of each token in its text, (1, T), as the architecture counts.

        cu_seqlens: of `flat`. tokens: T. Waits for no result of the device.
        """
        numbers_T = torch.arange(tokens, dtype=torch.int32, device=cu_seqlens.device)
        starts_T = cu_seqlens[:-1].repeat_interleave(cu_seqlens.diff(), output_size=tokens)
        return (numbers_T - starts_T + self.first_position)[None]

    @contextmanager
    def without_padding(self, cu_seqlens: torch.Tensor, max_seqlen: int) -> Iterator[None]:
        """Make the model take flat inputs.

        cu_seqlens: of `flat`. max_seqlen: number of tokens of the longest text, or more.
        """
        mean = getattr(self.model, "mean_pooling", None)
        starts_N = cu_seqlens[:-1].long()

        def pool(module: Any, arguments: Any, output: Any) -> Any:
            states_TE = output[0][0]
            pooled_NE = (
                states_TE[starts_N] if mean is None else means_of_segments(states_TE, cu_seqlens)
            )
            pooled_N1E = pooled_NE.unsqueeze(1)
            if isinstance(output, tuple):
                return (pooled_N1E, *output[1:])
            output.last_hidden_state = pooled_N1E
            return output

        _segments.cu_seqlens, _segments.max_seqlen = cu_seqlens, max_seqlen
        config = self.model.config
        before = config._attn_implementation
        handle = self.layers.register_forward_hook(pool)
        if mean is not None:
            mean.is_off = True
        try:
            config._attn_implementation = NAME
            yield
        finally:
            config._attn_implementation = before
            handle.remove()
            if mean is not None:
                mean.is_off = False

    def __call__(self, batch_NL: Batch) -> torch.Tensor:
        """Return logits of shape (N, C) for padded ids and their mask, each (N, L).

        The padding is removed before anything is copied to the device.
        """
        inputs = self.flat(batch_NL, next(self.model.parameters()).device)
        cu_seqlens = inputs.pop(CU_SEQLENS)
        inputs["position_ids"] = self.positions(cu_seqlens, inputs["input_ids"].shape[1])
        with self.without_padding(cu_seqlens, batch_NL["attention_mask"].shape[1]):
            logits_NC: torch.Tensor = self.model(**inputs).logits
        return logits_NC

    def check_equivalence(self, batch_NL: Batch | None = None, *, tolerance: float) -> float:
        """Return the largest difference from the padded pass, relative to the largest logit.

        batch_NL: the texts to compare on; by default random tokens of random lengths.
        Raises ValueError if the difference exceeds the tolerance.
        """
        if batch_NL is None:
            batch_NL = self._random_batch()
        device = next(self.model.parameters()).device
        with evaluating(self.model, device):
            padded_NC = self.model(**to_tensors(batch_NL, device)).logits
            packed_NC = self(batch_NL)
        return check_equivalent(
            packed_NC,
            padded_NC,
            tolerance,
            relative=True,
            message="packed and padded logits differ by {:.1e} of the largest",
        )

    def _random_batch(self) -> Batch:
        """Return 16 texts of 2 to 64 tokens, fewer if the model has fewer positions."""
        generator = np.random.default_rng(0)
        config = self.model.config
        length = min(64, config.max_position_embeddings - 2 - self.first_position)
        lengths_N = generator.integers(2, length + 1, 16)
        mask_NL = (np.arange(length) < lengths_N[:, None]).astype(np.int64)
        ids_NL = generator.integers(0, config.vocab_size, mask_NL.shape)
        padding = config.pad_token_id or 0
        ids_NL[ids_NL == padding] = padding + 1
        ids_NL[mask_NL == 0] = padding
        return {"input_ids": ids_NL, "attention_mask": mask_NL}
