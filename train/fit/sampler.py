"""The order of the training rows: shuffled, grouped by length, in full global batches.

The order depends only on the seed, the epoch and the global batch, so one process and several,
with or without gradient accumulation, make the same updates. The stock `group_by_length` also
reorders evaluation, so that predictions no longer match their rows; this sampler is for
training only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

WINDOW_BATCHES = 50
"""Global batches within which rows are sorted by length: less padding, still well shuffled."""


class TrainingSampler(Sampler[int]):
    """Row numbers, one epoch per iteration.

    lengths: tokens of each row, or None to shuffle without grouping. global_batch: rows of
    one update over all processes and accumulation steps. Rows that do not fill a last global
    batch are left out of the epoch (the next one has a different order); a data set smaller
    than one global batch is repeated to fill it.
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
        """Set the epoch of the next iteration (called by accelerate)."""
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
