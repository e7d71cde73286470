"""Whether half precision pays on this CPU.

bf16 is faster only where the CPU multiplies it (AVX512-BF16 or AMX); elsewhere it is
emulated and slower than fp32. The flag alone does not say so, as virtual machines show flags
that are slow behind them: both are timed on one layer's work before it is switched on.
"""

from __future__ import annotations

import time

import torch
from torch import nn

MIN_GAIN = 1.2
"""bf16 is taken if it is so many times faster: it also costs casts that are not timed here."""


def cpu_multiplies_bf16() -> bool:
    """Whether the CPU has instructions for it, as oneDNN sees them."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def bf16_pays(*, width: int = 384, tokens: int = 512, repeats: int = 5) -> bool:
    """Whether a feed-forward block learns faster in bf16 on this CPU; a few milliseconds."""
    if not cpu_multiplies_bf16():
        return False
    full_s, half_s = (step_seconds(half, width, tokens, repeats) for half in (False, True))
    return full_s >= MIN_GAIN * half_s


def step_seconds(half: bool, width: int, tokens: int, repeats: int) -> float:
    """The shortest time of a forward and backward pass through a block of that width."""
    block = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
    x_TD = torch.randn(tokens, width, requires_grad=True)
    shortest = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            block(x_TD).float().square().mean().backward()
        shortest = min(shortest, time.perf_counter() - started)
    return shortest
