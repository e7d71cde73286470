"""PyTorch's variable-length attention kernel, computed text by text, with the kernel's checks.

Shape suffixes: T tokens of all texts, H heads, D head size.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch

from fake_cuda.tensor import CudaTensor

NO_WINDOW = (None, (-1, -1), [-1, -1])


def forward(
    q: Any,
    k: Any,
    v: Any,
    cu_q: Any,
    cu_k: Any,
    max_q: int,
    max_k: int,
    is_causal: bool = False,
    scale: float | None = None,
    window: Any = None,
    *rest: Any,
    **named: Any,
) -> tuple[CudaTensor, CudaTensor, CudaTensor]:
    """Return the attended values, the log-sum-exp of each row, and the state of the dropout."""
    assert not is_causal, "not pretended: causal attention"
    assert named.get("window_size", window) in NO_WINDOW, "not pretended: a window"
    ends = check(q, k, v, cu_q, cu_k, max_q)
    out_THD = torch.empty_like(q.host, memory_format=torch.contiguous_format)
    sums_HT = torch.empty(q.shape[1], q.shape[0])
    for start, end in pairwise(ends):
        scores = _scores(q.host[start:end], k.host[start:end], scale)
        sums_HT[:, start:end] = scores.logsumexp(-1)
        values = v.host[start:end].float()
        out_THD[start:end] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values).to(q.dtype)
    state = torch.zeros(2, dtype=torch.uint64)
    return CudaTensor(out_THD), CudaTensor(sums_HT), CudaTensor(state)


def backward(
    grad: Any,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    sums: Any,
    cu_q: Any,
    cu_k: Any,
    max_q: int,
    max_k: int,
    is_causal: bool,
    state: Any,
    scale: float | None = None,
    window: Any = None,
) -> tuple[CudaTensor, CudaTensor, CudaTensor]:
    """Return the gradients of queries, keys and values."""
    assert window in NO_WINDOW, "not pretended: a window"
    ends = check(q, k, v, cu_q, cu_k, max_q)
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    dq, dk, dv = (
        torch.empty_like(x.host, memory_format=torch.contiguous_format) for x in (q, k, v)
    )
    for start, end in pairwise(ends):
        q_, k_, v_, g_ = (x.host[start:end].float() for x in (q, k, v, grad))
        p = _scores(q_, k_, scale).softmax(-1)
        dp = torch.einsum("qhd,khd->hqk", g_, v_)
        ds = p * (dp - (dp * p).sum(-1, keepdim=True)) * factor
        dq[start:end] = torch.einsum("hqk,khd->qhd", ds, k_).to(dq.dtype)
        dk[start:end] = torch.einsum("hqk,qhd->khd", ds, q_).to(dk.dtype)
        dv[start:end] = torch.einsum("hqk,qhd->khd", p, g_).to(dv.dtype)
    return CudaTensor(dq), CudaTensor(dk), CudaTensor(dv)


def check(q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, longest: int) -> list[int]:
    """Raise RuntimeError for what the kernel refuses; return where texts start and end.

    Lengths that the kernel does not check, and then reads or leaves memory it should not, are
    assertion errors.
    """
    for tensor in (q, k, v):
        if tensor.dtype not in (torch.float16, torch.bfloat16):
            raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
        if tensor.stride(-1) != 1:
            raise RuntimeError("Input tensor must have contiguous last dimension")
    if q.shape[-1] > 256 or q.shape[-1] % 8:
        raise RuntimeError(f"head size {q.shape[-1]}: must be a multiple of 8 up to 256")
    for ends in (cu_q, cu_k):
        if ends.dtype != torch.int32:
            raise RuntimeError("cu_seqlens must have dtype int32")
        if not isinstance(ends, CudaTensor):
            raise RuntimeError("cu_seqlens must be on CUDA")
        if not ends.host.is_contiguous():
            raise RuntimeError("cu_seqlens must be contiguous")
    found: list[int] = cu_q.host.tolist()
    assert (found[0], found[-1]) == (0, q.shape[0]), "cu_seqlens do not cover the tokens"
    assert max(b - a for a, b in pairwise(found)) <= longest, "max_seqlen is too small"
    return found


def _scores(q: torch.Tensor, k: torch.Tensor, scale: float | None) -> torch.Tensor:
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    return torch.einsum("qhd,khd->hqk", q.float(), k.float()) * factor
