"""The forward pass in ONNX Runtime on the CPU, from the bundle's int8 export."""

from __future__ import annotations

from pathlib import Path
from queue import LifoQueue
from typing import Any

import numpy as np

from serve.inference.scores import Array
from serve.inference.text import Batch

FILE = "onnx/model_int8.onnx"
"""Where a bundle holds its int8 export, if that passed its parity gate."""


class OnnxBackend:
    """An int8 sequence classifier on the CPU, one core per forward pass.

    Several passes side by side on one core each give more texts/s than one pass on all
    cores: no thread waits for another inside a pass. Each has a session of its own, with its
    own weights and working memory; passes that share one hand each other memory that lies in
    the other core's cache, which costs 7 % (two cores, 8 to 32 short texts a pass).
    """

    name = "onnx"
    precision = "int8"
    device_kind = "cpu"
    tolerance = 1e-4
    """A text's scores in any two batches differ by no more: every row has its own scale."""

    def __init__(self, model: str | bytes, *, streams: int) -> None:
        """Load a model from a file, or from its bytes."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        # A pattern per shape of batch would be kept for ever.
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        self.streams = streams
        self._idle: LifoQueue[Any] = LifoQueue()
        for _ in range(streams):
            session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
            self._idle.put(session)
        self.inputs = [each.name for each in session.get_inputs()]

    @classmethod
    def load(cls, bundle: Path, *, streams: int) -> OnnxBackend:
        """Load the export of a bundle."""
        return cls(str(bundle / FILE), streams=streams)

    def forward(self, batch_NL: Batch) -> Array:
        """Logits of shape (N, C) in fp32 for padded ids and their mask, each (N, L).

        May be called from any number of threads; `streams` of them run at once.
        """
        feeds = {
            name: batch_NL[name] if name in batch_NL else np.zeros_like(batch_NL["input_ids"])
            for name in self.inputs
        }
        session = self._idle.get()
        try:
            logits_NC: Array = session.run(None, feeds)[0]
        finally:
            self._idle.put(session)
        return logits_NC
