"""A forward pass without padding: all texts of a batch behind one another, as one row.

Attention is kept within each text by `torch.nn.attention.varlen`, positions begin anew with
each text, and after the last layer the first token of every text is taken, which is what
the stock heads look at, or the mean of its tokens for a mean-pooled model. Whatever an
architecture does otherwise shows in its logits, so a model is only run this way if they
equal those of the padded pass (`PackedModel.check_equivalence`).

On the CPU, where there is no such kernel, attention runs text by text; that is for tests.

Shape suffixes: N texts, L tokens of one text, T tokens of all, H heads, D size of a head,
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
from numpy.typing import NDArray
from transformers import AttentionInterface, AttentionMaskInterface

from serve.inference.pooling import means_of_segments
from serve.inference.text import Batch

NAME = "textloop_packed"

CU_SEQLENS = "cu_seqlens"
"""Name of the texts' ends among flat inputs."""

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
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        ends, longest = _segments.ends, _segments.longest
        out_THD = varlen_attn(query, key, value, ends, ends, longest, longest, scale=scaling)
        assert isinstance(out_THD, torch.Tensor)
        return out_THD.unsqueeze(0), None
    parts = [
        torch.nn.functional.scaled_dot_product_attention(
            query_1HTD[0, :, start:end],
            key_1HTD[0, :, start:end],
            value_1HTD[0, :, start:end],
            scale=scaling,
        )
        for start, end in pairwise(_segments.ends.tolist())
    ]
    return torch.cat(parts, dim=1).transpose(0, 1).unsqueeze(0), None


def _no_mask(*_: Any, **__: Any) -> None:
    return None


class PackedModel:
    """A stock sequence classifier, called with packed batches.

    Raises ValueError for an architecture whose last layer or positions are not found.
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
        # RoBERTa and its kin count positions from behind the padding token's id.
        padding = getattr(base.embeddings, "padding_idx", None)
        self.first_position = 0 if padding is None else padding + 1

    def flat(self, batch_NL: Batch) -> dict[str, NDArray[Any]]:
        """Padded ids and their mask, each (N, L), without the padding: each (1, T).

        With the position of each token in its text, and in `CU_SEQLENS` where each text starts and
        the last one ends, int32 of shape (N + 1,).
        """
        mask_NL = batch_NL["attention_mask"].astype(bool)
        rows = {name: ids for name, ids in batch_NL.items() if name != "attention_mask"}
        rows["position_ids"] = mask_NL.cumsum(axis=1) - 1 + self.first_position
        flat: dict[str, NDArray[Any]] = {
            name: ids_NL[mask_NL][None] for name, ids_NL in rows.items()
        }
        flat[CU_SEQLENS] = np.append(0, mask_NL.sum(axis=1).cumsum()).astype(np.int32)
        return flat

    @contextmanager
    def without_padding(self, ends: torch.Tensor, longest: int) -> Iterator[None]:
        """Inside, the model takes flat inputs; ends: of `flat`, longest: tokens of a text."""
        mean = getattr(self.model, "mean_pooling", None)
        starts = ends[:-1].long()

        def take(module: Any, arguments: Any, output: Any) -> Any:
            hidden_TE = output[0][0]
            hidden_NE = hidden_TE[starts] if mean is None else means_of_segments(hidden_TE, ends)
            hidden_N1E = hidden_NE.unsqueeze(1)
            if isinstance(output, tuple):
                return (hidden_N1E, *output[1:])
            output.last_hidden_state = hidden_N1E
            return output

        _segments.ends, _segments.longest = ends, longest
        config = self.model.config
        before = config._attn_implementation
        handle = self.layers.register_forward_hook(take)
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
        """Logits of shape (N, C) for padded ids and their mask, each (N, L).

        The padding is taken out before anything goes to the device.
        """
        device = next(self.model.parameters()).device
        inputs = {
            name: torch.from_numpy(ids).to(device, non_blocking=True)
            for name, ids in self.flat(batch_NL).items()
        }
        with self.without_padding(inputs.pop(CU_SEQLENS), batch_NL["attention_mask"].shape[1]):
            logits_NC: torch.Tensor = self.model(**inputs).logits
        return logits_NC

    def check_equivalence(self, *, tolerance: float, seed: int = 0) -> float:
        """Largest difference to the padded pass on texts of random tokens and lengths.

        Raises ValueError if it is over the tolerance.
        """
        generator = np.random.default_rng(seed)
        config, device = self.model.config, next(self.model.parameters()).device
        longest = min(64, config.max_position_embeddings - 2 - self.first_position)
        lengths_N = generator.integers(2, longest + 1, 16)
        mask_NL = (np.arange(longest) < lengths_N[:, None]).astype(np.int64)
        ids_NL = generator.integers(0, config.vocab_size, mask_NL.shape)
        padding = config.pad_token_id or 0
        ids_NL = np.where(ids_NL == padding, padding + 1, ids_NL) * mask_NL
        ids_NL += padding * (1 - mask_NL)
        batch_NL: Batch = {"input_ids": ids_NL, "attention_mask": mask_NL}
        padded = {name: torch.from_numpy(each).to(device) for name, each in batch_NL.items()}
        padded_NC = self.model(**padded).logits.float()
        worst = float((self(batch_NL).float() - padded_NC).abs().max() / padded_NC.abs().max())
        if not worst <= tolerance:
            raise ValueError(f"packed and padded logits differ by {worst:.1e} of the largest")
        return worst
