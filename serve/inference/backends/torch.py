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
    streams = 1

    def __init__(self, model: Any, *, device: str) -> None:
        """Take a loaded model to `device` (cpu, cuda, cuda:0, ...)."""
        self.device = torch.device(device)
        self.device_kind = self.device.type
        self.model: Any = model.to(self.device).eval()
        half = next(model.parameters()).dtype == torch.bfloat16
        self.precision = "bf16" if half else "fp32"
        self.tolerance = 2e-2 if half else 1e-4
        """A text's scores in any two batches differ by no more."""
        self.packed = self._pack() if half and self.device_kind == "cuda" else None

    def _pack(self) -> PackedModel | None:
        """The model without padding, if its logits are those of the padded pass."""
        try:
            with torch.inference_mode():
                packed = PackedModel(self.model)
                packed.check_equivalence(tolerance=self.tolerance)
        except Exception as error:  # what a kernel or an architecture can raise here is open
            logger.warning("batches are padded, this model cannot go without: %s", error)
            return None
        return packed

    @classmethod
    def load(cls, path: Path, *, device: str, precision: str = "fp32") -> TorchBackend:
        """Load a model directory by the stock class, mean-pooled or not, in `fp32` or `bf16`.

        Raises ValueError if the weights on the disk are not all of the model's weights.
        """
        transformers_logging.disable_progress_bar()  # there is no download to watch
        # transformers loads in the checkpoint's own dtype unless it is told otherwise.
        model, info = load_classifier(
            path, dtype=torch.bfloat16 if precision == "bf16" else torch.float32
        )
        if missing := info["missing_keys"]:
            raise ValueError(f"`{path}` lacks the weights {sorted(missing)}; merge the run again")
        return cls(model, device=device)

    @torch.inference_mode()
    def forward(self, batch_NL: Batch) -> Array:
        """Logits of shape (N, C) in fp32 for padded ids and their mask, each (N, L)."""
        if self.packed:
            output = self.packed(batch_NL)
        else:
            with matmul_precision("highest"):
                output = self.model(**to_tensors(batch_NL, self.device)).logits
        logits_NC: Array = output.float().cpu().numpy()
        return logits_NC
