"""The order of the training rows: shuffled, grouped by length, whole global batches.

The order depends on the seed, the epoch and the global batch alone, so one process and
several, with or without gradient accumulation, make the same updates. The stock
`group_by_length` also reorders evaluation, where predictions then lose their rows; this
sampler is for training only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

WINDOW_BATCHES = 50
"""Global batches among which rows are sorted by length: less padding, still well shuffled."""


class TrainingSampler(Sampler[int]):
    """Row numbers of one epoch after another.

    lengths: tokens of each row, or None to shuffle without grouping. global_batch: rows of
    one update over all processes and accumulation steps. Rows that do not fill a last global
    batch wait for the next epoch, where the order is another; a data set smaller than one
    global batch is repeated to fill it.
    """

    def __init__(
        self, num_rows: int, lengths: Sequence[int] | None, *, global_batch: int, seed: int
    ) -> None:
        self.num_rows = num_rows
        self.lengths = lengths
        self.global_batch = global_batch
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives (called by accelerate)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return max(1, self.num_rows // self.global_batch) * self.global_batch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        rows: list[int] = torch.randperm(self.num_rows, generator=generator).tolist()
        rows = [rows[n % self.num_rows] for n in range(len(self))]
        if self.lengths is None:
            yield from rows
            return
        lengths, size = self.lengths, self.global_batch
        batches = []
        for start in range(0, len(rows), size * WINDOW_BATCHES):
            window = sorted(rows[start : start + size * WINDOW_BATCHES], key=lengths.__getitem__)
            batches += [window[n : n + size] for n in range(0, len(window), size)]
        for index in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[index]
