"""Whether the model processes of another bundle fit into the memory beside those that answer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from serve.bundle.contents import ONNX_FILE, WEIGHTS
from serve.bundle.manifest import BundleError
from serve.bundle.seal import Bundle
from serve.inference.cores import control_groups, usable_cores

FACTOR = 1.5
"""Memory that a model takes, in sizes of its weights; int8 on CPUs has a copy for each core."""


def check_memory(bundle: Bundle, *, backend: str, device: str, processes: int) -> None:
    """Raise BundleError unless so many model processes fit into what is left of the memory.

    On a GPU each process checks by itself, since this one does not touch the GPU.
    """
    if device != "cpu":
        return
    copies = processes * (usable_cores() if backend == "onnx" else 1)
    needed = FACTOR * copies * weights_bytes(bundle.path, backend)
    available = available_bytes()
    if needed > available:
        raise BundleError(
            f"bundle `{bundle.path}` needs about {_mb(needed)} of memory beside the one that "
            f"answers, {_mb(available)} are left; raise the limit, or lower workers_per_device"
        )


def check_gpu_memory(bundle: Path, device: str) -> None:
    """Raise BundleError unless a model fits into what is free on its GPU."""
    if not device.startswith("cuda"):
        return
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    needed = FACTOR * weights_bytes(bundle, "torch")
    if needed > free:
        raise BundleError(
            f"bundle `{bundle}` needs about {_mb(needed)} on {device}, {_mb(free)} are free; free "
            "memory there, or use a smaller model"
        )


def weights_bytes(bundle: Path, backend: str) -> int:
    """Size of the weights that a backend loads."""
    if backend == "onnx":
        return (bundle / ONNX_FILE).stat().st_size
    single = bundle / WEIGHTS
    files = [single] if single.is_file() else bundle.glob("model-*.safetensors")
    return sum(file.stat().st_size for file in files)


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"


def available_bytes(root: Path = Path("/")) -> float:
    """Return the memory that is left, in bytes; infinite where nothing says so.

    The least of what the kernel calls available and of what the limit of each cgroup leaves, where
    the page cache that the kernel would give up counts as free. root: as for `usable_cores`.
    """
    return min([_of_machine(root), *_of_groups(root)])


def _of_machine(root: Path) -> float:
    try:
        for line in (root / "proc" / "meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return 1024 * float(value.split()[0])
    except (OSError, ValueError, IndexError):
        pass
    return math.inf


def _of_groups(root: Path) -> Iterator[float]:
    for group in control_groups("memory", root):
        for limit, used, inactive in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            try:
                stated = (group / limit).read_text().strip()
                if stated == "max":
                    continue
                taken = int((group / used).read_text()) - _cache(group, inactive)
                yield max(0, int(stated) - taken)
            except (OSError, ValueError):  # no such file, or a sandbox that leaves it empty
                continue


def _cache(group: Path, name: str) -> int:
    for line in (group / "memory.stat").read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
