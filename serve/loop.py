"""The model process: takes requests off LitServe's queue, batches them, answers each.

LitServe's stock batched loop (0.2.19) runs decode, predict and encode of a whole batch in
one `try`, so that one bad request fails its neighbours, and spins while idle when its batch
timeout is 0. This loop blocks for the first request, takes what else is waiting, runs all
texts in one pass over length-sorted batches, and answers request by request. Requests
arrive here validated and tokenized; should a pass fail all the same, its requests are run
one at a time so that only the guilty one fails.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from dataclasses import dataclass
from queue import Empty
from typing import Any

import litserve
import numpy as np
from litserve.loops.base import LitLoop
from litserve.utils import LitAPIStatus, LoopResponseType

from serve.predictor import Predictor
from serve.scores import Array
from serve.text import Encoding

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Request:
    response_queue_id: int
    uid: str
    submitted_s: float
    encodings: list[Encoding]


class ClassifierAPI(litserve.LitAPI):
    """What a model process loads."""

    predictor: Predictor

    def __init__(self, bundle_path: str, *, max_batch_texts: int) -> None:
        super().__init__(max_batch_size=max_batch_texts, loop=ClassifierLoop())
        self.bundle_path = bundle_path

    def setup(self, device: str) -> None:
        """Load the model in this process and run it once. The parent verified the bundle."""
        # Ctrl-C reaches the whole process group; the parent ends its workers in order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.predictor = Predictor.load(
            self.bundle_path, device=device, batch_size=self.max_batch_size, verify=False
        )
        warm_up = ("warm", "up") if self.predictor.encoder.is_pair else "warm up"
        self.predictor.predict([warm_up])


class ClassifierLoop(LitLoop):
    """Blocking get, greedy drain, one answer per request."""

    def run(
        self,
        lit_api: ClassifierAPI,
        device: str,
        worker_id: int,
        request_queue: Any,
        transport: Any,
        workers_setup_status: Any,
        callback_runner: Any,
    ) -> None:
        """Serve one batch; LitServe calls this for ever."""
        try:
            requests = self._collect(lit_api, request_queue)
            if not requests:
                return
            for request, answer in zip(
                requests, classify(lit_api.predictor, requests), strict=True
            ):
                failed = isinstance(answer, Exception)
                self.put_response(
                    transport,
                    request.response_queue_id,
                    request.uid,
                    None if failed else answer,
                    LitAPIStatus.ERROR if failed else LitAPIStatus.OK,
                    LoopResponseType.REGULAR,
                )
        except (EOFError, ConnectionError):
            sys.exit(0)  # the parent and its queues are gone

    def _collect(self, lit_api: ClassifierAPI, request_queue: Any) -> list[_Request]:
        """The next requests, up to `max_batch_size` texts where the last one may overshoot."""
        requests: list[_Request] = []
        num_texts = 0
        while num_texts < lit_api.max_batch_size:
            try:
                item = request_queue.get_nowait() if requests else request_queue.get(timeout=1.0)
            except Empty:
                break
            request = _Request(*item)
            if time.monotonic() - request.submitted_s > lit_api.request_timeout:
                continue  # its client was told 504 already
            requests.append(request)
            num_texts += len(request.encodings)
        return requests


def classify(predictor: Predictor, requests: list[_Request]) -> list[Array | Exception]:
    """Logits of shape (texts, C) for each request, or the exception that it alone caused."""
    try:
        logits_NC = predictor.logits([e for request in requests for e in request.encodings])
    except Exception as error:
        logger.exception("forward pass failed for a batch of %d requests", len(requests))
        if len(requests) == 1:
            return [error]
        return [answer for request in requests for answer in classify(predictor, [request])]
    ends = np.cumsum([len(request.encodings) for request in requests])[:-1]
    return list(np.split(logits_NC, ends))
