"""The forward pass in PyTorch: bf16 and without padding on CUDA, fp32 on the CPU."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from serve.inference.backends.packed import PackedModel
from serve.inference.equivalence import to_tensors
from serve.inference.pooling import load_classifier
from serve.inference.precision import matmul_precision
from serve.inference.scores import Array
from serve.inference.text import Batch

logger = logging.getLogger(__name__)


class TorchBackend:
    """A sequence classifier on one device."""

    name = "torch"
    concurrency = 1

    def __init__(self, model: Any, *, device: str) -> None:
        """Move a loaded model to `device` (cpu, cuda, cuda:0, ...)."""
        self.device = torch.device(device)
        self.device_kind = self.device.type
        self.model: Any = model.to(self.device).eval()
        half = next(model.parameters()).dtype == torch.bfloat16
        self.precision = "bf16" if half else "fp32"
        self.tolerance = 2e-2 if half else 1e-4
        """Maximum difference between a text's scores in two batches."""
        self.packed = self._pack() if half and self.device_kind == "cuda" else None

    def _pack(self) -> PackedModel | None:
        """Return the padding-free model if its logits equal those of the padded pass, else None."""
        try:
            with torch.inference_mode():
                packed = PackedModel(self.model)
                packed.check_equivalence(tolerance=self.tolerance)
        except Exception as error:  # kernels and architectures may raise any exception
            logger.warning(
                "padding-free inference is not available for this model, using padded batches: %s",
                error,
            )
            return None
        return packed

    @classmethod
    def load(cls, path: Path, *, device: str, precision: str = "fp32") -> TorchBackend:
        """Load a model directory in `fp32` or `bf16`, with or without mean pooling.

        Raises ValueError if the files lack weights of the model.
        """
        transformers_logging.disable_progress_bar()  # nothing is downloaded
        # Without dtype, transformers uses the checkpoint's.
        model, info = load_classifier(
            path, dtype=torch.bfloat16 if precision == "bf16" else torch.float32
        )
        if missing := info["missing_keys"]:
            raise ValueError(f"`{path}` lacks the weights {sorted(missing)}; merge the run again")
        return cls(model, device=device)

    @torch.inference_mode()
    def forward(self, batch_NL: Batch) -> Array:
        """Return logits of shape (N, C) in fp32 for padded ids and their mask, each (N, L)."""
        if self.packed:
            output = self.packed(batch_NL)
        else:
            with matmul_precision("highest"):
                output = self.model(**to_tensors(batch_NL, self.device)).logits
        logits_NC: Array = output.float().cpu().numpy()
        return logits_NC
