"""Compile guard.cpp for the installed torch, and the environment that preloads it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CACHE = ROOT / ".pytest_cache" / "fake_cuda"

COMPILER = "g++"

LIBRARY, LARGEST = "FAKE_CUDA_LIBRARY", "FAKE_CUDA_LARGEST_BYTES"
"""Variables: the compiled guard; the size above which a tensor does not fit (default: none)."""


def torch_directory() -> Path:
    """Return the directory of the torch package, without importing it."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0])


def library() -> Path:
    """Return the compiled guard; compiles it unless it is cached for these sources and torch."""
    source = HERE / "guard.cpp"
    version = importlib.metadata.version("torch")
    key = hashlib.sha256(source.read_bytes() + version.encode()).hexdigest()[:16]
    path = CACHE / f"guard-{key}.so"
    if path.is_file():
        return path
    CACHE.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    torch = torch_directory()
    command = [COMPILER, "-O1", "-shared", "-fPIC", "-std=c++20", str(source), "-o", str(temporary)]
    command += ["-isystem", str(torch / "include"), "-L", str(torch / "lib")]
    subprocess.run([*command, "-lc10", "-ltorch_cpu"], check=True)
    temporary.replace(path)
    return path


def why_not() -> str:
    """Return why the device cannot be pretended on this machine; '' if it can."""
    if shutil.which(COMPILER) is None:
        return f"{COMPILER} is not installed"
    if not importlib.metadata.version("torch").endswith("+cpu") and _has_cuda_libraries():
        return "this build of torch has CUDA of its own"
    return ""


def _has_cuda_libraries() -> bool:
    return (torch_directory() / "lib" / "libtorch_cuda.so").exists()


def environment() -> dict[str, str]:
    """Return the variables under which a process and its children have the pretended device."""
    paths = [str(HERE / "preload"), str(HERE.parent), str(ROOT)]
    before = os.environ.get("PYTHONPATH")
    return {
        LIBRARY: str(library()),
        "PYTHONPATH": os.pathsep.join([*paths, before] if before else paths),
    }
