"""Compressed request bodies, decompressed as they come and no further than a limit."""

from __future__ import annotations

import zlib

from serve.http.schemas import RequestError

WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""Encodings that are read, and what zlib calls their formats."""


class Unpacker:
    """Decompresses one body.

    A small body can stand for gigabytes, so what comes out is bounded, not what goes in.
    """

    def __init__(self, encoding: str, *, limit: int) -> None:
        """limit: maximum number of bytes that may come out."""
        self.encoding = encoding
        self.limit = limit
        self._stream = zlib.decompressobj(WINDOW_BITS[encoding])
        self._left = limit

    def feed(self, chunk: bytes) -> bytes:
        """Decompress the next part; RequestError 413 over the limit, 400 if it is damaged."""
        if self._stream.eof and chunk:
            raise self._damaged("data follow its end")
        try:
            # A byte over the limit tells a body that ends there from a longer one.
            content = self._stream.decompress(chunk, self._left + 1)
        except zlib.error as error:
            raise self._damaged(str(error)) from None
        self._left -= len(content)
        if self._left < 0:
            raise RequestError(
                413,
                f"the decompressed body is over the limit of {self.limit} bytes; send less text",
            )
        if self._stream.unused_data:
            raise self._damaged("data follow its end")
        return content

    def close(self) -> None:
        """Raise RequestError 400 if the data have ended too early."""
        if not self._stream.eof:
            raise self._damaged("it is incomplete")

    def _damaged(self, problem: str) -> RequestError:
        return RequestError(400, f"the body is not valid {self.encoding}: {problem}")
