"""One connection to a client, from its acceptance to its end: time limits, refusals, eviction.

uvicorn has no time limit except between requests. Here head, body, response and silence have
one each, checked by the sweep of `Connections`; a response in the making has `timeout_s`.
Refusals are written here: no request exists yet that a route could answer. What the client
sends is read in `serve.http.connection.parsing`.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from serve.http.connection.refusal import ENDED, Refusal, note, release, too_slow
from serve.http.connection.registry import EVICT_AFTER_S, EVICT_BODY_AFTER_S, Connections
from serve.http.context import log_refusal

LINGER_S = 2.0
"""Seconds after a refusal for the client to read it, before its connection is reset."""


class TimedConnection(HttpToolsProtocol):
    """A client's connection, without the parsing."""

    registry: ClassVar[Connections]

    in_head = in_body = False
    """Whether part of a head, or of a body, has been received and the rest has not."""
    since_s = 0.0
    """When the present head, body or silence began."""
    unsent_s: float | None = None
    """Since when the response waits for the client to read it."""
    is_surplus = False
    """Whether it is one of more than `max_connections`."""
    closing_s: float | None = None
    """When it was refused; what the client sends after that is dropped."""
    is_lingering = False
    """Whether the refusal has been written."""
    refusal: Refusal | None = None
    """To be written after the responses to earlier requests."""
    stray_bytes = 0
    """Bytes since the parser last reported anything: an unfinished header, or none at all."""

    def connection_made(self, transport: object) -> None:
        """Count the connection; there may be too many."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self.since_s = self.registry.now_s
        self.registry.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, and requests of it that have not been started."""
        self.registry.open.discard(self)
        for cycle, _ in self.pipeline:
            release(cycle.scope)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Start the next request of the connection, or wait for it."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self.refusal:
            self._write_refusal(self.refusal)
        elif not (self.in_head or self.in_body):
            self.since_s = self.registry.now_s

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        def end(task: asyncio.Task[None]) -> None:
            self.tasks.discard(task)
            release(cycle.scope)

        task = self.loop.create_task(cycle.run_asgi(app))
        self.tasks.add(task)
        task.add_done_callback(end)

    def refuse(self, refusal: Refusal) -> None:
        """Answer what the client is sending with an error, and close the connection.

        Responses to earlier requests are sent first.
        """
        self.registry.count_closed(refusal.reason, self, str(refusal))
        self.closing_s, self.stray_bytes = self.registry.now_s, 0
        cycle: RequestResponseCycle | None = self.cycle
        busy = cycle is not None and not cycle.response_complete
        if self.in_body and cycle is not None:
            if not busy or cycle.response_started:
                self.transport.abort()
                return
            note(cycle.scope, ENDED, refusal)
            if busy := bool(self.pipeline and self.pipeline[0][0] is cycle):
                self.pipeline.popleft()  # not started
                release(cycle.scope)
            else:
                cycle.disconnected = True
                cycle.message_event.set()
        if not self.in_body and self.registry.config.access_log:
            log_refusal(self.client, refusal.status)
        self.in_head = self.in_body = False
        if busy:
            self.refusal = refusal
        else:
            self._write_refusal(refusal)

    def _write_refusal(self, refusal: Refusal) -> None:
        self.closing_s, self.is_lingering = self.registry.now_s, True
        self.transport.write(refusal.response())
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()

    def check_time(self) -> None:
        """Close the connection if its client is out of time."""
        config, expired = self.registry.config, self.registry.expired
        idle = self.cycle is None or self.cycle.response_complete
        if not self.transport.get_write_buffer_size():
            self.unsent_s = None
        elif self.unsent_s is None:
            self.unsent_s = self.registry.now_s
        elif expired(self.unsent_s, config.send_timeout_s):
            self._close("send_time", f"it read no response for {config.send_timeout_s:g} s")
            return
        if self.closing_s is not None:
            if self.is_lingering and expired(self.closing_s, LINGER_S):
                self.transport.abort()
        elif self.flow.read_paused:
            self.since_s = self.registry.now_s  # the client cannot send
        elif self.in_head and expired(self.since_s, config.head_timeout_s):
            self.refuse(too_slow("head", config.head_timeout_s))
        elif self.in_body and expired(self.since_s, config.body_timeout_s):
            self.refuse(too_slow("body", config.body_timeout_s))
        elif idle and not (self.in_head or self.in_body):
            limit_s = config.idle_timeout_s if self.cycle else config.head_timeout_s
            if expired(self.since_s, limit_s):
                self.registry.metrics.connections_closed.labels("idle").inc()
                self.transport.close()

    def _close(self, reason: str, message: str) -> None:
        self.registry.count_closed(reason, self, message)
        self.transport.abort()

    def may_be_evicted(self) -> bool:
        """Whether the server has waited for this client long enough to prefer another."""
        if self.is_lingering:
            limit_s = 0.0
        elif self.in_body or (self.cycle is not None and not self.cycle.response_complete):
            limit_s = EVICT_BODY_AFTER_S if self.in_body else float("inf")
        else:
            limit_s = EVICT_AFTER_S
        return self.registry.now_s - self.since_s > limit_s

    def eviction_order(self) -> tuple[int, float]:
        """Lower is evicted first."""
        return 2 if self.in_body else int(self.cycle is not None), self.since_s

    def evict(self) -> None:
        """Make room for another connection."""
        self._close("evicted", "it was waiting for its client, and others want to connect")

    def shutdown(self) -> None:
        """Close the connection, once the response to a request that was received is sent."""
        self.registry.stop()
        super().shutdown()
