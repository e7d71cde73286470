"""What clients see when things go wrong: real processes killed, stopped and flooded.

SIGSTOP stands in for a model process that hangs: requests wait for it until it gets SIGCONT.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from processes import Server, children_of, left_after, paused, running, wait_for, workers_of
from rows import make_rows

from serve.inference.predictor import Predictor

Bundles = Callable[[str], Path]

TEXTS = [row["text"] for row in make_rows(512, seed=21)]


def metric(server: Server, name: str) -> float:
    """Sum of a metric over its label values."""
    text = httpx.get(f"{server.url}/metrics").text
    pattern = rf"^{name}(?:\{{.*\}})? (\S+)$"
    return sum(float(value) for value in re.findall(pattern, text, re.MULTILINE))


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    """Stop the model processes for the duration of a `with` block."""
    workers = workers_of(server.process.pid)
    assert workers
    with paused(workers):
        yield


def at_once(
    server: Server, bodies: list[Any], during: Callable[[], Awaitable[None]]
) -> list[httpx.Response]:
    """Send all bodies at once, do something while they wait, and gather the answers."""

    async def all_answers() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=len(bodies))
        async with httpx.AsyncClient(limits=limits, timeout=60) as client:
            tasks = [
                asyncio.create_task(client.post(f"{server.url}/predict", json=body))
                for body in bodies
            ]
            await during()
            return await asyncio.gather(*tasks)

    return asyncio.run(all_answers())


async def until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_for, condition)


def test_answers_at_concurrency_64_are_those_of_one_at_a_time(
    serve: Callable[..., Server],
) -> None:
    server = serve("single")
    with httpx.Client(timeout=60) as client:
        alone = [
            client.post(f"{server.url}/predict", json={"inputs": text}).json() for text in TEXTS
        ]

    async def together() -> list[Any]:
        gate = asyncio.Semaphore(64)
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(limits=limits, timeout=60) as client:

            async def one(text: str) -> Any:
                async with gate:
                    return (
                        await client.post(f"{server.url}/predict", json={"inputs": text})
                    ).json()

            return await asyncio.gather(*map(one, TEXTS))

    for first, second in zip(alone, asyncio.run(together()), strict=True):
        assert first[0]["label"] == second[0]["label"]
        scores = [{entry["label"]: entry["score"] for entry in each} for each in (first, second)]
        assert all(abs(scores[0][label] - scores[1][label]) <= 1e-4 for label in scores[0])


def test_full_queue_is_429_with_a_time_to_come_back_whatever_the_request(
    bundles: Bundles,
) -> None:
    with running(bundles("single"), "max_queue_tokens=300") as server:
        singles = [{"inputs": text} for text in TEXTS[:100]]
        answers: list[httpx.Response] = []

        async def flood() -> None:
            await until(lambda: metric(server, "textloop_request_errors_total") > 10)
            many = await asyncio.to_thread(server.post, {"inputs": TEXTS[:40]})
            answers.append(many)
            await asyncio.sleep(0.2)
            for pid in workers_of(server.process.pid):
                os.kill(pid, signal.SIGCONT)

        with stopped(server):
            answers += at_once(server, singles, flood)

        codes = [answer.status_code for answer in answers]
        assert codes[0] == 429
        assert set(codes) == {200, 429}
        assert 10 < codes.count(200) < 60
        refused = [answer for answer in answers if answer.status_code == 429]
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert all(answer.json()["error_type"] == "Overloaded" for answer in refused)
        assert "the limit of 300" in refused[0].json()["error"]
        # A request over the limit is admitted if nothing is in flight, or it never could be.
        assert server.post({"inputs": TEXTS[:100]}).status_code == 200


def test_a_request_that_waits_too_long_is_504_and_costs_no_pass(bundles: Bundles) -> None:
    with running(bundles("single"), "timeout_s=1") as server:
        before = metric(server, "textloop_batch_texts_sum")
        with stopped(server):
            started = time.monotonic()
            response = server.post({"inputs": TEXTS})
            assert time.monotonic() - started < 5

        assert response.status_code == 504
        assert response.json() == {
            "error": "no response within timeout_s = 1 s",
            "error_type": "Unhealthy",
        }
        assert server.post({"inputs": "parcel"}).status_code == 200
        assert metric(server, "textloop_batch_texts_sum") - before < 10


def test_clients_that_leave_cost_no_pass(bundles: Bundles) -> None:
    with running(bundles("single")) as server:
        before = metric(server, "textloop_batch_texts_sum")
        with stopped(server):
            connections = []
            for _ in range(8):
                connection = socket.create_connection(("127.0.0.1", server.port))
                body = httpx.Request("POST", server.url, json={"inputs": TEXTS}).content
                head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
                connection.sendall(head.encode() + body)
                connections.append(connection)
            wait_for(lambda: metric(server, "textloop_inflight_tokens") > 8 * 512)
            for connection in connections:
                connection.close()
            wait_for(lambda: metric(server, "textloop_inflight_tokens") == 0)

        assert server.post({"inputs": "parcel"}).status_code == 200
        wait_for(lambda: metric(server, "textloop_requests_cancelled_total") == 8)
        assert metric(server, "textloop_batch_texts_sum") - before < 600  # of 4096
        assert metric(server, "textloop_request_errors_total") == 8


def test_a_killed_model_process_fails_its_requests_at_once_and_comes_back(
    bundles: Bundles,
) -> None:
    with running(bundles("single")) as server:
        (before,) = workers_of(server.process.pid)
        died: list[float] = []

        async def kill() -> None:
            await until(lambda: metric(server, "textloop_inflight_tokens") > 0)
            os.kill(before, signal.SIGKILL)
            died.append(time.monotonic())

        os.kill(before, signal.SIGSTOP)
        answers = at_once(server, [{"inputs": text} for text in TEXTS[:20]], kill)
        took = time.monotonic() - died[0]

        assert {answer.status_code for answer in answers} == {503}
        assert "the model process died" in answers[0].json()["error"]
        assert took < 2
        down = httpx.get(f"{server.url}/health/ready")
        assert down.status_code == 503
        assert down.json()["model_processes_ready"] == 0
        assert httpx.get(f"{server.url}/health/live").status_code == 200
        refused = server.post({"inputs": "parcel"})
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        wait_for(lambda: httpx.get(f"{server.url}/health/ready").status_code == 200, seconds=60)
        assert server.post({"inputs": "parcel"}).status_code == 200
        assert workers_of(server.process.pid) != [before]
        assert "exited with code -9; restarting" in server.log.read_text()


def test_with_two_model_processes_one_goes_on_while_the_other_is_down(bundles: Bundles) -> None:
    with running(bundles("single"), "workers_per_device=2") as server:
        first, _ = workers_of(server.process.pid)
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: httpx.get(f"{server.url}/health/ready").status_code == 503)

        codes = {server.post({"inputs": text}).status_code for text in TEXTS[:20]}

        assert codes == {200}
        wait_for(lambda: httpx.get(f"{server.url}/health/ready").status_code == 200, seconds=60)


@pytest.mark.slow
def test_a_model_process_that_hangs_is_not_ready(bundles: Bundles) -> None:
    with running(bundles("single")) as server, stopped(server):
        time.sleep(5.1)  # a process counts as ready for PROBE_S after a reply
        assert httpx.get(f"{server.url}/health/ready", timeout=20).status_code == 503


@pytest.mark.slow
def test_a_model_process_that_hangs_is_replaced(bundles: Bundles) -> None:
    with running(bundles("single"), "hang_s=6") as server:
        (before,) = workers_of(server.process.pid)

        async def hang() -> None:
            await until(lambda: metric(server, "textloop_model_processes_ready") == 0)
            ready = await asyncio.to_thread(httpx.get, f"{server.url}/health/ready")
            assert ready.status_code == 503
            assert server.post({"inputs": "parcel"}).status_code == 503
            assert httpx.get(f"{server.url}/health/live").status_code == 200

        os.kill(before, signal.SIGSTOP)
        answers = at_once(server, [{"inputs": text} for text in TEXTS[:20]], hang)

        assert {answer.status_code for answer in answers} == {503}
        wait_for(lambda: httpx.get(f"{server.url}/health/ready").status_code == 200, seconds=60)
        assert metric(server, "textloop_model_processes_ready") == 1
        assert server.post({"inputs": "parcel"}).status_code == 200
        assert workers_of(server.process.pid) != [before]
        assert "no sign of life for hang_s = 6 s; killing it" in server.log.read_text()


def test_sigterm_under_load_answers_what_was_accepted(bundles: Bundles) -> None:
    with running(bundles("single")) as server:
        group = server.process.pid
        codes: list[int] = []
        broken: list[Exception] = []
        go_on = True

        def client() -> None:
            # A connection for each request: what the server accepts it must answer.
            while go_on:
                try:
                    codes.append(server.post({"inputs": TEXTS[:8]}).status_code)
                except httpx.ConnectError:
                    return  # the port is closed
                except httpx.TransportError as error:
                    broken.append(error)
                    return

        clients = [threading.Thread(target=client) for _ in range(16)]
        for thread in clients:
            thread.start()
        wait_for(lambda: len(codes) > 200)
        code = server.stop()
        go_on = False
        for thread in clients:
            thread.join()

        assert code == 0
        assert set(codes) == {200}
        # Connections that were in the port's queue when it closed; none was accepted.
        assert all(
            isinstance(error, httpx.ReadError | httpx.RemoteProtocolError) for error in broken
        )
        assert left_after(group) == []
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME_WAIT is no port
            probe.bind(("127.0.0.1", server.port))


@pytest.mark.slow
def test_grace_period_ends_with_503_and_exit_code_0(bundles: Bundles) -> None:
    with running(bundles("single"), "grace_s=1") as server:
        group = server.process.pid

        async def terminate() -> None:
            await until(lambda: metric(server, "textloop_inflight_tokens") > 0)
            server.process.terminate()

        for pid in workers_of(group):
            os.kill(pid, signal.SIGSTOP)
        answers = at_once(server, [{"inputs": "parcel"}], terminate)

        assert answers[0].status_code == 503
        assert answers[0].json()["error"] == "the server is shutting down"
        assert server.process.wait(timeout=30) == 0
        assert left_after(group) == []


def test_killed_main_process_leaves_no_process_behind(bundles: Bundles) -> None:
    with running(bundles("single")) as server:
        group = server.process.pid
        assert len(children_of(group)) >= 3

        os.kill(group, signal.SIGKILL)
        server.process.wait()

        assert left_after(group) == []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", server.port))


def test_killed_http_process_ends_the_server_with_exit_code_1(bundles: Bundles) -> None:
    with running(bundles("single")) as server:
        group = server.process.pid
        (http,) = (
            pid
            for pid in set(children_of(group)) - set(workers_of(group)) - {group}
            if b"serve" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )

        os.kill(http, signal.SIGKILL)

        assert server.process.wait(timeout=30) == 1
        assert left_after(group) == []


def test_softmax_of_extreme_logits_is_finite_through_the_predictor(bundles: Bundles) -> None:
    predictor = Predictor.load(bundles("multi"), device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        head = predictor.backend.model.classifier  # type: ignore[attr-defined]
        patch.setattr(head.weight, "data", head.weight.data * 1e5)

        probabilities_NC = predictor.predict(TEXTS[:8])
        logits_NC = predictor.logits(predictor.encoder.encode(TEXTS[:8]))

    assert np.abs(logits_NC).max() > 1e4
    assert np.isfinite(probabilities_NC).all()
    assert ((probabilities_NC >= 0) & (probabilities_NC <= 1)).all()
