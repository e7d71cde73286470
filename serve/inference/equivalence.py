"""Check that two ways to run a model give the same logits.

Every shortcut (mean pooling, packing, cached hidden states, a shortened last layer) runs once
next to the plain forward pass on sample texts before it is used.

Shape suffixes: N texts, L tokens, C labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serve.inference.placement import DoesNotFit
from serve.inference.text import Batch


def to_tensor(array: NDArray[Any], device: torch.device | str) -> Tensor:
    """Return an array on `device`; shares its memory on the CPU.

    A GPU copies from page-locked memory, which the host does not wait for.
    """
    tensor = torch.from_numpy(array)
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_tensors(batch_NL: Batch, device: torch.device | str) -> dict[str, Tensor]:
    """Return a batch's arrays, all of one shape, on `device`; a GPU takes them in one copy."""
    if torch.device(device).type != "cuda":
        return {name: torch.from_numpy(ids_NL).to(device) for name, ids_NL in batch_NL.items()}
    tensors = to_tensor(np.stack(list(batch_NL.values())), device).unbind()
    return dict(zip(batch_NL, tensors, strict=True))


def move(model: Any, device: torch.device | str) -> Any:
    """Move a model to `device` and return it; raises DoesNotFit and leaves it on the CPU."""
    try:
        return model.to(device)
    except torch.OutOfMemoryError:
        pass
    model.to("cpu")  # a part of it has been moved
    torch.cuda.empty_cache()
    gigabytes = sum(p.numel() * p.element_size() for p in model.parameters()) / 1e9
    raise DoesNotFit(
        f"{type(model).__name__} ({gigabytes:.1f} GB) does not fit into the free memory of {device}"
    )


@contextmanager
def evaluating(model: Any, device: torch.device | str) -> Iterator[None]:
    """Move a model to `device` and switch off training mode and gradients; restore the mode.

    Raises DoesNotFit.
    """
    training = model.training
    move(model, device).eval()
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
