"""Embed texts with the frozen base: the mean of its last hidden states, scaled to unit length.

Used only by the audit. The head is initialized from its own input features (`train.model.head`).

Shape suffixes: N texts, L tokens, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from serve.inference.backends.bulk import BULK_TOKENS, Bulk
from serve.inference.equivalence import move, to_tensors
from serve.inference.precision import matmul_precision
from serve.inference.text import Encoding, Text, shortest_first
from serve.tables import blocks
from train.model.base import Base
from train.model.frozen_layers import batches_by_length

BLOCK_TEXTS = 2048
BATCH_TEXTS = 64


@torch.no_grad()
@matmul_precision("highest")
def embed(
    base: Base,
    texts: Sequence[Text],
    *,
    device: str,
    progress: Callable[[int], object] = lambda texts: None,
) -> NDArray[np.float32]:
    """Return the features of each text, (N, D) in fp32, in the order given.

    progress: called with the number of texts after each batch. Leaves the model on `device`.
    """
    model = move(base.model, device).eval()
    body = getattr(model, model.base_model_prefix)
    bulk = Bulk(model, torch.device(device))
    parts = []
    for block in blocks(texts, BLOCK_TEXTS):
        encodings = base.encoder.encode(block)
        lengths = [len(encoding["input_ids"]) for encoding in encodings]
        if bulk.on_cpu:
            batches = batches_by_length(lengths, BULK_TOKENS)
        else:
            order = shortest_first(encodings)
            batches = [order[n : n + BATCH_TEXTS] for n in range(0, len(order), BATCH_TEXTS)]

        def run(rows: Sequence[int], encodings: Sequence[Encoding] = encodings) -> torch.Tensor:
            inputs = to_tensors(base.encoder.pad([encodings[row] for row in rows]), device)
            states_NLD = body(**inputs).last_hidden_state.float()
            mask_NL1 = inputs["attention_mask"].unsqueeze(-1)
            mean_ND = (states_NLD * mask_NL1).sum(dim=1) / mask_NL1.sum(dim=1)
            return functional.normalize(mean_ND).cpu()

        features_ND: torch.Tensor | None = None
        for rows, found_ND in zip(batches, bulk.run(run, batches, lengths), strict=True):
            if features_ND is None:
                features_ND = torch.empty(len(block), found_ND.shape[1])
            features_ND[rows] = found_ND
            progress(len(rows))
        assert features_ND is not None
        parts.append(features_ND.numpy())
    return np.concatenate(parts)


def token_counts(base: Base, texts: Sequence[Text]) -> NDArray[np.int64]:
    """Count the tokens of each text before truncation, including special tokens, (N,)."""
    tokenizer = base.encoder.tokenizer
    assert tokenizer is not None
    counts: list[int] = []
    for block in blocks(texts, BLOCK_TEXTS):
        firsts = [text if isinstance(text, str) else text[0] for text in block]
        seconds = [text[1] for text in block if not isinstance(text, str)] or None
        ids = tokenizer(firsts, seconds, truncation=False, padding=False, verbose=False)
        counts += map(len, ids["input_ids"])
    return np.array(counts, dtype=np.int64)
