"""Training without padding on CUDA: `serve.inference.backends.packed` under the Trainer.

The collator concatenates the texts of a batch, and the model limits attention to each text. The
attention kernel has no dropout, so a base with attention dropout is trained on padded batches;
`model.dropout: 0` removes it.

Shape suffixes: N texts, L tokens of one text, T tokens of all texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch

from serve.inference.backends.packed import CU_SEQLENS, PackedModel
from serve.inference.equivalence import move
from serve.inference.text import Batch, Encoding, TextEncoder

MAX_SEQLEN = "max_seqlen"
"""Key of the number of tokens of the longest text in a flat batch."""

TOLERANCE = 2e-2
"""Largest difference of bf16 logits from the padded pass, relative to the largest logit."""


def packing_is_faster(device: torch.device, *, bf16: bool) -> bool:
    """Return whether a kernel exists that is faster than padding; CPUs have none."""
    return device.type == "cuda" and bf16


class PackedTraining:
    """Hooks that make a stock sequence classifier take flat batches as well as padded ones."""

    def __init__(self, model: Any) -> None:
        """Hook into the model, in place.

        Raises ValueError for an architecture that cannot be packed, and for attention dropout.
        """
        self.packed = PackedModel(model)
        if any(_has_attention_dropout(module) for module in model.modules()):
            raise ValueError("its attention has dropout; set model.dropout: 0")
        self._open = ExitStack()
        model.register_forward_pre_hook(self._enter, with_kwargs=True)
        model.register_forward_hook(self._leave, always_call=True)

    def flat(self, batch_NL: Batch) -> dict[str, Any]:
        """Return a padded batch as flat tensors on the CPU, with `CU_SEQLENS` and `MAX_SEQLEN`."""
        return self.packed.flat(batch_NL, "cpu") | {MAX_SEQLEN: batch_NL["attention_mask"].shape[1]}

    def _enter(self, _: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        cu_seqlens, max_seqlen = kwargs.pop(CU_SEQLENS, None), kwargs.pop(MAX_SEQLEN, 0)
        if cu_seqlens is not None:
            tokens = kwargs["input_ids"].shape[1]
            kwargs["position_ids"] = self.packed.positions(cu_seqlens, tokens)
            self._open.enter_context(self.packed.without_padding(cu_seqlens, max_seqlen))
        return args, kwargs

    def _leave(self, *_: Any) -> None:
        self._open.close()


def without_padding(
    model: Any, encoder: TextEncoder, encodings: Sequence[Encoding], device: torch.device
) -> tuple[PackedTraining | None, str]:
    """Prepare the model for flat batches; returns None and the reason if it cannot take them.

    encodings: texts on which packed and padded logits are compared. Leaves the model on `device`,
    or on the CPU if it does not fit there.
    """
    try:
        packing = PackedTraining(move(model, device))
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            packing.packed.check_equivalence(encoder.pad(encodings), tolerance=TOLERANCE)
    except Exception as error:  # a kernel or an architecture may raise anything here
        return None, str(error)
    return packing, ""


def _has_attention_dropout(module: Any) -> bool:
    """Return whether a module is an attention layer with dropout on its weights."""
    dropout = getattr(module, "dropout", None)
    return isinstance(dropout, torch.nn.Dropout) and hasattr(module, "scaling") and dropout.p > 0
