"""From texts to scores within one HTTP process; every protocol calls `Service.classify`.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from starlette.requests import Request

from serve.engine.metrics import HttpMetrics
from serve.http.arm import Arm
from serve.http.context import context_of
from serve.inference.decision import Decision
from serve.inference.scores import Activation, Array, activate
from serve.inference.text import Encoding, Text, count_tokens
from serve.settings import ServeConfig

THREAD_CHARACTERS = 8192
"""A request with more characters is tokenized in a thread, so that others need not wait."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Scores of shape (N, C) and what they cost."""

    scores_NC: Array
    characters: int
    tokens: int
    tokenize_s: float
    queue_s: float
    compute_s: float
    decision: Decision | None = None
    """Predicted labels and abstention; only where requested."""


class Service:
    """The arm that new requests take; configuration and metrics of the server."""

    def __init__(self, arm: Arm, config: ServeConfig, metrics: HttpMetrics) -> None:
        self.arm = arm
        self.config = config
        self.metrics = metrics

    async def classify(
        self,
        request: Request,
        texts: Sequence[Text],
        *,
        activation: Activation | None = None,
        truncation: bool = True,
        side: str | None = None,
        decide: bool = False,
    ) -> Answer:
        """Score checked texts by the request's arm. The request's body must have been read.

        activation: from logits to scores, None for the task's own. truncation and side: as
        for `TextEncoder.encode`. decide: also predict labels by the bundle's rules, whatever
        the activation of the scores.
        Raises TextError for a text that is too long where truncation is False, Unavailable
        429, 503 or 504, RuntimeError if the model failed, and ClientGone if the client left.
        """
        context = context_of(request)
        arm = context.arm
        arm.pool.admit(0)  # a full queue is reported before any work
        characters = sum(
            len(text) if isinstance(text, str) else len(text[0]) + len(text[1]) for text in texts
        )
        started_s = time.perf_counter()

        def encode() -> list[Encoding]:
            return arm.encoder.encode(texts, truncation=truncation, side=side)

        if characters > THREAD_CHARACTERS:
            encodings = await asyncio.get_running_loop().run_in_executor(None, encode)
        else:
            encodings = encode()
        tokenize_s = time.perf_counter() - started_s
        self.metrics.tokenize_seconds.observe(tokenize_s)
        tokens = count_tokens(encodings)
        reply = await arm.pool.submit(
            encodings, tokens, timeout_s=self.config.timeout_s, gone=lambda: _gone(request)
        )
        context.texts, context.tokens = len(texts), tokens
        context.queue_s, context.compute_s = reply.queue_s, reply.compute_s
        self._count_texts(arm, reply.logits_NC)
        return Answer(
            scores_NC=activate(reply.logits_NC, activation or arm.activation),
            characters=characters,
            tokens=tokens,
            tokenize_s=tokenize_s,
            queue_s=reply.queue_s,
            compute_s=reply.compute_s,
            decision=arm.rules.decide(activate(reply.logits_NC, arm.activation))
            if decide
            else None,
        )

    def _count_texts(self, arm: Arm, logits_NC: Array) -> None:
        self.metrics.texts.inc(len(logits_NC))
        for best, count in Counter(np.argmax(logits_NC, axis=1).tolist()).items():
            arm.label_counts[best].inc(count)


async def _gone(request: Request) -> None:
    """Return when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
