"""Training without padding on CUDA: `serve.inference.backends.packed` under the Trainer.

The collator puts the texts of a batch behind one another, and the model keeps attention
within each text. Of the base's dropouts the kernel knows none, so a base whose attention
drops weights out is padded as ever; `model.dropout: 0` lets it go without.

Shape suffixes: N texts, L tokens of one text, T tokens of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from serve.inference.backends.packed import CU_SEQLENS, PackedModel
from serve.inference.text import Batch, Encoding, TextEncoder

MAX_SEQLEN = "max_seqlen"
"""Name of the number of tokens of the longest text among a batch's entries."""

TOLERANCE = 2e-2
"""Largest difference of bf16 logits, as a share of the largest logit, to the padded pass."""


def packing_is_faster(device: torch.device, *, bf16: bool) -> bool:
    """Whether there is a kernel that is faster than padding; on CPUs there is none."""
    return device.type == "cuda" and bf16


class PackedTraining:
    """A stock sequence classifier that takes flat batches as well as padded ones."""

    def __init__(self, model: Any) -> None:
        """Hook into the model, in place.

        Raises ValueError for an architecture that cannot go without padding, and for one
        whose attention has dropout.
        """
        self.packed = PackedModel(model)
        if any(_attention_dropout(module) for module in model.modules()):
            raise ValueError("its attention has dropout; set model.dropout: 0")
        self._open = ExitStack()
        model.register_forward_pre_hook(self._enter, with_kwargs=True)
        model.register_forward_hook(self._leave, always_call=True)

    def flat(self, batch_NL: Batch) -> dict[str, Any]:
        """A padded batch as flat tensors on the CPU, with its `CU_SEQLENS` and `MAX_SEQLEN`."""
        flat: dict[str, Any] = {
            name: torch.from_numpy(ids) for name, ids in self.packed.flat(batch_NL).items()
        }
        return flat | {MAX_SEQLEN: batch_NL["attention_mask"].shape[1]}

    def _enter(self, _: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        ends: Tensor | None = kwargs.pop(CU_SEQLENS, None)
        longest = kwargs.pop(MAX_SEQLEN, 0)
        if ends is not None:
            self._open.enter_context(self.packed.without_padding(ends, longest))
        return args, kwargs

    def _leave(self, *_: Any) -> None:
        self._open.close()

    @torch.no_grad()
    def check_equivalence(
        self, encoder: TextEncoder, encodings: Sequence[Encoding], device: torch.device
    ) -> float:
        """Largest difference of logits to the padded pass, as a share of the largest logit.

        Raises ValueError if it is over `TOLERANCE`.
        """
        model = self.packed.model
        training = model.training
        model.to(device).eval()
        batch_NL = encoder.pad(encodings)
        padded = {name: torch.from_numpy(ids).to(device) for name, ids in batch_NL.items()}
        flat = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in self.flat(batch_NL).items()
        }
        try:
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                padded_NC, flat_NC = model(**padded).logits.float(), model(**flat).logits.float()
        finally:
            model.train(training)
        worst = float((flat_NC - padded_NC).abs().max() / padded_NC.abs().max())
        if not worst <= TOLERANCE:
            raise ValueError(f"packed and padded logits differ by {worst:.1e} of the largest")
        return worst


def without_padding(
    model: Any, encoder: TextEncoder, encodings: Sequence[Encoding], device: torch.device
) -> tuple[PackedTraining | None, str]:
    """The model made ready for flat batches, or None and why it is not."""
    try:
        packing = PackedTraining(model)
        packing.check_equivalence(encoder, encodings, device)
    except Exception as error:  # what a kernel or an architecture can raise here is open
        return None, str(error)
    return packing, ""


def _attention_dropout(module: Any) -> bool:
    """Whether a module is an attention whose weights drop out."""
    dropout = getattr(module, "dropout", None)
    return isinstance(dropout, torch.nn.Dropout) and hasattr(module, "scaling") and dropout.p > 0
