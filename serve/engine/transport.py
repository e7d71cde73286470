"""Frames between HTTP processes and model processes, over Unix sockets.

They replace LitServe's queues, which live in a manager process: one request costs at least
four round trips to it, some of them on the event loop. `fast_queue=True`, which is meant to
help, has no effect (litserve 0.2.19 passes `TransportConfig(transport_config=...)` where the
field is `transport_type`; Lightning-AI/LitServe#751, #752). A test pins the version and fails
when the bug is fixed.

A model process listens on its own socket once its model has run a test inference. A
connection to it therefore means that it is ready, and the end of the connection that it is not.

Requests carry token ids as int32, replies logits as float32. Times are seconds of
CLOCK_MONOTONIC, which all processes of a machine share.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate, pairwise

import numpy as np

from serve.inference.scores import Array
from serve.inference.text import Encoding

_LENGTH = struct.Struct("<I")
_REQUEST = struct.Struct("<BIddIB")
_REPLY = struct.Struct("<BIddII")
_BEAT = struct.Struct("<BddII")

BEAT_S = 0.5
"""Seconds between two reports of a model process."""


_BEAT_KIND = 255
"""First byte of a report; that of a reply is its status."""


class Status(IntEnum):
    """The outcome of a request."""

    OK = 0
    FAILED = 1
    EXPIRED = 2


@dataclass(frozen=True, kw_only=True)
class WorkRequest:
    """Texts to classify; without texts it cancels the request of that id."""

    id: int
    submitted_s: float
    deadline_s: float
    encodings: list[Encoding]


@dataclass(frozen=True, kw_only=True)
class WorkReply:
    """Logits of shape (N, C); empty unless the status is OK."""

    id: int
    status: Status
    queue_s: float
    """Time from submission to the start of the first forward pass."""
    compute_s: float
    """Duration of the longest forward pass that contained a text of the request."""
    logits_NC: Array


def pack_request(request: WorkRequest, columns: Sequence[str]) -> bytes:
    """Serialize a request into one frame.

    columns: the names in each encoding, known to both sides.
    """
    encodings = request.encodings
    lengths = [len(encoding["input_ids"]) for encoding in encodings]
    ids = [token for name in columns for encoding in encodings for token in encoding[name]]
    return _frame(
        _REQUEST.pack(
            1, request.id, request.submitted_s, request.deadline_s, len(lengths), len(columns)
        )
        + np.array(lengths + ids, dtype="<i4").tobytes()
    )


def unpack_request(frame: bytes, columns: Sequence[str]) -> WorkRequest:
    """Parse a frame of `pack_request`; the encodings hold int32 arrays."""
    _, id_, submitted_s, deadline_s, num_texts, num_columns = _REQUEST.unpack_from(frame)
    assert num_columns == len(columns)
    numbers = np.frombuffer(frame, dtype="<i4", offset=_REQUEST.size)
    lengths = numbers[:num_texts].tolist()
    total = sum(lengths)
    encodings: list[Encoding] = [
        {
            name: numbers[num_texts + column * total + start : num_texts + column * total + end]
            for column, name in enumerate(columns)
        }
        for start, end in pairwise(accumulate(lengths, initial=0))
    ]
    return WorkRequest(id=id_, submitted_s=submitted_s, deadline_s=deadline_s, encodings=encodings)


def pack_reply(reply: WorkReply) -> bytes:
    """Serialize a reply into one frame."""
    num_texts, num_labels = reply.logits_NC.shape
    return _frame(
        _REPLY.pack(reply.status, reply.id, reply.queue_s, reply.compute_s, num_texts, num_labels)
        + reply.logits_NC.astype("<f4", copy=False).tobytes()
    )


def unpack_reply(frame: bytes) -> WorkReply:
    """Parse a frame of `pack_reply`."""
    status, id_, queue_s, compute_s, num_texts, num_labels = _REPLY.unpack_from(frame)
    logits = np.frombuffer(frame, dtype="<f4", offset=_REPLY.size)
    return WorkReply(
        id=id_,
        status=Status(status),
        queue_s=queue_s,
        compute_s=compute_s,
        logits_NC=logits.reshape(num_texts, num_labels),
    )


@dataclass(frozen=True, kw_only=True)
class Beat:
    """What a model process reports of itself, unasked, on every connection."""

    running_s: float
    """Seconds that the oldest forward pass has been running; 0 if none is."""
    tokens_per_s: float
    """Speed at full batches, as last measured."""
    max_batch_tokens: int
    pending_tokens: int
    """Tokens of the texts that wait for a forward pass."""


def pack_beat(beat: Beat) -> bytes:
    """Serialize a report into one frame."""
    return _frame(
        _BEAT.pack(
            _BEAT_KIND,
            beat.running_s,
            beat.tokens_per_s,
            beat.max_batch_tokens,
            min(beat.pending_tokens, 2**32 - 1),
        )
    )


def unpack(frame: bytes) -> WorkReply | Beat:
    """Parse a frame that a model process sent."""
    if frame[0] != _BEAT_KIND:
        return unpack_reply(frame)
    _, running_s, tokens_per_s, max_batch_tokens, pending_tokens = _BEAT.unpack(frame)
    return Beat(
        running_s=running_s,
        tokens_per_s=tokens_per_s,
        max_batch_tokens=max_batch_tokens,
        pending_tokens=pending_tokens,
    )


class Frames:
    """Splits a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield every complete frame; buffer the remaining bytes."""
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            yield bytes(self._buffer[start + _LENGTH.size : end])
            start = end
        del self._buffer[:start]


def _frame(payload: bytes) -> bytes:
    return _LENGTH.pack(len(payload)) + payload
