"""The forward pass in ONNX Runtime on the CPU, from the bundle's int8 export."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import LifoQueue
from typing import Any

import numpy as np

from serve.bundle.contents import ONNX_FILE
from serve.bundle.onnx_graph import read_graph
from serve.inference.cores import usable_cores
from serve.inference.passes import BATCH_TOKENS, in_order
from serve.inference.scores import Array
from serve.inference.text import Batch
from serve.privacy import silent_onnxruntime

SHARED_BYTES = 1_000_000
"""Size from which the sessions share a weight."""


class OnnxBackend:
    """An int8 sequence classifier on the CPU: one session per usable core.

    Concurrent passes on one core each give more texts/s than one pass on all cores, because
    no thread waits for another inside a pass. Each has its own session, with its own working
    memory: passes that share a session hand each other memory that is in the other core's cache,
    which costs 7 % (two cores, 8 to 32 short texts a pass). The large fp32 weights, which are the
    embeddings, are only read: all sessions share one copy.
    """

    name = "onnx"
    precision = "int8"
    device_kind = "cpu"
    bulk_tokens = BATCH_TOKENS["onnx", "cpu"][-1]
    padded_because = "no kernel without padding on the cpu"
    tolerance = 1e-4
    """Maximum difference between a text's scores in two batches; each row has its own scale."""

    def __init__(self, file: Path) -> None:
        """Load a model from a file that `read_graph` accepts."""
        onnxruntime = silent_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        # ONNX Runtime would keep one memory pattern per batch shape and never free it.
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        # The sessions use these arrays without owning them.
        self._shared = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(values)
            for name, values in _large_weights(file)
        }
        for name, value in self._shared.items():
            options.add_initializer(name, value)
        self.concurrency = usable_cores()
        self._idle: LifoQueue[Any] = LifoQueue()
        for _ in range(self.concurrency):
            session = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
            self._idle.put(session)
        self.inputs = [each.name for each in session.get_inputs()]
        self._used: set[Any] = set()
        """Sessions that have run since their working memory was released."""
        self._releasing = onnxruntime.RunOptions()
        self._releasing.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    @classmethod
    def load(cls, bundle: Path) -> OnnxBackend:
        """Load the export of a bundle."""
        return cls(bundle / ONNX_FILE)

    def forward(self, batch_NL: Batch) -> Array:
        """Return logits of shape (N, C) in fp32 for padded ids and their mask, each (N, L).

        Thread-safe; at most `concurrency` calls run at the same time, the others wait.
        """
        session = self._idle.get()
        self._used.add(session)
        try:
            logits_NC: Array = session.run(None, self._feeds(batch_NL))[0]
        finally:
            self._idle.put(session)
        return logits_NC

    def prepare(self, longest_NL: Batch) -> None:
        """Do nothing: the sessions are ready."""

    def run_all(self, run: Callable[[int], Array], tokens: Sequence[int]) -> Iterator[Array]:
        """Yield the results of `run` for the numbers of all batches, in order."""
        return in_order(run, len(tokens), self.concurrency)

    def release(self, batch_NL: Batch) -> bool:
        """Release the working memory of one session, which keeps that of its largest batch.

        Done by a pass over `batch_NL`, a small one. Returns False if no session has any.
        """
        try:
            session = self._used.pop()
        except KeyError:
            return False
        session.run(None, self._feeds(batch_NL), self._releasing)
        return True

    def _feeds(self, batch_NL: Batch) -> Batch:
        return {
            name: batch_NL[name] if name in batch_NL else np.zeros_like(batch_NL["input_ids"])
            for name in self.inputs
        }


def _large_weights(file: Path) -> Iterator[tuple[str, Array]]:
    """Read the fp32 weights of at least SHARED_BYTES from an ONNX file.

    Read, not mapped: a file that is overwritten must not change the model of a running server.
    """
    graph = read_graph(file)
    with file.open("rb") as opened:
        for name, (start, end) in graph.floats.items():
            shape = graph.shapes[name]
            if end - start >= SHARED_BYTES and end - start == 4 * math.prod(shape):
                opened.seek(start)
                yield name, np.fromfile(opened, np.float32, math.prod(shape)).reshape(shape)
