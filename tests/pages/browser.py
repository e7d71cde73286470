"""Headless Chromium over the DevTools protocol: what a page measures, says and requests.

It speaks over two pipes, one JSON message after another, each ended by a zero byte.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from select import select
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TIMEOUT_S = 60
MESSAGES = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")


@dataclass
class View:
    """What a page did."""

    requests: list[str] = field(default_factory=list)
    """Addresses that it asked for, its own left out."""
    messages: list[str] = field(default_factory=list)
    """What it wrote to the console, and errors."""
    values: Any = None
    """The result of the expression."""
    png: bytes = b""


class Browser:
    """A running browser with one page."""

    def __init__(self, directory: Path) -> None:
        from_us, to_them = os.pipe()
        from_them, to_us = os.pipe()
        assert CHROMIUM is not None

        def wire() -> None:  # the browser reads commands from 3 and writes answers to 4
            read, write = os.dup(from_us), os.dup(to_us)
            os.dup2(read, 3)
            os.dup2(write, 4)

        self.process = subprocess.Popen(
            [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
             "--disable-dev-shm-usage", "--disable-background-networking", "--hide-scrollbars",
             "--remote-debugging-pipe", f"--user-data-dir={directory}", "about:blank"],
            preexec_fn=wire, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(from_us)
        os.close(to_us)
        self.out, self.into = to_them, from_them
        self.buffer = b""
        self.number = 0
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = ""
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result; events meanwhile are kept."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": params}
        if getattr(self, "session", ""):
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.out, data) :]
        while True:
            answer = self.read()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def read(self) -> dict[str, Any]:
        """Return the next message."""
        while b"\0" not in self.buffer:
            ready, _, _ = select([self.into], [], [], TIMEOUT_S)
            block = os.read(self.into, 1 << 20) if ready else b""
            assert block, "the browser is silent"
            self.buffer += block
        message, _, self.buffer = self.buffer.partition(b"\0")
        return dict(json.loads(message))

    def view(
        self,
        file: Path,
        *,
        width: int,
        dark: bool = False,
        expression: str = "null",
        picture: int = 0,
        media: str = "",
    ) -> View:
        """Open a file at a width in pixels, and evaluate an expression. picture: its height."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=picture or 900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.events.clear()
        self.send("Page.navigate", url=file.as_uri())
        while not any(each["method"] == "Page.loadEventFired" for each in self.events):
            self.events.append(self.read())
        found = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        view = View(values=found["result"].get("value"))
        assert "exceptionDetails" not in found, found
        if picture:
            shot = self.send("Page.captureScreenshot", format="png")
            view.png = base64.b64decode(shot["data"])
        for event in self.events:
            params = event.get("params", {})
            if event["method"] == "Network.requestWillBeSent":
                view.requests.append(params["request"]["url"])
            elif event["method"] in MESSAGES:
                view.messages.append(json.dumps(params)[:500])
        view.requests = [url for url in view.requests if url != file.as_uri()]
        return view

    def close(self) -> None:
        """End the browser."""
        self.process.terminate()
        self.process.wait(timeout=TIMEOUT_S)
        os.close(self.out)
        os.close(self.into)


@contextmanager
def open_browser(directory: Path) -> Iterator[Browser]:
    """Run a browser whose profile is in an empty directory."""
    browser = Browser(directory)
    try:
        yield browser
    finally:
        browser.close()
