"""What a benchmark's figures were measured on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def commit() -> str:
    """Short hash of the code's commit."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def hardware(device: str) -> str:
    """What the figures were measured on."""
    if device == "cuda":
        import torch

        return f"{torch.cuda.get_device_name()}, {os.cpu_count()} CPU cores"
    model = platform.processor() or platform.machine()
    flags = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        text = cpuinfo.read_text()
        if match := re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE):
            model = match[1]
        known = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2")
        flags = next((f" ({name})" for name in known if re.search(rf"\b{name}\b", text)), "")
    return f"{len(os.sched_getaffinity(0))} cores of {model}{flags}"
