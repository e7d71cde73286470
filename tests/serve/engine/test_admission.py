"""What may be in flight, and what is refused at once, with a hint that helps."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

import pytest
from prometheus_client import CollectorRegistry, Gauge

from serve.engine.admission import QUEUE_TOKENS, Admission, Unavailable
from serve.engine.transport import Beat


def make(max_tokens: int | None = None, *, processes: int = 1, speed: float = 0.0) -> Admission:
    gauge = Gauge("tokens", "In flight", registry=CollectorRegistry())
    admission = Admission(max_tokens=max_tokens, processes=processes, timeout_s=30, gauge=gauge)
    if speed:
        admission.report("device", beat(speed))
    return admission


def beat(speed: float, *, pending: int = 0) -> Beat:
    return Beat(running_s=0, tokens_per_s=speed, max_batch_tokens=8192, pending_tokens=pending)


def within(run: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(run(), 5))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("speed", "processes", "limit"),
    [
        (0, 1, QUEUE_TOKENS),
        (10_000, 1, QUEUE_TOKENS),
        (3e6, 1, 6_000_000),
        (1_000, 1, 30_000),
        (3e6, 8, 750_000),
        (10_000, 16, 16_384),
    ],
    ids=["unknown", "usual", "fast", "slow", "shared", "a batch at least"],
)
def test_the_limit_follows_the_speed(speed: float, processes: int, limit: int) -> None:
    assert make(speed=speed, processes=processes).limit == limit


def test_a_configured_limit_is_the_limit() -> None:
    assert make(1000, processes=4, speed=3e6).limit == 250


def test_large_requests_leave_room_for_small_ones() -> None:
    async def run() -> None:
        admission = make(1600, speed=1e6)
        for _ in range(12):
            await asyncio.wait_for(admission.enter_slice(100), 1)
        later = asyncio.create_task(admission.enter_slice(100))
        await asyncio.sleep(0)
        assert not later.done()
        admission.check(400)
        with pytest.raises(Unavailable, match="the limit of 1600"):
            admission.check(401)
        with pytest.raises(Unavailable, match="queue full"):
            admission.check_large(5000, 50)
        admission.leave(100)
        await later
        assert admission.tokens == 1200

    within(run)


def test_slices_enter_in_order_and_those_given_up_are_skipped() -> None:
    async def run() -> None:
        admission = make(1600, speed=1e6)
        await admission.enter_slice(1200)
        order: list[int] = []

        async def enter(number: int) -> None:
            await admission.enter_slice(600)
            order.append(number)

        tasks = [asyncio.create_task(enter(number)) for number in range(3)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.sleep(0)
        admission.leave(1200)
        await asyncio.gather(*tasks[1:])
        assert order == [1, 2]
        admission.leave(600)
        admission.leave(600)
        assert admission.tokens == 0

    within(run)


def test_a_request_that_never_fits_in_time_says_how_many_texts_would() -> None:
    admission = make(speed=1000)

    with pytest.raises(Unavailable) as caught:
        admission.check_large(60_000, 600)

    assert (caught.value.status, caught.value.retry_after_s) == (413, None)
    assert str(caught.value) == (
        "60000 tokens take 60 s at 1000 tokens/s, over timeout_s = 30 s; "
        "send fewer texts per request, about 240"
    )


def test_a_request_that_would_fit_alone_says_when_to_come_back() -> None:
    admission = make(speed=1000)
    admission.report("device", beat(1000, pending=20_000))

    with pytest.raises(Unavailable) as caught:
        admission.check_large(20_000, 100)

    assert (caught.value.status, caught.value.retry_after_s) == (429, 10)
    assert re.search(r"20000 tokens queued, .* take 40 s.* about 40$", str(caught.value))
    admission.check_large(9_000, 100)


def test_small_traffic_counts_as_taken() -> None:
    async def run() -> None:
        admission = make(speed=1000)
        admission.enter(1200)
        admission.leave(1200)
        admission._window_s -= 2.0
        with pytest.raises(Unavailable, match="would take 50 s"):
            admission.check_large(20_000, 100)

    within(run)
