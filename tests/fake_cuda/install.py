"""Make a freshly imported torch believe that it has one CUDA device."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import torch

from fake_cuda import ledger
from fake_cuda.device import FakeCuda
from fake_cuda.tensor import CUDA, CudaTensor

NAME = "NVIDIA H200 (pretended)"
MEMORY = 150_000_000_000


def install() -> None:
    """Patch torch, and run this thread and all later ones on the pretended device."""
    _describe_device()
    _pretend_random_state()
    _pretend_accelerator()
    _wrap_constructors()
    torch.Tensor.cuda = lambda self, device=None, non_blocking=False, **_: self.to(  # type: ignore
        CUDA, non_blocking=non_blocking
    )
    torch._has_compatible_shallow_copy_type = _can_take_data
    # The numbers of an inference tensor cannot be wrapped; `no_grad` is alike otherwise.
    torch.inference_mode = _inference_mode  # type: ignore
    start = threading.Thread.run

    def run(self: threading.Thread) -> None:
        with FakeCuda():
            start(self)

    threading.Thread.run = run  # type: ignore[method-assign]
    FakeCuda().__enter__()


def _can_take_data(input: torch.Tensor, from_: torch.Tensor) -> bool:
    """Return whether a tensor's `.data` can be set to that of another."""
    return isinstance(input, CudaTensor) == isinstance(from_, CudaTensor)


def _inference_mode(mode: Any = True) -> Any:
    if callable(mode):
        return torch.no_grad()(mode)
    return torch.no_grad() if mode else torch.enable_grad()


def _describe_device() -> None:
    properties = SimpleNamespace(
        name=NAME,
        major=9,
        minor=0,
        total_memory=MEMORY,
        multi_processor_count=132,
        gcnArchName="",
    )
    torch.version.cuda = "13.0"
    answers = {
        "is_available": True,
        "is_initialized": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_capability": (9, 0),
        "get_device_name": NAME,
        "get_device_properties": properties,
        "is_bf16_supported": True,
        "set_device": None,
        "set_sync_debug_mode": None,
        "empty_cache": None,
        "init": None,
        "_lazy_init": None,
        "reset_peak_memory_stats": None,
        "mem_get_info": (MEMORY, MEMORY),
        "memory_allocated": 0,
        "max_memory_allocated": 0,
        "memory_reserved": 0,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, _always(answer))
    torch._C._cuda_getCurrentRawStream = _always(0)  # bitsandbytes imports it
    torch.cuda.synchronize = lambda device=None: ledger.note(  # type: ignore
        ledger.SYNC, "torch.cuda.synchronize"
    )


def _pretend_random_state() -> None:
    import torch.cuda.random

    state = torch.zeros(16, dtype=torch.uint8)
    for module in (torch.cuda, torch.cuda.random):
        for name in ("manual_seed", "manual_seed_all", "set_rng_state", "set_rng_state_all"):
            setattr(module, name, _always(None))
        module.get_rng_state = lambda device=None: state.clone()  # type: ignore
        module.get_rng_state_all = lambda: [state.clone()]  # type: ignore


def _pretend_accelerator() -> None:
    device = torch.device("cuda")
    torch._C._get_accelerator = _always(device)
    answers = {
        "is_available": True,
        "current_accelerator": device,
        "device_count": 1,
        "current_device_index": 0,
        "set_device_index": None,
    }
    for name, answer in answers.items():
        setattr(torch.accelerator, name, _always(answer))
    torch.cuda.amp.common.amp_definitely_not_available = _always(False)


def _wrap_constructors() -> None:
    """Let `torch.tensor` and `torch.as_tensor`, which are no operations, make device tensors."""
    import torch.utils._device

    torch.utils._device._device_constructors()  # remembers the functions that are replaced here
    for name in ("tensor", "as_tensor"):
        setattr(torch, name, _constructor(getattr(torch, name)))


def _constructor(stock: Any) -> Any:
    def make(*args: Any, device: Any = None, requires_grad: bool = False, **named: Any) -> Any:
        if device is not None and torch.device(device).type == "cuda":
            return stock(*args, **named).to(CUDA).requires_grad_(requires_grad)
        if device is not None:
            named["device"] = device
        if requires_grad:
            named["requires_grad"] = True
        return stock(*args, **named)

    return make


def _always(answer: Any) -> Any:
    return lambda *_, **__: answer
