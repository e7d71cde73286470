"""From rows to the tensors of a batch."""

from __future__ import annotations

import dataclasses
from typing import Any

import datasets
import torch

from serve.text import Encoding, TextEncoder
from train.config import RunConfig
from train.data import Split


def encode(
    split: Split,
    labels: tuple[str, ...],
    config: RunConfig,
    encoder: TextEncoder,
    *,
    sort: bool = False,
) -> datasets.Dataset:
    """Token ids and label numbers (or 0/1 rows for multi-label) of a split.

    sort: order by length, for evaluation, where order is free and padding costs.
    """
    index = {label: number for number, label in enumerate(labels)}
    encodings = encoder.encode(split.texts)
    columns: dict[str, list[Any]] = {
        name: [encoding[name] for encoding in encodings] for name in encodings[0]
    }
    if config.task == "multi_label":
        columns["labels"] = [
            [float(label in row) for label in labels] for row in map(set, split.labels)
        ]
    else:
        columns["labels"] = [index[row[0]] for row in split.labels]
    if sort:
        order = sorted(range(len(split)), key=lambda n: len(encodings[n]["input_ids"]))
        columns = {name: [values[n] for n in order] for name, values in columns.items()}
    return datasets.Dataset.from_dict(columns)


@dataclasses.dataclass(frozen=True)
class Collator:
    """Rows to padded tensors."""

    encoder: TextEncoder
    task: str

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad to the longest row of the batch."""
        encodings: list[Encoding] = [
            {name: ids for name, ids in row.items() if name != "labels"} for row in rows
        ]
        batch = {name: torch.from_numpy(a) for name, a in self.encoder.pad(encodings).items()}
        dtype = torch.float32 if self.task == "multi_label" else torch.int64
        batch["labels"] = torch.tensor([row["labels"] for row in rows], dtype=dtype)
        return batch
