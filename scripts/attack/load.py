"""A normal load: requests of one short text, sent at given times whatever the answers (open loop).

Latency counts from the time at which a request was due, so a stalled server cannot hide behind a
client that waits for it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

TIMEOUT_S = 40.0


def request_of(text: str) -> bytes:
    """A request to /predict for one text."""
    body = json.dumps({"inputs": text}).encode()
    return (
        b"POST /predict HTTP/1.1\r\nhost: load\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%s" % (len(body), body)
    )


REQUEST = request_of("where is the parcel that I ordered last week")

Look = Callable[[int, float, bytes, bytes], None]
"""Takes a 200: the number of its request, when that was due, the head and the body."""

Pool = deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
"""Connections in turn: one that rests is closed by the server after `idle_timeout_s`."""


@dataclass
class Window:
    """What became of the requests of one window."""

    latencies_s: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    """Requests by status, or by kind of exception."""

    def percentile_ms(self, percent: float) -> float:
        """A percentile of the latency of all requests that were answered."""
        ordered = sorted(self.latencies_s)
        return 1e3 * ordered[min(len(ordered) - 1, int(percent / 100 * len(ordered)))]


async def _one(
    port: int,
    pool: Pool,
    window: Window,
    due_s: float,
    request: bytes = REQUEST,
    look: Callable[[bytes, bytes], None] | None = None,
) -> None:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = (
                pool.popleft() if pool else await asyncio.open_connection("127.0.0.1", port)
            )
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            (length,) = (
                int(line.partition(b":")[2])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            )
            body = await reader.readexactly(length)
    except (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError) as error:
        window.outcomes[type(error).__name__] += 1
        return
    window.latencies_s.append(time.perf_counter() - due_s)
    status = head.split(b" ")[1].decode()
    window.outcomes[status] += 1
    if look is not None and status == "200":
        look(head, body)
    if b"connection: close" in head.lower():
        writer.close()
    else:
        pool.append((reader, writer))


async def _open_loop(port: int, rate: float, seconds: float, windows: int) -> list[Window]:
    pool: Pool = deque()
    found, tasks = [], set()
    due_s = time.perf_counter()
    for _ in range(windows):
        window = Window()
        found.append(window)
        for _ in range(int(rate * seconds)):
            if (wait_s := due_s - time.perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            task = asyncio.create_task(_one(port, pool, window, due_s))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            due_s += 1 / rate
    await asyncio.gather(*tasks)
    for _, writer in pool:
        writer.close()
    return found


async def follow(
    port: int, *, rate: float, requests: Sequence[bytes], until: Callable[[int], bool], look: Look
) -> Window:
    """Send requests in turn at a rate until `until` is true of their number; look at each 200."""
    pool: Pool = deque()
    window, tasks = Window(), set()
    due_s, number = time.perf_counter(), 0
    while not until(number):
        if (wait_s := due_s - time.perf_counter()) > 0:
            await asyncio.sleep(wait_s)
        request = requests[number % len(requests)]
        task = asyncio.create_task(
            _one(port, pool, window, due_s, request, partial(look, number, due_s))
        )
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due_s += 1 / rate
        number += 1
    await asyncio.gather(*tasks)
    for _, writer in pool:
        writer.close()
    return window


async def _closed_loop(port: int, connections: int, seconds: float) -> float:
    window, end_s = Window(), time.perf_counter() + seconds

    async def client() -> None:
        pool: Pool = deque()
        while time.perf_counter() < end_s:
            await _one(port, pool, window, time.perf_counter())
        for _, writer in pool:
            writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return window.outcomes["200"] / seconds


def capacity(port: int, *, connections: int = 16, seconds: float = 4.0) -> float:
    """Requests per second that the server answers to clients that each wait for their answer."""
    return asyncio.run(_closed_loop(port, connections, seconds))


def measure(port: int, *, rate: float, seconds: float, windows: int) -> list[Window]:
    """Send `rate` requests per second for some windows of time, and wait for the answers."""
    return asyncio.run(_open_loop(port, rate, seconds, windows))
