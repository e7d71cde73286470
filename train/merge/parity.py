"""Is the merged model the trained one? Logits on real validation texts are compared.

The models compared are the one in memory at the end of training, base plus adapter loaded
from the disk, merged weights in memory, and the merged directory loaded by the stock class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from serve.inference.backends.torch import TorchBackend
from serve.inference.passes import batched_logits
from serve.inference.scores import Array
from serve.inference.text import Encoding, TextEncoder
from train.report.progress import Progress

TOLERANCE = 1e-4
"""Largest allowed absolute difference of logits up to 10, in fp32; see `tolerance_of`."""

PARITY_TEXTS = 512
"""Validation texts on which the models are compared."""


@dataclass(frozen=True, kw_only=True)
class ValidationTexts:
    """The encoded validation split, and the device that models run it on."""

    encoder: TextEncoder
    encodings: list[Encoding]
    device: str

    def logits(self, model: Any) -> Array:
        """Compute a model's logits on all texts, (N, C), in the order of the split."""
        first_NC, rest = self.first_logits(model), self.encodings[PARITY_TEXTS:]
        if not rest:
            return first_NC
        with Progress("validation", len(rest)) as bar:
            backend = TorchBackend(model, device=self.device)
            rest_NC = batched_logits(
                backend, self.encoder, rest, batch_size=32, progress=bar.update
            )
        return np.concatenate([first_NC, rest_NC])

    def first_logits(self, model: Any) -> Array:
        """Compute a model's logits on the texts that are compared, the first `PARITY_TEXTS`.

        By stock PyTorch.
        """
        backend = TorchBackend(model, device=self.device, stock=True)
        encodings = self.encodings[:PARITY_TEXTS]
        with Progress("parity", len(encodings)) as bar:
            return batched_logits(
                backend, self.encoder, encodings, batch_size=32, progress=bar.update
            )


def tolerance_of(logits_NC: Array) -> float:
    """Return the largest allowed difference: of logits beyond 10, 1e-5 of the largest.

    A probe of labels that are told apart without error may have logits of thousands, whose last
    digits in fp32 are 1e-4 themselves.
    """
    return TOLERANCE * max(1.0, float(np.nan_to_num(np.abs(logits_NC)).max()) / 10)


def max_difference(first_NC: Array, second_NC: Array) -> float:
    """Return the largest absolute difference on the texts that are compared."""
    return float(np.abs(first_NC[:PARITY_TEXTS] - second_NC[:PARITY_TEXTS]).max())
