"""What stands between boto3 and a container on SageMaker: one route becomes another."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx


@contextmanager
def proxied(url: str) -> Iterator[str]:
    """Run the proxy for a `with` block; `/endpoints/NAME/invocations` goes to `/invocations`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            assert self.path.endswith("/invocations")
            body = self.rfile.read(int(self.headers["content-length"]))
            kept = {
                name: value
                for name in ("content-type", "accept")
                if (value := self.headers.get(name)) is not None
            }
            response = httpx.post(f"{url}/invocations", content=body, headers=kept, timeout=60)
            self.send_response(response.status_code)
            self.send_header("content-type", response.headers["content-type"])
            self.send_header("content-length", str(len(response.content)))
            self.end_headers()
            self.wfile.write(response.content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
