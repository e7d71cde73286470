"""The attacks, each a function that goes on until its process is ended.

    python scripts/attack/kinds.py KIND PORT PID

PID: the server's main process.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress

HEAD = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
HALF_OPEN = 2000
SLOW = 200
WORDS = "the parcel that I ordered last week has not arrived and nobody answers my letters "


def connect(port: int) -> socket.socket:
    """A connection."""
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def post(body: bytes) -> bytes:
    """A complete request."""
    return HEAD + b"content-length: %d\r\n\r\n" % len(body) + body


def flood(port: int, begin: bytes, block: bytes, size: int) -> None:
    """Send `begin` and then blocks up to a size, again and again."""
    while True:
        with suppress(OSError), connect(port) as client:
            client.sendall(begin)
            for _ in range(size // len(block)):
                client.sendall(block)
        time.sleep(0.1)


def header(port: int, pid: int) -> None:
    """One header of 200 MB."""
    flood(port, HEAD + b"a: ", b"a" * 65_536, 200_000_000)


def headers(port: int, pid: int) -> None:
    """2,000,000 headers."""
    flood(port, HEAD, b"a:b\r\n" * 10_000, 10_000_000)


def hold(port: int, number: int, begin: bytes, drop: bytes) -> None:
    """Hold connections that send `drop` once a second; those that are closed are replaced."""
    clients: list[socket.socket] = []
    while True:
        started = time.monotonic()
        for client in list(clients):
            try:
                client.sendall(drop)
            except OSError:
                client.close()
                clients.remove(client)
        while len(clients) < number and time.monotonic() - started < 1:
            with suppress(OSError):
                clients.append(connect(port))
                clients[-1].sendall(begin)
        time.sleep(max(0.0, started + 1 - time.monotonic()))


def half_open(port: int, pid: int) -> None:
    """2,000 connections with half a head."""
    hold(port, HALF_OPEN, HEAD + b"a: ", b"")


def dripped_body(port: int, pid: int) -> None:
    """Bodies sent at a byte a second."""
    hold(port, SLOW, HEAD + b"content-length: 1000\r\n\r\n{", b" ")


def slow_reader(port: int, pid: int) -> None:
    """Clients that ask for the documentation again and again, and never read."""
    hold(port, SLOW // 4, b"", b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 20)


def abandoned(port: int, pid: int) -> None:
    """30 requests of 2 MB whose clients leave at once, every ten seconds."""
    body = json.dumps({"inputs": ("a" * 99 + " ") * 19_900}).encode()
    while True:
        for _ in range(30):
            with suppress(OSError), connect(port) as client:
                client.sendall(post(body))
        time.sleep(10)


def long_texts(port: int, pid: int) -> None:
    """One request of 512 long texts after another."""
    body = json.dumps({"inputs": [WORDS * 18] * 512}).encode()
    while True:
        with suppress(OSError), connect(port) as client:
            client.settimeout(60)
            client.sendall(post(body))
            client.recv(65_536)


def sighup(port: int, pid: int) -> None:
    """SIGHUP to all processes, ten times a second, as from a terminal that is closed."""
    while True:
        os.killpg(pid, signal.SIGHUP)
        time.sleep(0.1)


def nothing(port: int, pid: int) -> None:
    """No attack: what else happens is in the calling script."""
    signal.pause()


KINDS: dict[str, Callable[[int, int], None]] = {
    "header": header,
    "headers": headers,
    "half_open": half_open,
    "abandoned": abandoned,
    "long_texts": long_texts,
    "stalled_log": nothing,
    "dripped_body": dripped_body,
    "slow_reader": slow_reader,
    "sighup": sighup,
}

if __name__ == "__main__":
    os.nice(10)  # attackers use other machines' processors
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    KINDS[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]))
