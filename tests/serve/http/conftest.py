"""Servers with API keys, shared by several tests."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from guarded import PAGE, Bundles, Guarded
from processes import Server, run, running

from serve.http.keys import new_key


@pytest.fixture(scope="session")
def guarded(bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A server with API keys, an access log, two HTTP processes and two model processes."""
    made = run("-m", "serve", "key", "--name", "alice").stdout.splitlines()
    bob, carol = new_key("bob"), new_key("carol@example.org")
    file = tmp_path_factory.mktemp("keys") / "keys.txt"
    lines = f"# who may call\n\n{made[2]}\n{bob[1]}  # the nightly job\n{carol[1]}\n"
    file.write_text(lines)
    overrides = f"api_keys_file={file} access_log=true api_processes=2 workers_per_device=2"
    with running(bundles("single"), *overrides.split()) as server:
        yield Guarded(server, file, lines, alice=made[0], bob=bob[0], carol=carol[0])


@pytest.fixture(scope="module")
def called_by_pages(
    bundles: Bundles, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, str]]:
    """A server with API keys, one CORS origin, and a trace collector that never responds."""
    key, line = new_key("page")
    file = tmp_path_factory.mktemp("keys") / "keys.txt"
    file.write_text(line)
    with socket.socket() as collector:
        collector.bind(("127.0.0.1", 0))
        collector.listen()
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.getsockname()[1]}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        overrides = (f'cors_origins=["{PAGE}"]', f"api_keys_file={file}", "tracing=true")
        with running(bundles("single"), *overrides, **environment) as server:
            yield server, key
