"""The order of the training rows depends only on seed, epoch and global batch."""

from __future__ import annotations

import random

from train.fit.sampler import TrainingSampler

LENGTHS = [random.Random(n).randint(3, 60) for n in range(1000)]


def order(epoch: int = 0, *, lengths: list[int] | None = LENGTHS, seed: int = 0) -> list[int]:
    sampler = TrainingSampler(1000, lengths, global_batch=32, seed=seed)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_each_row_comes_at_most_once_and_batches_are_whole() -> None:
    rows = order()

    assert len(rows) == 992 == len(TrainingSampler(1000, LENGTHS, global_batch=32, seed=0))
    assert len(set(rows)) == 992


def test_rows_that_wait_are_others_in_the_next_epoch() -> None:
    assert set(range(1000)) - set(order(0)) != set(range(1000)) - set(order(1))


def test_order_repeats_under_a_seed_and_changes_with_it() -> None:
    assert order(3) == order(3)
    assert order(3) != order(4)
    assert order(3) != order(3, seed=1)


def test_batches_hold_rows_of_like_length() -> None:
    def padding(rows: list[int]) -> float:
        batches = [rows[n : n + 32] for n in range(0, len(rows), 32)]
        padded = sum(32 * max(LENGTHS[row] for row in batch) for batch in batches)
        return 1 - sum(LENGTHS[row] for row in rows) / padded

    assert padding(order()) < 0.05
    assert padding(order(lengths=None)) > 0.3


def test_tiny_data_fills_one_global_batch() -> None:
    sampler = TrainingSampler(5, [3] * 5, global_batch=8, seed=0)

    assert len(sampler) == 8
    assert set(sampler) == {0, 1, 2, 3, 4}
