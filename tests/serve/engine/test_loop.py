"""The loop of a model process: real sockets, a real model, a thread instead of a process."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from litserve.transport.factory import TransportConfig
from processes import run, wait_for
from rows import make_rows

from serve.engine.callers import Caller
from serve.engine.loop import Worker
from serve.engine.metrics import WorkerMetrics
from serve.engine.transport import (
    BEAT_S,
    Beat,
    Frames,
    Status,
    WorkReply,
    WorkRequest,
    pack_reply,
    pack_request,
    unpack,
    unpack_reply,
    unpack_request,
)
from serve.inference.placement import DeviceFailed
from serve.inference.predictor import Predictor, Throughput
from serve.inference.text import Encoding

TEXTS = [row["text"] for row in make_rows(40, seed=8)]
COLUMNS = ("input_ids", "token_type_ids")


class Client:
    """Talks to a worker like an HTTP process."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(str(path))
        self.frames = Frames()

    def send(self, id_: int, encodings: list[Encoding], *, seconds: float = 20.0) -> None:
        now = time.monotonic()
        request = WorkRequest(
            id=id_, submitted_s=now, deadline_s=now + seconds, encodings=encodings
        )
        self.socket.sendall(pack_request(request, COLUMNS))

    def receive(self, count: int) -> dict[int, WorkReply]:
        replies: dict[int, WorkReply] = {}
        while len(replies) < count:
            for frame in self.frames.feed(self.socket.recv(1 << 16)):
                reply = unpack(frame)
                if isinstance(reply, WorkReply):
                    replies[reply.id] = reply
        return replies


@pytest.fixture(scope="module")
def predictor(bundles: Callable[[str], Path]) -> Predictor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serve.inference.backends.onnx.usable_cores", lambda: 2)
        return Predictor.load(bundles("single"), device="cpu")


Running = tuple[Worker, Callable[[], Client]]


@pytest.fixture
def worker(predictor: Predictor, tmp_path: Path) -> Iterator[Running]:
    """A running worker, and a function that connects to it."""
    throughput = Throughput(max_batch_tokens=256, overhead_tokens=5.0, tokens_per_s=10_000.0)
    worker = Worker(predictor, throughput, metrics=WorkerMetrics(device="cpu"))
    read, write = os.pipe()
    path = tmp_path / "model.sock"
    thread = threading.Thread(target=worker.serve, args=(path, read))
    thread.start()
    while not path.exists():
        time.sleep(0.01)
    time.sleep(0.05)
    clients: list[Client] = []

    def connect() -> Client:
        clients.append(Client(path))
        return clients[-1]

    yield worker, connect
    os.write(write, b"x")
    thread.join(timeout=10)
    assert not thread.is_alive()
    for client in clients:
        client.socket.close()
    os.close(read)
    os.close(write)


def test_answers_are_those_of_the_predictor(worker: Running, predictor: Predictor) -> None:
    encodings = predictor.encoder.encode(TEXTS)
    client = worker[1]()

    for number, encoding in enumerate(encodings):
        client.send(number, [encoding])
    client.send(99, encodings)
    replies = client.receive(len(TEXTS) + 1)

    expected_NC = predictor.logits(encodings)
    got_NC = np.concatenate([replies[number].logits_NC for number in range(len(TEXTS))])
    assert np.abs(got_NC - expected_NC).max() < 1e-4
    assert np.abs(replies[99].logits_NC - expected_NC).max() < 1e-4
    assert all(reply.compute_s > 0 and reply.queue_s >= 0 for reply in replies.values())


def test_a_failing_text_fails_its_request_and_no_other(
    worker: Running, predictor: Predictor
) -> None:
    good, other = predictor.encoder.encode(TEXTS[:2])
    bad: Encoding = good | {"input_ids": [10**6] * len(good["input_ids"])}
    client = worker[1]()

    for number, encodings in enumerate([[good], [bad], [other], [good, bad]]):
        client.send(number, encodings)
    replies = client.receive(4)

    assert [replies[number].status for number in range(4)] == [
        Status.OK,
        Status.FAILED,
        Status.OK,
        Status.FAILED,
    ]
    assert replies[2].logits_NC == pytest.approx(predictor.logits([other]), abs=1e-4)


def test_a_request_past_its_deadline_expires(worker: Running, predictor: Predictor) -> None:
    client = worker[1]()

    client.send(1, predictor.encoder.encode(TEXTS[:3]), seconds=-1.0)

    assert client.receive(1)[1].status is Status.EXPIRED


def test_cancelled_and_disconnected_requests_cost_no_pass(
    worker: Running, predictor: Predictor
) -> None:
    many = predictor.encoder.encode(TEXTS) * 10
    first, second, third = (worker[1]() for _ in range(3))
    passes = worker[0].metrics.batch_texts
    with worker[0].work:  # the forward threads wait for this lock
        first.send(1, many)
        second.send(1, many)
        first.send(1, [])
        second.socket.close()
    third.send(3, many[:1])
    third.receive(1)
    deadline = time.monotonic() + 5
    while len(worker[0].batcher) and time.monotonic() < deadline:
        time.sleep(0.01)

    texts = next(s.value for m in passes.collect() for s in m.samples if s.name.endswith("_sum"))
    assert texts < 500  # of 801
    assert worker[0].batcher.tokens == 0


