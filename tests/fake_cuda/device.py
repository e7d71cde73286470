"""Every operation of the pretended device: refused, recorded, and computed on the CPU."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from fake_cuda import attention, ledger
from fake_cuda.build import LARGEST
from fake_cuda.tensor import CudaTensor

aten = torch.ops.aten
CPU = torch.device("cpu")

READS = {
    aten._local_scalar_dense.default: "item",
    aten.is_nonzero.default: "bool",
    aten.equal.default: "equal",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten._unique2.default: "unique",
    aten.unique_dim.default: "unique",
    aten.unique_consecutive.default: "unique_consecutive",
    aten.bincount.default: "bincount",
}
"""Operations whose result, or its shape, the host must know before it continues."""

INDEXING = {
    aten.index.Tensor,
    aten._unsafe_index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
"""Operations that take indices from the CPU too; a boolean mask among them is a read."""

PRODUCTS = {aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default}
COPIES = {aten._to_copy.default, aten.copy_.default}


class FakeCuda(TorchDispatchMode):
    """Sees operations without a tensor on the device too: those that create one there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run one operation."""
    if func in COPIES:
        return _copy(func, args, kwargs)
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    on_device = [x for x in tensors if isinstance(x, CudaTensor)]
    device = kwargs.get("device")
    target = None if device is None else torch.device(device).type
    if not on_device and target != "cuda":
        return func(*args, **kwargs)
    if _is_composite(func):
        with FakeCuda():
            return func.decompose(*args, **kwargs)
    if on_device and func is aten.is_pinned.default:
        return False
    if on_device and func is aten._pin_memory.default:
        raise RuntimeError("cannot pin 'torch.cuda.Tensor' only dense CPU tensors can be pinned")
    if device is not None:
        kwargs = {**kwargs, "device": CPU}
    _refuse_mixed(func, args, tensors)
    _record(func, args, kwargs, on_device)
    name = str(func)
    if name.startswith("torch_attn._varlen_attn."):
        return attention.forward(*args, **kwargs)
    if name.startswith("torch_attn._varlen_attn_backward"):
        return attention.backward(*args, **kwargs)
    if func is aten._fused_sdp_choice.default:
        return 0
    host_args, host_kwargs = tree_map(_host, (args, kwargs))
    if func in PRODUCTS and tf32_is_on():
        added = 1 if func in (aten.addmm.default, aten.baddbmm.default) else 0
        factors = tuple(map(_round_to_tf32, host_args[added:]))
        host_args = host_args[:added] + factors
    result = func(*host_args, **host_kwargs)
    if func is aten._local_scalar_dense.default or target == "cpu":
        return result
    wrapped = tree_map(_on_device, result)
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


def tf32_is_on() -> bool:
    """Return whether fp32 products of the process are computed in TF32."""
    return "tf32" in (torch.backends.fp32_precision, torch.backends.cuda.matmul.fp32_precision)


def _is_composite(func: Any) -> bool:
    """Return whether an operation is defined by others, which are then run one by one."""

    def has(key: str) -> bool:
        return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key))

    return has("CompositeImplicitAutograd") and not has("CompositeExplicitAutograd")


def _host(x: Any) -> Any:
    return x.host if isinstance(x, CudaTensor) else x


def _on_device(x: Any) -> Any:
    if not isinstance(x, torch.Tensor) or isinstance(x, CudaTensor):
        return x
    _refuse_large(x)
    return CudaTensor(x)


def _refuse_large(x: torch.Tensor) -> None:
    limit, size = os.environ.get(LARGEST), x.untyped_storage().nbytes()
    if limit is not None and size > int(limit):
        raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes.")


def _round_to_tf32(x: Any) -> Any:
    """Round fp32 to the 10 bits of mantissa that TF32 keeps, to nearest."""
    if not isinstance(x, torch.Tensor) or x.dtype != torch.float32:
        return x
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def _refuse_mixed(func: Any, args: Any, tensors: list[torch.Tensor]) -> None:
    """Raise RuntimeError for tensors on both devices; scalars of the CPU are allowed."""
    on_cpu = [x for x in tensors if not isinstance(x, CudaTensor) and x.dim() > 0]
    if len(on_cpu) == len(tensors) or not on_cpu:
        return
    if func in INDEXING:
        if not isinstance(args[0], CudaTensor):
            raise RuntimeError(
                "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
            )
        indices = [x for x in args[1] if x is not None]
        for index in indices:
            if not isinstance(index, CudaTensor):
                ledger.note(ledger.PAGEABLE, f"index of {func}", index)
        values = args[2:3]
        if all(isinstance(x, CudaTensor) or not isinstance(x, torch.Tensor) for x in values):
            return
    raise RuntimeError(
        "Expected all tensors to be on the same device, but found at least two devices, "
        f"cuda:0 and cpu! ({func} at {ledger.place()})"
    )


def _record(func: Any, args: Any, kwargs: dict[str, Any], on_device: list[Any]) -> None:
    ledger.note_operation(str(func))
    if not on_device:
        return
    if func in READS:
        ledger.note(ledger.SYNC, READS[func], on_device[0])
    elif func in INDEXING and any(
        isinstance(x, torch.Tensor) and x.dtype in (torch.bool, torch.uint8) for x in args[1]
    ):
        ledger.note(ledger.SYNC, "boolean mask", on_device[0])
    elif func is aten.segment_reduce.default and not kwargs.get("unsafe"):
        ledger.note(ledger.SYNC, "segment_reduce checks its lengths", on_device[0])
    elif str(func).startswith("aten.repeat_interleave") and kwargs.get("output_size") is None:
        ledger.note(ledger.SYNC, "repeat_interleave without output_size", on_device[0])


def _copy(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Copy between devices, or cast within one."""
    if func is aten.copy_.default:
        to, source = args[0], args[1]
        waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        _note_copy(source, isinstance(to, CudaTensor), waits=waits)
        _host(to).copy_(_host(source))
        return to
    (source,) = args
    device = kwargs.get("device")
    to_device = (source.device if device is None else torch.device(device)).type == "cuda"
    if not to_device and not isinstance(source, CudaTensor):
        return func(*args, **kwargs)
    _note_copy(source, to_device, waits=not kwargs.get("non_blocking", False))
    named = {name: value for name, value in kwargs.items() if name != "pin_memory"}
    result = func(_host(source), **{**named, "device": CPU})
    if to_device and isinstance(source, CudaTensor):
        ledger.note_operation(f"cast {source.dtype} to {result.dtype}")
    return _on_device(result) if to_device else result


def _note_copy(source: torch.Tensor, to_device: bool, *, waits: bool) -> None:
    if isinstance(source, CudaTensor):
        if not to_device:
            ledger.note(ledger.TO_HOST, "copy", source.host)
    elif to_device and source.dim() > 0:
        pinned = source.is_pinned()
        kind = ledger.PAGEABLE if not pinned else ledger.BLOCKING if waits else ledger.TO_DEVICE
        ledger.note(kind, "copy", source)
