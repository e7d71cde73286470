"""What a client sends: uvicorn's use of httptools, with limits that neither of them has.

The size of a head, the number of its headers and what may be repeated in it are limited while
it is read, so that no more than a limit and one read of the socket is ever held. Clients that
offer to upgrade (Java's default client, `curl --http2`) are answered in HTTP/1.1: see
`_without_upgrade`. Tested with uvicorn 0.54 and httptools 0.9.
"""

from __future__ import annotations

from typing import ClassVar

import httptools

from serve.engine.admission import Unavailable
from serve.http.connection.refusal import (
    BODY,
    REFUSED,
    PendingBody,
    Refusal,
    head_too_large,
    malformed,
    note,
)
from serve.http.connection.registry import Connections
from serve.http.connection.timed import TimedConnection
from serve.http.schemas import RequestError
from serve.http.wire import DRAIN

SMALL_BODY = 16_384
"""Bytes of a body that are not counted as pending."""

LINGER_BYTES = 1_000_000
"""A refused client may send this much more, which is dropped, so that it reads the refusal
before its connection is reset."""

SINGLE = {
    name: 1 << index
    for index, name in enumerate(
        b"host authorization content-type content-length origin "
        b"inference-header-content-length".split()
    )
}
"""Headers of which a request may have one: a proxy and this server must not read another."""

HOST = SINGLE[b"host"]

UPGRADE = frozenset({b"upgrade", b"http2-settings"})


class Connection(TimedConnection):
    """A client's connection."""

    max_head_bytes: ClassVar[int]
    max_headers: ClassVar[int]

    messages = 0
    """Requests that have begun."""
    head_bytes = body_bytes = 0
    """Of the present request, so far."""
    single = 0
    """Headers of SINGLE that the head has had."""
    body: PendingBody | None = None

    def data_received(self, data: bytes) -> None:
        """Parse what the client sent; refuse it if it is malformed or over a limit."""
        if self.closing_s is not None:
            self.stray_bytes += len(data)
            if self.stray_bytes > LINGER_BYTES:
                self.transport.abort()
            return
        before = self.messages, self.head_bytes, self.body_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as pause:
            self.data_received(self._without_upgrade() + data[pause.args[0] :])
            return
        except httptools.HttpParserError as error:
            cause = error.__context__
            self.refuse(cause if isinstance(cause, Refusal) else malformed(str(error)))
            return
        if before != (self.messages, self.head_bytes, self.body_bytes):
            self.stray_bytes = 0
            return
        self.stray_bytes += len(data)
        held = self.stray_bytes + (0 if self.in_body else self.head_bytes)
        if held > self.registry.config.max_head_bytes:
            self.refuse(head_too_large(self.registry.config))

    def _without_upgrade(self) -> bytes:
        """The head just parsed, without its offer to upgrade, for a parser that starts anew.

        httptools skips the body of such a request, and what follows it on the connection
        (httptools issue 124, uvicorn issue 2722), although a server may ignore the offer.
        """
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        version = self.scope["http_version"].encode()
        lines = [b"%s %s HTTP/%s" % (self.scope["method"].encode(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                options = [option.strip() for option in value.split(b",")]
                value = b", ".join(each for each in options if each.lower() not in UPGRADE)
            if name not in UPGRADE:
                lines.append(b"%s: %s" % (name, value))
        return b"\r\n".join([*lines, b"", b""])

    # Callbacks of the parser. An exception in one ends `feed_data`.

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.in_head = True
        self.messages += 1
        self.since_s = self.registry.now_s
        self.head_bytes = self.body_bytes = self.single = 0
        self.body = None

    def on_url(self, url: bytes) -> None:
        """Part of the URL has been read."""
        self.url += url
        self.head_bytes += len(url)
        if self.head_bytes > self.registry.config.max_head_bytes:
            raise head_too_large(self.registry.config)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has been read, or a trailer after a chunked body."""
        name = name.lower()
        self.head_bytes += len(name) + len(value) + 4
        if self.head_bytes > self.max_head_bytes:
            raise head_too_large(self.registry.config)
        if len(self.headers) >= self.max_headers:
            raise Refusal(
                431, "headers", f"more headers than max_headers = {self.max_headers}; send fewer"
            )
        if self.in_body:
            return  # a trailer; it must not pass for a header
        if bit := SINGLE.get(name):
            if self.single & bit:
                raise Refusal(400, "malformed", f"more than one `{name.decode()}` header; send one")
            self.single |= bit
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Start the request, or refuse it before its body."""
        if not self.single & HOST and self.parser.get_http_version() == "1.1":
            raise Refusal(400, "malformed", "no `host` header; HTTP/1.1 requires one")
        if self.parser.should_upgrade():
            self.scope["method"] = self.parser.get_method().decode()
            self.scope["http_version"] = self.parser.get_http_version()
            if self.scope["method"] == "CONNECT":
                raise Refusal(400, "malformed", "CONNECT is not supported: this is no proxy")
            return  # parsed once more by `data_received`
        refused = self._refused()
        if refused:
            note(self.scope, REFUSED, refused)
            self.expect_100_continue = False
        super().on_headers_complete()
        if refused:
            self.cycle.keep_alive = False
        self.in_head, self.in_body = False, True
        self.since_s = self.registry.now_s

    def _refused(self) -> Exception | None:
        """The answer to a request that need not send its body."""
        if self.is_surplus:
            most = self.registry.most
            return Unavailable(503, "connections", f"more than {most} connections; retry later", 1)
        if self.expect_100_continue:
            limit = self.registry.config.max_body_bytes
            lengths = [value for name, value in self.headers if name == b"content-length"]
            if lengths and int(lengths[0]) > limit:
                return RequestError(
                    413, f"the body is over the limit of {limit} bytes; send less text"
                )
        return None

    def on_body(self, body: bytes) -> None:
        """Part of the body has been read."""
        self.body_bytes += len(body)
        if self.cycle.response_complete:  # answered without its body, which is dropped
            if self.body_bytes > DRAIN * self.registry.config.max_body_bytes:
                raise Refusal(413, "body_bytes", "sent more after a refusal of its body")
            return
        if self.body_bytes > SMALL_BODY:
            if self.body is None:
                self.body = PendingBody(self.registry)
                note(self.cycle.scope, BODY, self.body)
            if self.body_bytes <= self.registry.config.max_body_bytes:
                self.body.add(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has been read completely."""
        if not self.in_head:  # else it will be parsed once more
            self.in_body = False
            super().on_message_complete()


def connection_class(connections: Connections) -> type[Connection]:
    """The protocol of connections that are counted by `connections`."""
    config = connections.config
    limits = {"max_head_bytes": config.max_head_bytes, "max_headers": config.max_headers}
    return type("Connection", (Connection,), {"registry": connections, **limits})
