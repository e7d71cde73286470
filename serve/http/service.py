"""One HTTP process's way from texts to scores. Every protocol comes through `Service.classify`.

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

from serve.bundle.seal import Bundle
from serve.config import ServeConfig
from serve.engine.metrics import HttpMetrics
from serve.engine.workers import WorkerPool
from serve.inference.decision import Decision, Rules
from serve.inference.placement import PRECISION, pick_backend
from serve.inference.predictor import WARM_UP, load_encoder
from serve.inference.scores import Activation, Array, activate, default_activation, json_heads
from serve.inference.text import Text, count_tokens

THREAD_CHARACTERS = 8192
"""A request with more is tokenized in a thread, so that the others need not wait for it."""


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
    """What is predicted, and whether to abstain; only where it was asked for."""


class Service:
    """Tokenizes, admits, submits, and turns logits into scores."""

    def __init__(self, bundle: Bundle, config: ServeConfig, *, device: str) -> None:
        self.bundle = bundle
        self.config = config
        self.manifest = bundle.manifest
        self.version = self.manifest.version
        self.device = device
        self.backend, self.backend_reason = pick_backend(
            bundle, device=device, requested=config.backend
        )
        self.precision = PRECISION[self.backend, device.partition(":")[0]]
        self.encoder = load_encoder(bundle)
        # What a probe asks the model processes.
        self.warm_up = self.encoder.encode([WARM_UP[self.encoder.is_pair]])
        self.json_heads = json_heads(self.manifest.labels)
        self.rules = Rules.of(self.manifest, self.backend)
        self.activation = default_activation(self.manifest.task)
        self.metrics = HttpMetrics(
            self.manifest.labels,
            model=config.model_name,
            version=self.version,
            backend=self.backend,
        )
        self.pool = WorkerPool(
            self.encoder.columns,
            max_queue_tokens=-(-config.max_queue_tokens // config.api_processes),
            metrics=self.metrics,
        )

    async def model_processes(self) -> tuple[int, int]:
        """Model processes that answer a test inference, and how many there should be."""
        return await self.pool.probe(self.warm_up), len(self.pool.paths)

    async def is_ready(self) -> bool:
        """Whether every model process answers."""
        answering, wanted = await self.model_processes()
        return answering == wanted

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
        """Scores of checked texts. The request's body must have been read.

        activation: from logits to scores, None for the task's own. truncation and side: as
        for `TextEncoder.encode`. decide: also what is predicted, by the bundle's rules, whatever
        the activation of the scores.
        Raises TextError for a text that is too long where truncation is False, Unavailable
        429, 503 or 504, RuntimeError if the model failed, and ClientGone if the client left.
        """
        self.pool.admit(0)  # a full queue is said before any work
        characters = sum(
            len(text) if isinstance(text, str) else len(text[0]) + len(text[1]) for text in texts
        )
        started_s = time.perf_counter()
        if characters > THREAD_CHARACTERS:
            encodings = await asyncio.get_running_loop().run_in_executor(
                None, lambda: self.encoder.encode(texts, truncation=truncation, side=side)
            )
        else:
            encodings = self.encoder.encode(texts, truncation=truncation, side=side)
        tokenize_s = time.perf_counter() - started_s
        self.metrics.tokenize_seconds.observe(tokenize_s)
        tokens = count_tokens(encodings)
        reply = await self.pool.submit(
            encodings, tokens, timeout_s=self.config.timeout_s, gone=lambda: _gone(request)
        )
        exchange = request.scope["textloop.exchange"]
        exchange.texts, exchange.tokens = len(texts), tokens
        exchange.queue_s, exchange.compute_s = reply.queue_s, reply.compute_s
        scores_NC = activate(reply.logits_NC, activation or self.activation)
        decision = None
        if decide:
            decision = self.rules.decide(activate(reply.logits_NC, self.activation))
        self.metrics.texts.inc(len(texts))
        for best, count in Counter(np.argmax(reply.logits_NC, axis=1).tolist()).items():
            self.metrics.labels[best].inc(count)
        return Answer(
            scores_NC=scores_NC,
            characters=characters,
            tokens=tokens,
            tokenize_s=tokenize_s,
            queue_s=reply.queue_s,
            compute_s=reply.compute_s,
            decision=decision,
        )


async def _gone(request: Request) -> None:
    """Return when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
