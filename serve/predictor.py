"""From texts to logits and probabilities: the only inference path.

The server, the file classifier, `train merge` and `train evaluate` all come through
`Predictor`, so what was judged is what is served.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from serve.bundle import Bundle, open_bundle
from serve.scores import Array, activate, default_activation
from serve.text import Batch, Encoding, Text, TextEncoder


class Backend(Protocol):
    """Something that runs the model."""

    name: str

    def forward(self, batch_NL: Batch) -> Array:
        """Logits of shape (N, C) for padded ids and their mask, each (N, L)."""
        ...


class Predictor:
    """A model, its tokenizer and its labels, on one device."""

    def __init__(self, bundle: Bundle, encoder: TextEncoder, backend: Backend, *, batch_size: int):
        self.bundle = bundle
        self.encoder = encoder
        self.backend = backend
        self.batch_size = batch_size

    @classmethod
    def load(
        cls, path: str | Path, *, device: str = "auto", batch_size: int = 32, verify: bool = True
    ) -> Predictor:
        """Open, verify and load a bundle.

        device: auto, cpu, cuda or cuda:N. batch_size: texts in one forward pass.
        Raises BundleError for a bundle that is not whole and unaltered.
        """
        from serve.backends.torch import TorchBackend

        bundle = open_bundle(path, verify=verify)
        backend = TorchBackend.load(bundle.path, device=pick_device(device))
        return cls(bundle, load_encoder(bundle), backend, batch_size=batch_size)

    def predict(self, texts: Sequence[Text]) -> Array:
        """Probabilities of shape (N, C), rows in the order of the texts.

        Rows of a single-label model sum to 1; those of a multi-label model need not.
        Raises TextError for a text that cannot be classified.
        """
        logits_NC = self.logits(self.encoder.encode(texts))
        return activate(logits_NC, default_activation(self.bundle.manifest.task))

    def logits(self, encodings: Sequence[Encoding]) -> Array:
        """Logits of shape (N, C), rows in the order of the encodings.

        Runs in batches of texts of like length, since every text of a batch costs as much
        as its longest.
        """
        return batched_logits(self.backend, self.encoder, encodings, batch_size=self.batch_size)


def batched_logits(
    backend: Backend, encoder: TextEncoder, encodings: Sequence[Encoding], *, batch_size: int
) -> Array:
    """Logits of shape (N, C) in the order given, computed in length-sorted batches."""
    order = sorted(range(len(encodings)), key=lambda n: len(encodings[n]["input_ids"]))
    parts = []
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        parts.append(backend.forward(encoder.pad([encodings[row] for row in rows])))
    if not parts:
        return np.zeros((0, 0), dtype=np.float32)
    logits_NC = np.empty((len(order), parts[0].shape[1]), dtype=np.float32)
    logits_NC[order] = np.concatenate(parts)
    return logits_NC


def load_encoder(bundle: Bundle) -> TextEncoder:
    """The bundle's text preparation alone, without its weights."""
    manifest = bundle.manifest
    return TextEncoder.from_directory(
        bundle.path, max_length=manifest.max_length, is_pair=manifest.is_pair
    )


def pick_device(device: str) -> str:
    """Resolve auto to cuda where there is a CUDA GPU, else to cpu."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device `{device}` asked for, but PyTorch sees no CUDA GPU; use cpu")
    return device
