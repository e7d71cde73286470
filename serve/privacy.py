"""Nothing leaves this machine unasked: the libraries' telemetry is off.

Decides only what a process sends of its own accord. What a configuration asks for (a model or data
set of the Hub, a tracker, spans) is sent, or fetched, as before. A variable that is set already
stays as it is, so a user may turn a library's telemetry on.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

SWITCHES = {
    # ONNX Runtime's wheels send events to Microsoft, on by default since 1.29, and keep a device
    # id in ~/.cache. Read by native code when the library is loaded.
    "ORT_DISABLE_TELEMETRY": "1",
    # Versions in the user agent, and a request for the list of agents (huggingface_hub 2.4);
    # transformers and datasets follow it.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # One request on import, and one for every run and model.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # The convention of consoledonottrack.com, read by MLflow among others.
    "DO_NOT_TRACK": "true",
    # Native code from the Hub instead of transformers' own layers, where `kernels` is installed.
    "USE_HUB_KERNELS": "0",
}
"""Environment variables of the libraries, by which their child processes are silent as well."""


def silence() -> None:
    """Turn telemetry off; call it before a library that has some is imported."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)


def silent_onnxruntime() -> Any:
    """Import ONNX Runtime with its telemetry off, also if the caller has imported it before."""
    silence()
    import onnxruntime

    if os.environ["ORT_DISABLE_TELEMETRY"] == SWITCHES["ORT_DISABLE_TELEMETRY"]:
        onnxruntime.disable_telemetry_events()
    return onnxruntime


def refuse_hub_kernels() -> None:
    """Keep this process from fetching native code from the Hub with `kernels`.

    bitsandbytes does that when it is imported, which peft does (0.50.2, on CPUs with AVX512-BF16),
    and has no switch. Its own code gives the same results.
    """
    sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]  # makes the import fail
    # It would advise to install `kernels`.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
