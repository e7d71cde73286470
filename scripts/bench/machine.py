"""The commit and the hardware that a benchmark's figures were measured on, and memory."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

CPU_FLAGS = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2")
"""Instruction sets that decide the speed of int8 and fp32 products, fastest first."""


def commit() -> str:
    """Return the short hash of the checked-out commit."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def hardware(device: str) -> str:
    """Return the name of the GPU, or the CPU with its cores and fastest instruction set."""
    if device == "cuda":
        import torch

        return f"{torch.cuda.get_device_name()}, {os.cpu_count()} CPU cores"
    model = platform.processor() or platform.machine()
    flag = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        text = cpuinfo.read_text()
        if match := re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE):
            model = match[1]
        flag = next((f" ({name})" for name in CPU_FLAGS if re.search(rf"\b{name}\b", text)), "")
    return f"{len(os.sched_getaffinity(0))} cores of {model}{flag}"


def memory_mb(group: int) -> float:
    """Memory of a process group, shared pages counted once (PSS)."""
    total_kb = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getpgid(int(entry.name)) == group:
                    rollup = (entry / "smaps_rollup").read_text()
                    total_kb += sum(map(int, re.findall(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)))
            except OSError:
                continue
    return total_kb / 1024
