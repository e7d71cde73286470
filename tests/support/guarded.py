"""A server with API keys, how to call it, and how to read its metrics."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from processes import Server, children_of, paused, wait_for, workers_of
from prometheus_client.parser import text_string_to_metric_families
from rows import make_rows

Bundles = Callable[[str], Path]

TEXTS = [row["text"] for row in make_rows(60, seed=31)]

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
"""The example in the W3C recommendation on trace context."""

PAGE = "https://a.example"


@cache
def http() -> httpx.Client:
    """A client that opens a connection for every request."""
    return httpx.Client(limits=httpx.Limits(max_keepalive_connections=0), timeout=60)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def put(file: Path, content: str) -> None:
    """Replace a file atomically, as `mv` does, and Kubernetes with a mounted secret."""
    new = file.with_suffix(".new")
    new.write_text(content)
    new.rename(file)


@dataclass
class Guarded:
    """A server with API keys, its keys file, and the keys."""

    server: Server
    file: Path
    lines: str
    alice: str
    """Made by the command line; the other keys by `new_key`."""
    bob: str
    carol: str

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request, by default with Alice's key."""
        options["headers"] = bearer(self.alice) | options.get("headers", {})
        return http().request(method, f"{self.server.url}{path}", **options)

    def predict(self, inputs: Any, **headers: Any) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("POST", "/predict", json={"inputs": inputs}, headers=names)

    def log_lines(self) -> list[dict[str, Any]]:
        """Parse the access log; a line that is not whole fails the test.

        The last one may be in the making: a reader of a file sees a part of a write.
        """
        whole, _, _ = self.server.log.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines() if line.startswith('{"time"')]

    def logged(self, response: httpx.Response) -> dict[str, Any]:
        """Wait for the line of a request in the access log; there must be one only."""
        id_ = response.headers["x-request-id"]
        (line,) = wait_for(lambda: [each for each in self.log_lines() if each["request_id"] == id_])
        return line


Sample = tuple[str, frozenset[tuple[str, str]]]


def scrape(server: Server) -> dict[Sample, float]:
    """Values by name and labels, once two scrapes in a row give the same."""

    def once() -> dict[Sample, float]:
        families = text_string_to_metric_families(http().get(f"{server.url}/metrics").text)
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
            if sample.labels.get("route") != "/metrics"
        }

    values = once()
    while (again := once()) != values:
        values = again
    return values


def gained(
    before: dict[Sample, float], after: dict[Sample, float], name: str, **labels: str
) -> float:
    """Growth of a metric, summed over all samples with these labels."""
    keys = [key for key in after if key[0] == name and labels.items() <= key[1]]
    return sum(after[key] - before.get(key, 0) for key in keys)


@contextmanager
def only(server: Server, pid: int) -> Iterator[None]:
    """Stop all HTTP processes except one for the duration of a `with` block."""
    with paused(each for each in http_processes(server) if each != pid):
        yield


def http_processes(server: Server) -> list[int]:
    group = server.process.pid
    rest = set(children_of(group)) - set(workers_of(group)) - {group}
    return sorted(
        pid for pid in rest if b"serve" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    )
