"""Attention masks without waiting for the GPU.

transformers 5.23 asks the device in every pass whether the batch has any padding, to leave the
mask out if it has none. The host waits for the answer, so that it launches nothing meanwhile:
in training once per step. Here a mask on a GPU is always built.
"""

from __future__ import annotations

from typing import Any

from transformers import AttentionMaskInterface
from transformers.masking_utils import sdpa_mask


def build_masks_without_waiting() -> None:
    """Replace the mask function of SDPA attention in this process; that of the CPU is unchanged."""
    AttentionMaskInterface.register("sdpa", _sdpa_mask)


def _sdpa_mask(*arguments: Any, **named: Any) -> Any:
    mask = named.get("attention_mask")
    if mask is not None and mask.is_cuda:
        named["allow_is_bidirectional_skip"] = False
    return sdpa_mask(*arguments, **named)
