"""Paths behind a proxy: a prefix that the proxy did not remove, and slashes at the end.

Removed here, before anything looks at the path, so that no answer has to send a client to
another address: such a redirect would have to guess the host and the prefix that the client used.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send


class PathMiddleware:
    """Gives `app` the path of a route. root_path: the prefix, without a slash at its end."""

    def __init__(self, app: ASGIApp, *, root_path: str) -> None:
        self.app = app
        self.root_path = root_path
        self.prefix = f"{root_path}/" if root_path else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            path = scope["path"]
            if self.prefix and (path == self.root_path or path.startswith(self.prefix)):
                path = path[len(self.root_path) :] or "/"
            path = path.rstrip("/") or "/"
            if path != scope["path"]:
                scope = {**scope, "path": path}
        await self.app(scope, receive, send)


def check_root_path(root_path: str, routes: Iterable[str]) -> None:
    """Raise ValueError if routes of the server begin with the prefix.

    Whether a proxy has removed the prefix could then not be told from a request.
    """
    for route in routes:
        if root_path and f"{route}/".startswith(f"{root_path}/"):
            raise ValueError(
                f"`root_path` = {root_path!r} is the start of the server's own `{route}`; choose "
                "another prefix"
            )
