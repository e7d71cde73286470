"""Check that two ways to run a model give the same logits.

Every shortcut (mean pooling, packing, cached hidden states, a shortened last layer) runs once
next to the plain forward pass on sample texts before it is used.

Shape suffixes: N texts, L tokens, C labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from serve.inference.text import Batch


def to_tensors(batch_NL: Batch, device: torch.device | str) -> dict[str, Tensor]:
    """Copy a batch's arrays to `device`."""
    return {
        name: torch.from_numpy(array).to(device, non_blocking=True)
        for name, array in batch_NL.items()
    }


@contextmanager
def evaluating(model: Any, device: torch.device | str) -> Iterator[None]:
    """Move a model to `device` and switch off training mode and gradients; restore the mode."""
    training = model.training
    model.to(device).eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def check_equivalent(
    first_NC: Tensor,
    second_NC: Tensor,
    tolerance: float,
    *,
    relative: bool = False,
    message: str = "logits differ by {:.1e}",
) -> float:
    """Return the largest difference of two batches of logits.

    relative: as a fraction of the largest absolute logit of the second. message: takes the
    difference. Raises ValueError if the difference exceeds the tolerance or is NaN.
    """
    difference = (first_NC.float() - second_NC.float()).abs().max()
    if relative:
        difference = difference / second_NC.float().abs().max()
    worst = float(difference)
    if not worst <= tolerance:
        raise ValueError(message.format(worst))
    return worst
