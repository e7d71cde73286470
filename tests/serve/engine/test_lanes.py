"""Small requests keep a thread for themselves, and nothing starves."""

from __future__ import annotations

import pytest

from serve.engine.lanes import BUSY_PASS_S, BUSY_REQUESTS, BUSY_S, PASS_S, REST_S, Lanes

LARGE = [100] * 20  # 2 s of the device


def make(*, concurrency: int = 2) -> Lanes[str]:
    return Lanes(concurrency=concurrency, max_tokens=200, overhead_tokens=5.0, tokens_per_s=1000.0)


def with_large_and_busy(lanes: Lanes[str], *, now: float) -> Lanes[str]:
    """A large request, and as many small ones as keep a thread, all of them done."""
    lanes.add("large", LARGE, now=0.0, deadline=100.0)
    for number in range(BUSY_REQUESTS):
        lanes.add(f"small {number}", [10], now=now, deadline=100.0)
    while lanes.small.tokens:
        lanes.finish(lanes.next(now=now))
    return lanes


def test_the_last_free_thread_waits_for_small_requests_while_they_arrive() -> None:
    lanes = with_large_and_busy(make(), now=0.0)

    first = lanes.next(now=0.1, takers=2)
    assert {request for request, _ in first.rows} == {"large"}
    assert not lanes.has_work(now=0.1)
    assert lanes.next(now=0.1).rows == []

    lanes.add("next", [10], now=0.2, deadline=100.0)
    assert lanes.has_work(now=0.2)
    assert lanes.next(now=0.2).rows == [("next", 0)]

    lanes.finish(first)
    assert {request for request, _ in lanes.next(now=0.3).rows} == {"large"}


def test_a_large_request_gets_every_thread_once_no_small_ones_arrive() -> None:
    lanes = with_large_and_busy(make(), now=0.0)
    lanes.next(now=0.1)

    assert not lanes.has_work(now=BUSY_S - 0.01)
    assert lanes.next(now=BUSY_S + 0.01).rows


def test_the_only_thread_takes_what_is_due_first() -> None:
    lanes = with_large_and_busy(make(concurrency=1), now=0.0)
    lanes.add("late", [10], now=50.0, deadline=100.0)

    first = lanes.next(now=50.0, takers=1).rows

    assert {request for request, _ in first} == {"large"}
    texts = len(first)
    while len(lanes):
        texts += len(lanes.next(now=50.0, takers=1).rows)
    assert texts == len(LARGE) + 1


def test_what_is_dropped_or_too_late_leaves_both_pools() -> None:
    lanes = with_large_and_busy(make(), now=0.0)
    lanes.add("small", [10], now=0.0, deadline=1.0)

    assert lanes.next(now=2.0, takers=1).expired == ["small"]
    lanes.drop("large")
    assert lanes.tokens == len(lanes) == 0


def test_a_slow_device_gets_batches_that_do_not_keep_others_waiting() -> None:
    lanes = make()
    for _ in range(30):
        lanes.measure(50, 0.5)  # of 2 threads: 200 tokens/s

    assert lanes.speed == pytest.approx(220, rel=0.1)  # the fixed cost is 5 tokens
    lanes.add("texts", [10] * 20, now=0.0, deadline=100.0)
    assert len(lanes.next(now=0.0).rows) == 2
    lanes.measure(10, 1e-3)
    assert lanes.max_tokens == 200


def test_passes_of_large_requests_are_short_while_small_ones_arrive() -> None:
    def tokens_of_next(*, now: float) -> int:
        lanes = Lanes[str](
            concurrency=1, max_tokens=10_000, overhead_tokens=5.0, tokens_per_s=10_000.0
        )
        lanes.add("large", [10] * 2000, now=0.0, deadline=100.0)
        for number in range(BUSY_REQUESTS):
            lanes.add(f"small {number}", [10], now=0.0, deadline=100.0)
        while lanes.small.tokens:
            lanes.finish(lanes.next(now=0.0))
        return 10 * len(lanes.next(now=now).rows)

    assert tokens_of_next(now=0.1) == BUSY_PASS_S * 10_000
    assert tokens_of_next(now=BUSY_S + 0.1) == PASS_S * 10_000


def test_small_requests_overtake_large_ones_that_came_before() -> None:
    lanes = make(concurrency=1)
    lanes.add("large", LARGE, now=0.0, deadline=100.0)
    lanes.add("small", [10], now=0.4, deadline=100.0)

    assert lanes.next(now=0.5).rows == [("small", 0)]
    assert {request for request, _ in lanes.next(now=0.5).rows} == {"large"}


def test_a_pause_of_the_machine_says_little_about_the_speed() -> None:
    lanes = make(concurrency=1)

    lanes.measure(200, 30.0)

    assert lanes.speed > 600


def test_an_idle_device_is_taken_for_as_fast_as_at_the_start() -> None:
    lanes = make(concurrency=1)
    for _ in range(30):
        lanes.measure(50, 0.5)
    assert lanes.speed < 150

    for _ in range(50):
        lanes.rest(REST_S / 10)

    assert lanes.speed == pytest.approx(1000, rel=0.02)
    lanes.measure(200, 1e-3)
    lanes.rest(REST_S)
    assert lanes.speed > 1000
