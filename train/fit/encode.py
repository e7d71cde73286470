"""From rows to token ids, kept by content, and to the tensors of a batch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import datasets
import torch

from serve.inference.equivalence import to_tensors
from serve.inference.text import Encoding, TextEncoder
from train.config.run import RunConfig
from train.data.splits import Split
from train.fit.tokens import write_tokens
from train.model.frozen_layers import CACHED_HIDDEN_STATES, CachedHiddenStates
from train.model.packing import PackedTraining

TRAINED_LOGITS = "validation_logits.npy"
"""Logits of the trained model on the validation rows, sorted by length, for `merge`."""


def encode(
    split: Split,
    labels: tuple[str, ...],
    config: RunConfig,
    encoder: TextEncoder,
    *,
    sort: bool = False,
) -> datasets.Dataset:
    """Token ids and label numbers (or 0/1 rows for multi-label) of a split.

    They are kept under `output_dir/cache` by the content of the rows and the tokenizer, read
    from there by a later run, and mapped into memory rather than held in it.
    sort: order by length, for evaluation, where order is free and padding costs.
    """
    what = [split.fingerprint, labels, config.task, sort, encoder.fingerprint]
    key = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]
    path = config.output_dir / "cache" / f"tokens-{key}.arrow"
    if not path.is_file():
        write_tokens(split, labels, config.task, encoder, path, sort=sort)
    return datasets.Dataset.from_file(str(path))


@dataclasses.dataclass(frozen=True)
class Collator:
    """Rows to padded tensors."""

    encoder: TextEncoder
    task: str
    states: CachedHiddenStates | None = None
    """What frozen layers made of the texts, by their `row`."""
    packing: PackedTraining | None = None
    """Puts the texts behind one another in place of padding them."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad to the longest row of the batch, or pack."""
        encodings: list[Encoding] = [
            {name: row[name] for name in self.encoder.columns} for row in rows
        ]
        padded = self.encoder.pad(encodings)
        batch: dict[str, Any] = to_tensors(padded, "cpu")
        if self.packing is not None:
            batch = self.packing.flat(padded)
        dtype = torch.float32 if self.task == "multi_label" else torch.int64
        if self.states is not None:
            numbers = [row["row"] for row in rows]
            packed = self.packing is not None
            batch[CACHED_HIDDEN_STATES] = (
                self.states.flat(numbers) if packed else self.states.padded(numbers)
            )
        batch["labels"] = torch.tensor([row["labels"] for row in rows], dtype=dtype)
        return batch
