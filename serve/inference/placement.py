"""Where a model runs: its device, its backend and the precision that follows.

Shared by `Predictor.load` and by processes that report the choice without loading the model.
"""

from __future__ import annotations

import logging
import os
from typing import Literal

from serve.bundle.manifest import BundleError
from serve.bundle.seal import Bundle
from serve.command.failures import is_installed

logger = logging.getLogger(__name__)

BackendName = Literal["auto", "torch", "onnx"]


class DeviceFailed(RuntimeError):
    """The device does not work any more in this process; another process may use it again."""


class DoesNotFit(ValueError):
    """A model or a batch is larger than the free memory of the device."""


GPU_NODES = ("/dev/nvidiactl", "/dev/dxg")
"""One of them exists wherever CUDA does (the second under WSL); importing torch takes seconds."""

PRECISION = {("onnx", "cpu"): "int8", ("torch", "cpu"): "fp32", ("torch", "cuda"): "bf16"}
"""Precision of the matrix products, by backend and kind of device."""

BF16_TEXTS, BF16_CHANGED, BF16_PROBABILITY = "bf16_texts", "bf16_changed", "bf16_probability"
"""Keys of the manifest's `parity`: validation texts that `merge` ran in bf16 and in fp32, those
of them with another decision, and the largest difference of a probability."""

STOCK_SINGLE = "stock_single"
"""Key of the `parity` of an imported bundle: the largest difference of logits between the stock
pipeline and the bundle, text by text."""

MAX_BF16_CHANGED, MAX_BF16_PROBABILITY = 0.01, 0.05
"""Largest fraction of changed decisions (one text is always allowed), and largest difference of a
probability, with which a bundle is served in bf16. Its temperature and thresholds were fitted on
fp32."""


def bf16_serves(parity: dict[str, float]) -> bool:
    """Return whether bf16 is close enough to fp32.

    Without the comparison True for trained bundles, made before there was one, and False for
    imported ones, for which there were no texts to compare on.
    """
    if STOCK_SINGLE in parity and BF16_TEXTS not in parity:
        return False
    allowed = max(1.0, MAX_BF16_CHANGED * parity.get(BF16_TEXTS, 0))
    difference = parity.get(BF16_PROBABILITY, 0.0)
    return parity.get(BF16_CHANGED, 0) <= allowed and difference <= MAX_BF16_PROBABILITY


def pick_precision(bundle: Bundle, *, backend: str, device: str) -> str:
    """Return int8, bf16 or fp32 for a resolved backend and device."""
    precision = PRECISION[backend, device.partition(":")[0]]
    if precision == "bf16" and not bf16_serves(bundle.manifest.parity):
        return "fp32"
    return precision


def missing_for_torch() -> str | None:
    """Return what running a model in PyTorch lacks here, with the remedy; None if nothing."""
    missing = [each for each in ("torch", "transformers") if not is_installed(each)]
    if not missing:
        return None
    names = " and ".join(f"`{each}`" for each in missing)
    return (
        f"{names} {'is' if len(missing) == 1 else 'are'} not installed; "
        "install them with pip install 'textloop[serve]'"
    )


def pick_device(device: str) -> str:
    """Resolve auto to cuda if there is a CUDA GPU and PyTorch is installed, else to cpu.

    Raises ValueError if a CUDA device is requested and PyTorch is missing, or sees none.
    """
    if device == "cpu" or (device == "auto" and not any(map(os.path.exists, GPU_NODES))):
        return "cpu"
    if missing := missing_for_torch():
        if device != "auto":
            raise ValueError(f"device `{device}` requested, but {missing}, or use device cpu")
        logger.warning("there is a GPU, but %s; using the CPU", missing)
        return "cpu"
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device `{device}` requested, but PyTorch sees no CUDA GPU; use cpu")
    return device


def pick_backend(
    bundle: Bundle, *, device: str, requested: BackendName
) -> tuple[Literal["torch", "onnx"], str]:
    """Choose the backend for a resolved device; return it with the reason.

    auto selects onnx on the CPU if the bundle has the int8 export, torch otherwise.
    Raises BundleError if onnx is requested but not available, and if torch is chosen without
    PyTorch.
    """
    name, reason = _choose_backend(bundle, device=device, requested=requested)
    if name == "torch" and (missing := missing_for_torch()):
        raise BundleError(
            f"bundle `{bundle.path}` needs PyTorch (backend torch: {reason}), but {missing}; "
            "an int8 export needs neither"
        )
    return name, reason


def _choose_backend(
    bundle: Bundle, *, device: str, requested: BackendName
) -> tuple[Literal["torch", "onnx"], str]:
    if requested == "torch":
        return "torch", "requested"
    int8 = bundle.manifest.int8
    missing = None
    if device != "cpu":
        missing = f"the int8 export is for the CPU, the device is {device}"
    elif int8 is None or not int8.shipped:
        missing = "the bundle has no int8 export" + (f": {int8.reason}" if int8 else "")
    if requested == "onnx":
        if missing:
            raise BundleError(f"backend `onnx` requested, but {missing}; use torch")
        return "onnx", "requested"
    if missing:
        return "torch", missing
    assert int8 is not None
    return "onnx", f"int8 export: {int8.reason}"
