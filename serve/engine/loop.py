"""The loop of a model process: token ids from its socket, batches, logits back.

It stands in for LitServe's stock loop (see `serve.processes.model`). One thread reads frames into
the pool of `serve.engine.batcher` and reports that it is alive; one thread per concurrent pass
takes batches out of it. Requests arrive validated and tokenized; if a pass fails nevertheless, its
texts are run one at a time, so only the request at fault fails.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from serve.engine.batcher import Selection
from serve.engine.callers import Caller, Request
from serve.engine.gc_tuning import trim_heap
from serve.engine.lanes import BUSY_S, Lanes
from serve.engine.metrics import WorkerMetrics
from serve.engine.transport import (
    BEAT_S,
    Beat,
    Status,
    WorkReply,
    pack_beat,
    pack_reply,
    unpack_request,
)
from serve.inference.placement import DeviceFailed
from serve.inference.predictor import Predictor, Throughput
from serve.inference.scores import Array

logger = logging.getLogger(__name__)

SEND_TIMEOUT_S = 10.0
"""Seconds after which an HTTP process that accepts no reply counts as dead."""


RELEASE_S = 5.0
"""Seconds without a pass after which the memory of passes is released."""


class Worker:
    """The pool of pending texts, its reader and its forward threads."""

    def __init__(
        self, predictor: Predictor, throughput: Throughput, *, metrics: WorkerMetrics
    ) -> None:
        self.predictor = predictor
        self.metrics = metrics
        self.batcher: Lanes[Request] = Lanes(
            concurrency=predictor.backend.concurrency,
            max_tokens=throughput.max_batch_tokens,
            overhead_tokens=throughput.overhead_tokens,
            tokens_per_s=throughput.tokens_per_s,
        )
        logger.info("measured throughput: %s", throughput)
        self.running: dict[int, float] = {}  # start of each thread's forward pass
        self.work = threading.Condition()
        self.idle = 0
        self.worked_s = 0.0
        """When the last forward pass ended; the warm-up does not count."""

    def serve(self, path: Path, until: int) -> None:
        """Listen on the Unix socket `path` until the file descriptor `until` is readable."""
        path.unlink(missing_ok=True)
        for number in range(self.predictor.backend.concurrency):
            name = f"forward-{number}"
            threading.Thread(target=self._forward_loop, name=name, daemon=True).start()
        with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
            listener.bind(str(path))
            listener.listen()
            selector.register(listener, selectors.EVENT_READ)
            selector.register(until, selectors.EVENT_READ)
            connections: set[Caller] = set()
            beat_s = time.monotonic()
            while True:
                if (wait_s := beat_s - time.monotonic()) <= 0:
                    self._rest()
                    self._send_beats(connections)
                    beat_s, wait_s = time.monotonic() + BEAT_S, BEAT_S
                for key, _ in selector.select(wait_s):
                    if key.fileobj is listener:
                        accepted, _ = listener.accept()
                        accepted.settimeout(SEND_TIMEOUT_S)
                        connection = Caller(accepted)
                        connections.add(connection)
                        self._send_beats([connection])
                        selector.register(accepted, selectors.EVENT_READ, connection)
                    elif key.fileobj == until:
                        for connection in connections:
                            connection.socket.close()
                        return
                    elif not self._receive(key.data):
                        selector.unregister(key.fileobj)
                        key.data.socket.close()
                        connections.remove(key.data)

    def _rest(self) -> None:
        with self.work:
            if self.running or self.batcher.tokens:
                return
            self.batcher.rest(BEAT_S)
        if time.monotonic() - self.worked_s > RELEASE_S:
            try:
                if self.predictor.release():
                    trim_heap()
            except Exception:  # no answer depends on it
                logger.exception("the memory of passes cannot be released")

    def _send_beats(self, connections: Iterable[Caller]) -> None:
        now = time.monotonic()
        beat = Beat(
            running_s=max((now - each for each in list(self.running.values())), default=0.0),
            tokens_per_s=self.batcher.speed,
            max_batch_tokens=self.batcher.max_tokens,
            pending_tokens=self.batcher.tokens,
        )
        for connection in connections:
            connection.send_beat(pack_beat(beat))

    def _receive(self, connection: Caller) -> bool:
        """Read what has arrived on a connection; return False if the connection has ended."""
        try:
            data = connection.socket.recv(1 << 20)
        except OSError:
            data = b""
        with self.work:
            if not data:
                for request in connection.requests.values():
                    self.batcher.drop(request)
                connection.requests.clear()
                return False
            for frame in connection.frames.feed(data):
                work = unpack_request(frame, self.predictor.encoder.columns)
                if not work.encodings:
                    self._cancel(connection, work.id)
                    continue
                request = Request(
                    connection, work, rows=[None] * len(work.encodings), missing=len(work.encodings)
                )
                connection.requests[work.id] = request
                self.batcher.add(
                    request,
                    [len(encoding["input_ids"]) for encoding in work.encodings],
                    now=work.submitted_s,
                    deadline=work.deadline_s,
                )
            self.work.notify_all()
        return True

    def _cancel(self, connection: Caller, id_: int) -> None:
        request = connection.requests.pop(id_, None)
        if request is not None:
            self.batcher.drop(request)
            self.metrics.cancelled.inc()

    def _forward_loop(self) -> None:
        selection: Selection[Request] = Selection(rows=[], expired=[])
        while True:
            with self.work:
                self.batcher.finish(selection)
                self.idle += 1
                while not self.batcher.has_work(now=time.monotonic()):
                    self.work.wait(BUSY_S if self.batcher.tokens else None)
                selection = self.batcher.next(now=time.monotonic(), takers=self.idle)
                self.idle -= 1
            try:
                self._finish(selection.expired, Status.EXPIRED)
                if selection.rows:
                    self._run(selection.rows)
            except DeviceFailed:
                # The parent starts another process, in which the device works again.
                logger.critical("the device failed; ending this model process", exc_info=True)
                os._exit(1)
            except Exception:  # our own bug: the thread must survive, or its capacity is lost
                logger.exception("internal error in a batch of %d texts", len(selection.rows))
                self._finish({request for request, _ in selection.rows}, Status.FAILED)

    def _run(self, rows: list[tuple[Request, int]]) -> None:
        encodings = [request.work.encodings[number] for request, number in rows]
        started_s = time.monotonic()
        logits_NC: list[Array | None]
        try:
            logits_NC = list(self._checked(encodings))
        except DeviceFailed:
            raise
        except Exception:
            logger.exception("forward pass failed for a batch of %d texts", len(rows))
            logits_NC = [self._alone(encoding) for encoding in encodings]
        ended_s = time.monotonic()
        self._measure(rows, encodings, started_s, ended_s)
        done: set[Request] = set()
        failed: set[Request] = set()
        with self.work:
            for (request, number), logits_C in zip(rows, logits_NC, strict=True):
                if request.started_s is None:
                    request.started_s = started_s
                request.compute_s = max(request.compute_s, ended_s - started_s)
                request.rows[number] = logits_C
                request.missing -= 1
                if logits_C is None:
                    failed.add(request)
                elif not request.missing:
                    done.add(request)
        self._finish(failed, Status.FAILED)
        self._finish(done - failed, Status.OK)

    def _checked(self, encodings: list[Any]) -> Array:
        thread = threading.get_ident()
        self.running[thread] = time.monotonic()
        try:
            return self.predictor.forward(encodings)
        finally:
            del self.running[thread]

    def _alone(self, encoding: Any) -> Array | None:
        try:
            logits_C: Array = self._checked([encoding])[0]
            return logits_C
        except DeviceFailed:
            raise
        except Exception:
            logger.exception("forward pass failed for one text")
            self.metrics.failed.inc()
            return None

    def _finish(self, requests: Iterable[Request], status: Status) -> None:
        """Reply to requests, at most once each, even if more of their texts complete later."""
        now = time.monotonic()
        frames: dict[Caller, list[bytes]] = {}
        for request in requests:
            with self.work:
                self.batcher.drop(request)
                if request.caller.requests.pop(request.work.id, None) is None:
                    continue  # already replied to, cancelled, or disconnected
            started_s = now if request.started_s is None else request.started_s
            rows = [row for row in request.rows if row is not None] if status is Status.OK else []
            reply = WorkReply(
                id=request.work.id,
                status=status,
                queue_s=started_s - request.work.submitted_s,
                compute_s=request.compute_s,
                logits_NC=np.stack(rows) if rows else np.zeros((0, 0), dtype=np.float32),
            )
            frames.setdefault(request.caller, []).append(pack_reply(reply))
        for connection, replies in frames.items():
            connection.send(b"".join(replies))

    def _measure(
        self,
        rows: list[tuple[Request, int]],
        encodings: list[Any],
        started_s: float,
        ended_s: float,
    ) -> None:
        lengths = [len(encoding["input_ids"]) for encoding in encodings]
        with self.work:
            self.worked_s = ended_s
            self.batcher.measure(sum(lengths), max(ended_s - started_s, 1e-6))
        self.metrics.record_batch(
            lengths,
            seconds=ended_s - started_s,
            waits_s=[started_s - request.work.submitted_s for request, _ in rows],
        )
