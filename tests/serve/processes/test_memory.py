"""How much memory is left, and whether another bundle fits into it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from serve.bundle.manifest import BundleError
from serve.bundle.seal import open_bundle
from serve.processes import memory
from serve.processes.memory import available_bytes, check_gpu_memory, check_memory, weights_bytes


def machine(root: Path, files: dict[str, str]) -> Path:
    """A /proc and /sys of so many files."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 4000 kB\n"}
V2 = "sys/fs/cgroup/box"
V1 = "sys/fs/cgroup/memory/docker/id"


@pytest.mark.parametrize(
    ("files", "left"),
    [
        (MEMINFO, 4_096_000),
        ({}, math.inf),
        (
            MEMINFO
            | {
                "proc/self/cgroup": "0::/box\n",
                f"{V2}/memory.max": "3000000\n",
                f"{V2}/memory.current": "2500000\n",
                f"{V2}/memory.stat": "anon 1\ninactive_file 400000\n",
            },
            900_000,
        ),
        (MEMINFO | {"proc/self/cgroup": "0::/box\n", f"{V2}/memory.max": "max\n"}, 4_096_000),
        (
            MEMINFO
            | {
                "proc/self/cgroup": "5:memory:/docker/id\n",
                f"{V1}/memory.limit_in_bytes": "2000000\n",
                f"{V1}/memory.usage_in_bytes": "2100000\n",
                f"{V1}/memory.stat": "total_inactive_file 50000\n",
            },
            0,
        ),
        (
            MEMINFO
            | {
                "proc/self/cgroup": "0::/../..\n",  # of a container, its own group at the top
                "sys/fs/cgroup/memory.max": "1000000\n",
                "sys/fs/cgroup/memory.current": "100000\n",
                "sys/fs/cgroup/memory.stat": "inactive_file 0\n",
            },
            900_000,
        ),
        (MEMINFO | {"proc/self/cgroup": "0::/box\n", f"{V2}/memory.max": "\n"}, 4_096_000),
    ],
)
def test_the_least_of_machine_and_container_is_left(
    tmp_path: Path, files: dict[str, str], left: float
) -> None:
    assert available_bytes(machine(tmp_path, files)) == left


def test_a_bundle_that_does_not_fit_is_refused_with_both_figures(
    bundles: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(bundles("single"))
    needed = 1.5 * weights_bytes(bundle.path, "torch")
    check = {"backend": "torch", "device": "cpu", "processes": 2}

    monkeypatch.setattr(memory, "available_bytes", lambda: 2 * needed)
    check_memory(bundle, **check)
    monkeypatch.setattr(memory, "available_bytes", lambda: 2 * needed - 1)
    with pytest.raises(BundleError, match=r"of memory beside the one that answers, .* are left"):
        check_memory(bundle, **check)
    check_memory(bundle, **check | {"device": "cuda"})  # judged by the process on the GPU


def test_int8_has_a_copy_for_each_core(
    bundles: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(bundles("single"))
    needed = 1.5 * weights_bytes(bundle.path, "onnx")
    monkeypatch.setattr(memory, "usable_cores", lambda: 3)
    monkeypatch.setattr(memory, "available_bytes", lambda: 3 * needed - 1)

    with pytest.raises(BundleError, match="lower workers_per_device"):
        check_memory(bundle, backend="onnx", device="cpu", processes=1)


def test_a_gpu_is_asked_by_the_process_that_loads(
    bundles: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    needed = 1.5 * weights_bytes(bundles("single"), "torch")
    asked: list[str] = []

    def free(bytes_: float) -> Callable[[str], tuple[float, float]]:
        return lambda device: (asked.append(device) or bytes_, 10 * needed)

    monkeypatch.setattr(torch.cuda, "mem_get_info", free(needed))
    check_gpu_memory(bundles("single"), "cuda:1")
    monkeypatch.setattr(torch.cuda, "mem_get_info", free(needed - 1))
    with pytest.raises(BundleError, match=r"on cuda:1, .* are free"):
        check_gpu_memory(bundles("single"), "cuda:1")
    check_gpu_memory(bundles("single"), "cpu")
    assert asked == ["cuda:1", "cuda:1"]