def test_a_process_that_reads_no_replies_is_disconnected() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.1)
        connection = Caller(ours)

        connection.send(b"x" * 10_000_000)
        ours.settimeout(60)
        connection.send(b"y")

        received = b"".join(iter(lambda: theirs.recv(1 << 20), b""))
    assert 0 < len(received) < 10_000_000
    assert b"y" not in received


def test_reports_tell_how_long_a_pass_has_been_running(
    worker: Running, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = threading.Event()
    forward = predictor.backend.forward

    def hang(batch_NL: Any) -> Any:
        hanging.wait(10)
        return forward(batch_NL)

    client = worker[1]()
    monkeypatch.setattr(predictor.backend, "forward", hang)
    client.send(1, predictor.encoder.encode(TEXTS[:1]))
    try:
        beats: list[Beat] = []
        while len(beats) < 4:
            frames = client.frames.feed(client.socket.recv(1 << 16))
            beats += [each for each in map(unpack, frames) if isinstance(each, Beat)]
    finally:
        hanging.set()

    assert beats[0].running_s == 0
    assert beats[3].running_s > 2 * BEAT_S - 0.1
    assert beats[0].max_batch_tokens == 256
    assert client.receive(1)[1].status is Status.OK


def test_frames_survive_any_chunking() -> None:
    request = WorkRequest(
        id=7,
        submitted_s=1.5,
        deadline_s=2.5,
        encodings=[
            {"input_ids": [1, 2, 3], "token_type_ids": [0, 0, 1]},
            {"input_ids": [4], "token_type_ids": [0]},
        ],
    )
    reply = WorkReply(
        id=2**32 - 1,
        status=Status.OK,
        queue_s=0.25,
        compute_s=0.5,
        logits_NC=np.array([[1.5, -2.0]], dtype=np.float32),
    )
    stream = pack_request(request, COLUMNS) + pack_reply(reply)

    for step in (1, 2, 5, len(stream)):
        frames = Frames()
        cut = [stream[start : start + step] for start in range(0, len(stream), step)]
        first, second = (frame for part in cut for frame in frames.feed(part))
        got = unpack_request(first, COLUMNS)
        assert (got.id, got.submitted_s, got.deadline_s) == (7, 1.5, 2.5)
        assert [
            {name: list(ids) for name, ids in encoding.items()} for encoding in got.encodings
        ] == request.encodings
        back = unpack_reply(second)
        assert (back.id, back.status, back.queue_s) == (2**32 - 1, Status.OK, 0.25)
        assert back.logits_NC.tolist() == [[1.5, -2.0]]


def test_a_model_process_begins_without_other_libraries() -> None:
    """What it needs is imported by a thread of the lowest priority, beside live traffic."""
    code = (
        "import sys; known = {*sys.modules}; import serve.processes.start; "
        "print(sorted({m.partition('.')[0] for m in {*sys.modules} - known} "
        "- sys.stdlib_module_names))"
    )
    assert run("-c", code).stdout == "['serve']\n"


def test_litserve_is_the_version_whose_internals_are_replaced() -> None:
    """Fails when the bug named in `serve.engine.transport` is fixed, or LitServe changes."""
    assert importlib.metadata.version("litserve") == "0.2.19"
    assert TransportConfig(transport_config="zmq").transport_type == "mp"
    import litserve.server

    source = inspect.getsource(litserve.server.LitServer)
    for name in (
        "_init_manager",
        "verify_worker_status",
        "_start_server",
        "_start_worker_monitoring",
        "_perform_graceful_shutdown",
        "_register_middleware",
        "register_endpoints",
    ):
        assert f"self.{name}(" in source or f"def {name}(" in source, name


def test_memory_of_passes_is_released_once_the_process_rests(
    worker: Running, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.engine.loop.RELEASE_S", BEAT_S)
    client = worker[1]()
    client.send(1, predictor.encoder.encode(TEXTS))
    client.receive(1)
    assert predictor.backend._used

    wait_for(lambda: not predictor.backend._used)

    client.send(2, predictor.encoder.encode(TEXTS[:1]))
    assert client.receive(1)[2].status is Status.OK


def test_a_process_that_cannot_release_memory_goes_on(
    worker: Running, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()

    def fail() -> bool:
        tried.set()
        raise RuntimeError("no memory for a pass")

    monkeypatch.setattr("serve.engine.loop.RELEASE_S", 0.0)
    monkeypatch.setattr(predictor, "release", fail)
    assert tried.wait(timeout=10)

    client = worker[1]()
    client.send(1, predictor.encoder.encode(TEXTS[:1]))
    assert client.receive(1)[1].status is Status.OK


def test_a_failed_device_ends_the_model_process(
    worker: Running, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every later pass would fail too; the parent starts another process."""
    ended = threading.Event()

    def end(code: int) -> None:
        assert code == 1
        ended.set()
        threading.Event().wait()  # this thread ends no more than it would return from _exit

    def fail(batch_NL: Any) -> Any:
        raise DeviceFailed("cuda:0 failed")

    monkeypatch.setattr("serve.engine.loop.os._exit", end)
    monkeypatch.setattr(predictor.backend, "forward", fail)
    worker[1]().send(1, predictor.encoder.encode(TEXTS[:1]))

    assert ended.wait(timeout=10)
