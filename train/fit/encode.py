"""From rows to what the model reads: token ids, cached by content, and batches of tensors.

Where `model.trained_layers` freezes layers, their output is computed once per text and cached.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import datasets
import torch
from torch import nn

from serve.inference.equivalence import to_tensors
from serve.inference.pooling import layers_of
from serve.inference.text import Encoding, TextEncoder
from train.config.run import RunConfig
from train.data.splits import Split
from train.fit.run import Run
from train.fit.tokens import Tokens, write_tokens
from train.model.base import Base
from train.model.frozen_layers import (
    CACHED_HIDDEN_STATES,
    CachedHiddenStates,
    FrozenLayers,
    store_states,
)
from train.model.packing import PackedTraining
from train.model.source import base_content


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """The encoded training and validation splits."""

    train: datasets.Dataset
    validation: datasets.Dataset
    """Sorted by length. In both, `row` numbers the rows of train, then those of validation."""

    states: CachedHiddenStates | None
    """What the frozen layers return for each `row`; None where none is frozen."""


def encode_splits(run: Run, base: Base) -> Inputs:
    """Encode both splits, or read them from the cache, the main process first."""
    config, data = run.config, run.data
    with run.state.main_process_first():
        train = encode(data.train, data.labels, config, base.encoder)
        validation = encode(data.validation, data.labels, config, base.encoder, sort=True)
    states = None
    if num_frozen_layers(config, base.model):
        states = cache_hidden_states(run, base, [train, validation])
    return Inputs(
        train=train.add_column("row", range(len(train))),
        validation=validation.add_column("row", range(len(train), len(train) + len(validation))),
        states=states,
    )


def encode(
    split: Split,
    labels: tuple[str, ...],
    config: RunConfig,
    encoder: TextEncoder,
    *,
    sort: bool = False,
) -> datasets.Dataset:
    """Encode a split: token ids and label numbers, or 0/1 rows for multi-label.

    The result is a memory-mapped file under `output_dir/cache`, named by the content of the
    rows and the tokenizer, so that later runs reuse it.
    sort: order by length, for evaluation, where the order is free and padding costs time.
    """
    what = [split.fingerprint, labels, config.task, sort, encoder.fingerprint]
    key = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]
    path = config.output_dir / "cache" / f"tokens-{key}.arrow"
    if not path.is_file():
        write_tokens(split, labels, config.task, encoder, path, sort=sort)
    return datasets.Dataset.from_file(str(path))


def num_frozen_layers(config: RunConfig, model: nn.Module) -> int:
    """Return how many layers, from the bottom, are frozen and run once per text."""
    if config.method == "probe" or config.model.trained_layers is None:
        return 0
    return max(0, len(layers_of(model)) - config.model.trained_layers)


def cache_hidden_states(run: Run, base: Base, splits: list[datasets.Dataset]) -> CachedHiddenStates:
    """Run the frozen layers over all rows of the splits in order, or read their cached output.

    Raises ValueError for an architecture whose frozen layers cannot be skipped.
    """
    config = run.config
    assert config.model.trained_layers is not None
    frozen = FrozenLayers(base.model, num_trained=config.model.trained_layers)
    encodings = Tokens(datasets.concatenate_datasets(splits), base.encoder.columns)
    with (
        run.state.main_process_first(),
        run.progress("frozen layers", texts=len(encodings)) as bar,
    ):
        states = store_states(
            frozen,
            base.encoder,
            encodings,
            config.output_dir / "cache",
            base=json.dumps([base_content(config.model), config.quantize]),
            device=run.device,
            progress=bar.update,
        )
    frozen.check_equivalence(base.encoder, encodings[-8:], run.device)
    return states


@dataclasses.dataclass(frozen=True)
class Collator:
    """Turns rows into the tensors of a batch."""

    encoder: TextEncoder
    task: str
    states: CachedHiddenStates | None = None
    """Cached hidden states of the texts, by `row`."""
    packing: PackedTraining | None = None
    """Concatenates the texts instead of padding them."""

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
