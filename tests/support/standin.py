"""A real uvicorn on a real socket with our connections, around an application of a few lines."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from serve.engine.metrics import HttpMetrics
from serve.http.connection import registry, timed
from serve.http.connection.parsing import connection_class
from serve.http.connection.refusal import ENDED, REFUSED
from serve.settings import ServeConfig


@dataclass
class StandIn:
    """A server that answers with what it was sent; `/slow` and `/large` do what they say."""

    connections: registry.Connections
    metrics: HttpMetrics
    port: int = 0
    ended: list[int] = field(default_factory=list)
    """Statuses of requests that were ended before their body was complete."""

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if refused := scope.get(REFUSED):
            await JSONResponse({"error": str(refused)}, refused.status)(scope, receive, send)
            return
        try:
            body = await request.body()
        except ClientDisconnect:
            self.ended.append(scope[ENDED].status if ENDED in scope else 499)
            return
        if scope["path"] == "/slow":
            await asyncio.sleep(0.5)
        if scope["path"] == "/block":
            time.sleep(0.5)
        headers = [[name.decode(), value.decode()] for name, value in scope["headers"]]
        content: dict[str, Any] = {"bytes": len(body), "headers": headers}
        if scope["path"] == "/large":
            content["rest"] = "x" * 20_000_000
        await JSONResponse(content)(scope, receive, send)

    def connect(self, *, receive_bytes: int | None = None) -> Client:
        """A connection; receive_bytes: size of its receive buffer."""
        client = Client()
        if receive_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        client.settimeout(5)
        client.connect(("127.0.0.1", self.port))
        return client

    def closed(self, reason: str) -> float:
        """How many connections were closed for a reason."""
        return self.metrics.connections_closed.labels(reason)._value.get()


class Client(socket.socket):
    """A socket that reads answers."""

    def until_closed(self) -> bytes:
        """Everything until the server closes the connection, or b"reset" at its end."""
        received = b""
        try:
            while data := self.recv(65536):
                received += data
        except ConnectionResetError:
            received += b"reset"
        return received

    def answer(self) -> tuple[int, Any]:
        """Status and JSON of one response, and no more of what follows it."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = self.recv(1)
            assert byte, head
            head += byte
        (length,) = (
            int(line.partition(b":")[2])
            for line in head.split(b"\r\n")
            if line.startswith(b"content-length")
        )
        body = b""
        while len(body) < length:
            body += self.recv(length - len(body))
        return int(head.split()[1]), json.loads(body)


@contextmanager
def listening(*, most: int = 100, **config: Any) -> Iterator[StandIn]:
    """Run a stand-in for the duration of a `with` block; it sweeps twenty times a second.

    most: connections. config: keys of ServeConfig.
    """
    settings, metrics = ServeConfig(**config), HttpMetrics()
    connections = registry.Connections(settings, metrics, most)
    standin = StandIn(connections, metrics)
    server = uvicorn.Server(
        uvicorn.Config(
            standin.app,
            port=0,
            http=connection_class(connections),
            ws="none",
            interface="asgi3",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=0,
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "SWEEP_S", 0.05)
        patch.setattr(registry, "LOG_S", 0.0)
        patch.setattr(timed, "LINGER_S", 0.1)
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.005)
        standin.port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield standin
        finally:
            server.should_exit = True
            thread.join()
