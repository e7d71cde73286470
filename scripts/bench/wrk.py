"""Load a server with wrk and measure its rate and latencies."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

WARM_UP_S, WARM_UP_TEXTS_PER_S = 1, 500


def wrk(
    url: str,
    bodies: list[tuple[str, Any]],
    connections: int,
    seconds: int,
    *,
    texts: int = 1,
    pause_ms: float = 0.0,
) -> tuple[float, dict[str, list[float]]]:
    """Return requests/s, and latencies in ms by kind. Raises RuntimeError if a request failed.

    bodies: pairs of kind and JSON body. texts: number of texts per request. pause_ms: mean pause
    of a connection between two requests. wrk has a thread for every four cores, up to four, so
    that it is not itself the limit of a fast server.

    The load continues from a warm-up without a break, and the rate is the number of responses
    between the first and the last counted one. wrk's own rate starts with an idle server and
    leaves out the requests in flight at its end: 512 texts with 16 connections of 32.
    """
    threads = min(connections, max(1, min(4, len(os.sched_getaffinity(0)) // 4)))
    warm_up_s = WARM_UP_S + round(texts * connections / WARM_UP_TEXTS_PER_S)
    with tempfile.TemporaryDirectory() as directory:
        requests, responses = Path(directory, "requests"), Path(directory, "responses")
        requests.write_text("".join(f"{kind} {json.dumps(body)}\n" for kind, body in bodies))
        script = Path(__file__).with_suffix(".lua")
        command = ["wrk", f"-t{threads}", f"-c{connections}", "--timeout", "60s", "-s", str(script)]
        environment = os.environ | {
            "WRK_REQUESTS": str(requests),
            "WRK_RESPONSES": str(responses),
            "WRK_SEED": str(time.time_ns() % 2**31),
            "WRK_LONGEST_PAUSE_MS": str(round(2 * pause_ms)),
        }
        result = subprocess.run(
            [*command, f"-d{warm_up_s + seconds}s", url],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        if "Socket errors" in result.stdout:
            raise RuntimeError(result.stdout)
        lines = [line for file in Path(directory).glob("responses.*") for line in _lines(file)]
        return _rate_and_latencies(sorted(lines, key=lambda fields: float(fields[3])), warm_up_s)


def _lines(file: Path) -> list[list[str]]:
    """Split a thread's lines into fields; what follows the last one was cut off by wrk's end."""
    return [line.split() for line in file.read_text().split("\n")[:-1]]


def _rate_and_latencies(
    lines: list[list[str]], warm_up_s: float
) -> tuple[float, dict[str, list[float]]]:
    latencies: dict[str, list[float]] = {}
    ends = []
    for status, kind, start, end in lines:
        if status != "200":
            raise RuntimeError(f"a request failed with status {status}")
        ends.append(float(end) / 1e6)
        if ends[-1] >= ends[0] + warm_up_s:
            latencies.setdefault(kind, []).append((float(end) - float(start)) / 1e3)
    counted = [end for end in ends if end >= ends[0] + warm_up_s]
    if len(counted) < 2:
        raise RuntimeError(f"{len(counted)} responses after the warm-up; measure for longer")
    return (len(counted) - 1) / (counted[-1] - counted[0]), latencies


def quantile(values: list[float], fraction: float) -> float:
    """Return the value below which that fraction of the values lies."""
    return sorted(values)[min(len(values) - 1, int(fraction * len(values)))]
