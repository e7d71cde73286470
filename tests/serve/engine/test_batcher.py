"""The batcher forms efficient batches and starves no text. It is pure, so are these tests."""

from __future__ import annotations

import random
from itertools import count

import pytest

from serve.engine.batcher import Batcher, choose


def make(**settings: float) -> Batcher[str]:
    values = {"max_tokens": 256, "overhead_tokens": 5.0, "tokens_per_s": 1000.0} | settings
    return Batcher(**values)  # type: ignore[arg-type]


def drain(batcher: Batcher[str], *, now: float = 0.0) -> list[list[tuple[str, int]]]:
    batches = []
    while len(batcher):
        batches.append(batcher.next(now=now).rows)
    return batches


def test_every_text_leaves_the_pool_exactly_once() -> None:
    chooser = random.Random(0)
    batcher = make()
    put = set()
    for number in range(200):
        lengths = [chooser.randint(1, 400) for _ in range(chooser.choice([1, 1, 1, 30]))]
        batcher.add(f"r{number}", lengths, now=number * 0.01, deadline=1e9)
        put |= {(f"r{number}", text) for text in range(len(lengths))}

    rows = [row for batch in drain(batcher) for row in batch]

    assert len(rows) == len(put)
    assert set(rows) == put
    assert batcher.tokens == 0


def test_batches_respect_the_budget_and_similar_lengths() -> None:
    chooser = random.Random(1)
    batcher = make()
    lengths = [chooser.randint(1, 100) for _ in range(300)]
    batcher.add("r", lengths, now=0, deadline=1e9)

    for batch in drain(batcher):
        sizes = [lengths[number] for _, number in batch]
        assert max(sizes) * len(sizes) <= 256
        assert max(sizes) * len(sizes) - sum(sizes) <= 5


def test_a_text_over_the_budget_runs_alone() -> None:
    batcher = make(max_tokens=64)
    batcher.add("long", [400], now=0, deadline=9)
    batcher.add("short", [5], now=0, deadline=9)

    assert sorted(drain(batcher)) == [[("long", 0)], [("short", 0)]]


def test_a_large_request_does_not_starve_a_single_text() -> None:
    batcher = make()
    batcher.add("large", [20] * 500, now=0.0, deadline=1e9)
    served = [batcher.next(now=0.0).rows for _ in range(3)]
    batcher.add("one", [20], now=0.1, deadline=1e9)

    assert all(request == "large" for batch in served for request, _ in batch)
    assert ("one", 0) in batcher.next(now=0.1).rows


def test_requests_of_one_size_are_served_in_turn() -> None:
    """Serving all of them in parallel would make each wait for all the others."""
    batcher = make(tokens_per_s=10_000.0)
    for name in "abcd":
        batcher.add(name, [10] * 32, now=0.001 * ord(name), deadline=1e9)

    order = [request for batch in drain(batcher) for request, _ in sorted(batch)]

    assert order == sorted(order)


def test_single_texts_do_not_starve_a_large_request() -> None:
    """Under an overload of single texts the large request still makes progress."""
    batcher = make()
    batcher.add("large", [20] * 100, now=0.0, deadline=1e9)
    names = count()
    now, left = 0.0, 100
    for _ in range(60):
        for _ in range(13):  # 260 tokens arrive for every 256 that are served
            batcher.add(f"one{next(names)}", [20], now=now, deadline=1e9)
        rows = batcher.next(now=now).rows
        left -= sum(request == "large" for request, _ in rows)
        now += 0.256

    assert left == 0


def test_the_text_that_is_due_first_is_in_the_next_batch() -> None:
    """Even if thirty texts of equal length would make a better batch without it."""
    batcher = make()
    batcher.add("old", [200], now=0.0, deadline=1e9)
    for number in range(30):
        batcher.add(f"new{number}", [8], now=10.0, deadline=1e9)

    assert batcher.next(now=10.0).rows == [("old", 0)]


def test_a_short_text_overtakes_a_long_one_that_came_with_it() -> None:
    batcher = make()
    batcher.add("long", [400], now=0.0, deadline=1e9)
    batcher.add("short", [10], now=0.05, deadline=1e9)

    assert drain(batcher) == [[("short", 0)], [("long", 0)]]


def test_pending_texts_are_divided_among_idle_threads() -> None:
    batcher = make()
    batcher.add("r", [10] * 8, now=0, deadline=9)

    assert len(batcher.next(now=0, takers=2).rows) == 4
    assert len(batcher.next(now=0, takers=1).rows) == 4


def test_dropped_and_expired_requests_never_reach_a_batch() -> None:
    batcher = make()
    batcher.add("kept", [10], now=0, deadline=100)
    batcher.add("gone", [10] * 3, now=0, deadline=100)
    batcher.add("late", [10] * 2, now=0, deadline=1)

    batcher.drop("gone")
    selection = batcher.next(now=2)

    assert selection.rows == [("kept", 0)]
    assert selection.expired == ["late"]
    assert len(batcher) == batcher.tokens == 0
    batcher.drop("gone")  # a second time is not an error


def test_an_empty_pool_gives_no_rows() -> None:
    assert make().next(now=0).rows == []


@pytest.mark.parametrize(
    ("lengths", "anchor", "max_tokens", "max_padding", "expected"),
    [
        ([10, 10, 10, 10], 3, 30, 0, [10, 10, 10]),
        ([9, 10, 11, 30], 1, 1000, 4, [9, 10, 11]),
        ([9, 10, 11, 30], 1, 1000, 1000, [9, 10, 11, 30]),
        ([10, 10, 50], 2, 40, 100, [50]),
    ],
)
def test_choice_of_neighbours(
    lengths: list[int], anchor: int, max_tokens: int, max_padding: float, expected: list[int]
) -> None:
    entries = [(tokens, arrival) for arrival, tokens in enumerate(lengths)]

    low, high = choose(entries, anchor, max_tokens=max_tokens, max_padding=max_padding)

    assert lengths[low:high] == expected
    assert low <= anchor < high
