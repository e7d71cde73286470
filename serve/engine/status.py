"""What a model process knows once its model is loaded, for `/info`.

It is a file beside the process's socket, written before the process listens. HTTP processes read
it on request, so that they hold nothing that a restart of the model process would make wrong.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from serve.files import write_atomic
from serve.inference.predictor import Predictor, Throughput


def write_status(socket: Path, predictor: Predictor, throughput: Throughput) -> None:
    """Write the status of the model process that is going to listen on `socket`."""
    reason = predictor.backend.padded_because
    status = {
        "packed": not reason,
        "packed_reason": reason or "its logits are those of padded batches",
        "precision": predictor.backend.precision,
        "backend": predictor.backend.name,
        **asdict(throughput),
    }
    write_atomic(_file(socket), json.dumps(status).encode())


def read_status(sockets: Sequence[Path]) -> dict[str, Any] | None:
    """Return the status of the first model process that has written one, else None.

    All of them run the same model on devices of one kind.
    """
    for socket in sockets:
        try:
            status: dict[str, Any] = json.loads(_file(socket).read_bytes())
        except FileNotFoundError:
            continue
        return status
    return None


def _file(socket: Path) -> Path:
    return socket.with_suffix(".json")
