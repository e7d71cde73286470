"""Precision of fp32 matrix products, which is process-wide state in PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

_held: str | None = None
"""The precision of the innermost context that this process is in."""


@contextmanager
def matmul_precision(precision: Literal["highest", "high"]) -> Iterator[None]:
    """Compute fp32 products and convolutions in IEEE fp32 (`highest`) or in TF32 (`high`).

    The state is restored at the end.

    Within another one of the same precision it does nothing, so that several threads may enter.

    PyTorch has two interfaces to this state: `torch.set_float32_matmul_precision`, and
    `fp32_precision`, which `transformers.TrainingArguments(tf32=True)` sets and never resets.
    After the second the getter of the first raises RuntimeError.
    """
    global _held
    if _held == precision:
        yield
        return
    with kept_precision():
        root: Any = torch.backends  # partly typed
        root.fp32_precision = "ieee" if precision == "highest" else "tf32"
        torch.set_float32_matmul_precision(precision)
        outer, _held = _held, precision
        try:
            yield
        finally:
            _held = outer


@contextmanager
def kept_precision() -> Iterator[None]:
    """Restore the state at the end, whatever is constructed within."""
    root: Any = torch.backends  # partly typed
    backends = (root, root.cuda.matmul, root.mkldnn.matmul)
    before = [backend.fp32_precision for backend in backends]
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:
        older = "highest"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(older)
        for backend, own in zip(backends, before, strict=True):
            backend.fp32_precision = own
