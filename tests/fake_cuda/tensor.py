"""The tensor that says it is on the GPU; its numbers are in `host`, on the CPU."""

from __future__ import annotations

from typing import Any

import torch

from fake_cuda import ledger

CUDA = torch.device("cuda", 0)


class CudaTensor(torch.Tensor):
    """A tensor on the pretended device."""

    host: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> CudaTensor:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=CUDA,
        )

    def __init__(self, host: torch.Tensor) -> None:
        assert not isinstance(host, CudaTensor)
        self.host = host

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from fake_cuda.device import run

        return run(func, args, kwargs or {})

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["host"], None

    @staticmethod
    def __tensor_unflatten__(parts: Any, _: Any, size: Any, stride: Any) -> CudaTensor:
        return CudaTensor(parts["host"])

    def __repr__(self) -> str:
        return f"cuda:0({self.host!r})"

    @property
    def data(self) -> torch.Tensor:
        return self.detach()

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        if not isinstance(value, CudaTensor):
            raise RuntimeError("incompatible tensor type: a CUDA tensor cannot take CPU data")
        assert (value.shape, value.dtype) == (self.shape, self.dtype), "not pretended: new shape"
        self.host = value.host

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor "
            "to host memory first."
        )

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        ledger.note(ledger.SYNC, "tolist", self.host)
        return self.host.tolist()

    def is_pinned(self, *_: Any) -> bool:
        return False

    def data_ptr(self) -> int:
        return self.host.data_ptr()

    def untyped_storage(self) -> Any:
        return self.host.untyped_storage()

    def storage(self) -> Any:
        return self.host.storage()

    def _typed_storage(self) -> Any:
        return self.host._typed_storage()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            copied = CudaTensor(self.host.detach().clone())
            if getattr(self, "_is_param", False):
                memo[id(self)] = torch.nn.Parameter(copied, requires_grad=self.requires_grad)
            else:
                memo[id(self)] = copied.requires_grad_(self.requires_grad)
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        ledger.note(ledger.TO_HOST, "pickle", self.host)
        return _unpickled, (self.host.detach().clone(), self.requires_grad)


def _unpickled(host: torch.Tensor, requires_grad: bool) -> torch.Tensor:
    return host.requires_grad_(requires_grad)
