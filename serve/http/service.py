"""From texts to scores within one HTTP process; every protocol calls `Service.classify`.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from serve.engine.admission import Unavailable
from serve.engine.metrics import HttpMetrics
from serve.engine.transport import WorkReply
from serve.http.arms.arm import Arm
from serve.http.arms.roles import Arms, Role
from serve.http.context import context_of
from serve.http.large import WAITING_BODIES, Computation, Tokenizing, characters_of, within
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
    first_N: NDArray[np.int64] | None = None
    """The label of each text that comes first, by the threshold of a binary model; None: the one
    of the highest score does."""


class Service:
    """The arms that new requests take; configuration and metrics of the server."""

    def __init__(self, arms: Arms, config: ServeConfig, metrics: HttpMetrics) -> None:
        self.arms = arms
        self.config = config
        self.metrics = metrics
        self.tokenizing = Tokenizing(max_characters=WAITING_BODIES * config.max_body_bytes)

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
        arm = context.role.arm
        arm.pool.admit(0)  # a full queue is reported before any work
        characters = characters_of(texts)
        started_s = time.perf_counter()
        options: dict[str, Any] = {
            "truncation": truncation,
            "side": side,
            "max_characters": self.config.max_text_characters,
        }
        timeout_s, gone = self.config.timeout_s, partial(_gone, request)
        if characters > THREAD_CHARACTERS:
            encoding = self.tokenizing.encode(arm.encoder, texts, characters, **options)
            encodings = await within(encoding, timeout_s=timeout_s, gone=gone)
        else:
            encodings = arm.encoder.encode(texts, **options)
        tokenize_s = time.perf_counter() - started_s
        self.metrics.tokenize_seconds.observe(tokenize_s)
        tokens = count_tokens(encodings)
        timeout_s -= tokenize_s
        if tokens > arm.pool.admission.slice_tokens and len(texts) > 1:
            reply = await self._compute_large(arm, encodings, tokens, timeout_s, gone)
        else:
            reply = await arm.pool.submit(encodings, tokens, timeout_s=timeout_s, gone=gone)
        context.texts, context.tokens = len(texts), tokens
        context.queue_s, context.compute_s = reply.queue_s, reply.compute_s
        decision = first_N = None
        if decide or arm.rules.threshold is not None:
            decision = arm.rules.decide(activate(reply.logits_NC, arm.activation))
            if arm.rules.threshold is not None:
                first_N = decision.predicted_NC.argmax(axis=1)
        best_N = reply.logits_NC.argmax(axis=1) if first_N is None else first_N
        _count_texts(context.role, best_N)
        return Answer(
            scores_NC=activate(reply.logits_NC, activation or arm.activation),
            characters=characters,
            tokens=tokens,
            tokenize_s=tokenize_s,
            queue_s=reply.queue_s,
            compute_s=reply.compute_s,
            decision=decision if decide else None,
            first_N=first_N,
        )

    async def _compute_large(
        self,
        arm: Arm,
        encodings: list[Encoding],
        tokens: int,
        timeout_s: float,
        gone: Callable[[], Awaitable[None]],
    ) -> WorkReply:
        computation = Computation(arm.pool, encodings)
        deadline_s = time.monotonic() + timeout_s
        work = computation.run(tokens, deadline_s=deadline_s + 1)  # `within` is first
        try:
            return await within(work, timeout_s=timeout_s, gone=gone)
        except Unavailable as error:
            if error.status != 504:
                raise
            raise Unavailable(
                504,
                "timeout",
                f"no response within timeout_s = {self.config.timeout_s:g} s: after "
                f"{time.monotonic() - deadline_s + timeout_s:.0f} s {computation.answered} of "
                f"{len(encodings)} texts were classified; send fewer texts per request",
            ) from None


def _count_texts(role: Role, best_N: NDArray[np.int64]) -> None:
    role.texts.inc(len(best_N))
    for best, count in Counter(best_N.tolist()).items():
        role.label_counts[best].inc(count)


async def _gone(request: Request) -> None:
    """Return when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
