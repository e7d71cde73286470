"""Put the pretended device in place when torch is imported, in this process and its children.

Python imports this module at its start, since `fake_cuda.build.environment` puts its directory
on PYTHONPATH. torch asks for the hooks of a device once, so they are loaded before it.
"""

from __future__ import annotations

import ctypes
import importlib.abc
import importlib.machinery
import os
import sys
from pathlib import Path

DEVICE_NODE = "/dev/nvidiactl"
LIBRARY = "FAKE_CUDA_LIBRARY"


class _TorchFinder(importlib.abc.MetaPathFinder):
    """Wraps the import of torch itself."""

    def find_spec(self, name, path=None, target=None):
        if name != "torch":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            directory = Path(spec.submodule_search_locations[0])
            for library in (directory / "lib" / "libtorch_cpu.so", os.environ[LIBRARY]):
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
            execute(module)
            from fake_cuda.install import install

            install()

        spec.loader.exec_module = exec_module
        return spec


def _pretend_node():
    """Let the device node exist whose absence spares processes the import of torch."""
    exists = os.path.exists
    os.path.exists = lambda path: path == DEVICE_NODE or exists(path)


if LIBRARY in os.environ:
    sys.meta_path.insert(0, _TorchFinder())
    _pretend_node()
