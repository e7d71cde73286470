"""A request is answered by the arm that it took: no answer mixes two bundles."""

from __future__ import annotations

import ast
import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from altered import both, config, forge, golden_again, manifest
from fastapi import FastAPI
from processes import ROOT, running
from rows import make_rows

from serve.bundle.seal import Bundle, open_bundle
from serve.engine.admission import Admission
from serve.engine.metrics import HttpMetrics
from serve.http.api import build
from serve.http.arms.arm import Arm, build_arm
from serve.http.arms.roles import first_arms
from serve.http.service import Service
from serve.settings import ServeConfig

TEXTS = [row["text"] for row in make_rows(40, seed=77)]

BODIES: dict[str, Callable[[str], bytes]] = {
    "/predict": lambda text: json.dumps({"inputs": [text]}).encode(),
    "/v1/models/textloop:predict": lambda text: json.dumps({"instances": [text]}).encode(),
    "/v2/models/textloop/infer": lambda text: json.dumps(
        {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]}
    ).encode(),
    "/invocations": lambda text: json.dumps({"inputs": [text]}).encode(),
    "/vertex/predict": lambda text: json.dumps({"instances": [{"text": text}]}).encode(),
}

HTTP = ROOT / "serve" / "http"

OF_THE_SERVER = {"config", "metrics", "classify"}
"""What all modules but the middleware may read from the service."""


def service_reads(file: Path) -> set[str]:
    """Attributes that a module reads from a `service`, or from `self.service`."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", None)
            if name == "service":
                found.add(node.attr)
    return found


def test_nothing_of_a_bundle_is_read_from_the_service() -> None:
    reads = {file.name: service_reads(file) - OF_THE_SERVER for file in HTTP.rglob("*.py")}

    assert {name: names for name, names in reads.items() if names} == {
        "edge.py": {"arms"},
        "follow.py": {"arms"},
    }


def test_the_middleware_takes_the_arm_once() -> None:
    assert (HTTP / "edge.py").read_text().count("service.arms") == 1
    assert (HTTP / "service.py").read_text().count("self.arms") == 1  # set by the constructor


def renamed(bundle: Path, destination: Path) -> Path:
    """The same weights sealed with labels of other names, so with another version."""
    labels = [f"new {label}" for label in open_bundle(bundle).manifest.labels]
    names = {str(number): label for number, label in enumerate(labels)}
    numbers = {label: number for number, label in enumerate(labels)}
    named = both(manifest(labels=labels), config(id2label=names, label2id=numbers))
    change = both(named, golden_again)
    return forge(bundle, destination, change)


@pytest.fixture(scope="module")
def arms(
    bundles: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], tuple[Arm, Arm]]]:
    """Two arms of real model processes; labels, task and weights differ."""
    old = bundles("single")
    new = renamed(bundles("multi"), tmp_path_factory.mktemp("arms") / "bundle")
    with ExitStack() as stack:
        sides: list[tuple[Bundle, list[Path]]] = []
        for path in (old, new):
            runtime = tmp_path_factory.mktemp("runtime")
            stack.enter_context(running(path, TMPDIR=str(runtime)))
            sides.append((open_bundle(path), sorted(runtime.glob("textloop-*/model-*.sock"))))

        def connect() -> tuple[Arm, Arm]:
            made = []
            for bundle, sockets in sides:
                config = ServeConfig()
                metrics = HttpMetrics()
                admission = Admission(
                    max_tokens=10**6, processes=1, timeout_s=30, gauge=metrics.inflight_tokens
                )
                arm = build_arm(bundle, config, device="cpu", admission=admission, metrics=metrics)
                arm.pool.paths = sockets
                arm.pool.start()
                made.append(arm)
            return made[0], made[1]

        yield connect


def scores_in(path: str, answer: Any) -> dict[str, float]:
    """Label and score of a response; of V2, whose scores have no names, the best label's."""
    if path.startswith("/v2"):
        label, scores = answer["outputs"]
        return {label["data"][0]: max(scores["data"])}
    rows = answer["predictions"] if isinstance(answer, dict) else answer
    return {entry["label"]: entry["score"] for entry in rows[0]}


async def ready(*arms: Arm) -> None:
    for _ in range(200):
        if all([await arm.is_ready() for arm in arms]):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the arms are not ready")


def test_no_answer_mixes_two_arms_that_are_switched_while_requests_wait(
    arms: Callable[[], tuple[Arm, Arm]],
) -> None:
    expected: dict[tuple[str, str, str], dict[str, float]] = {}

    async def scenario() -> list[tuple[str, str, Arm, httpx.Response]]:
        old, new = arms()
        await ready(old, new)
        metrics = HttpMetrics()
        both = {arm: first_arms(arm, metrics) for arm in (old, new)}
        service = Service(both[old], ServeConfig(), metrics)
        transport = httpx.ASGITransport(app=build(FastAPI(), service, None))

        async def ask(path: str, text: str) -> tuple[str, str, Arm, httpx.Response]:
            taken: list[Arm] = []

            async def body() -> AsyncIterator[bytes]:
                content = BODIES[path](text)
                took = service.arms.champion.arm  # the request's own: it took it before its body
                taken.append(took)
                service.arms = both[new if took is old else old]
                yield content[:5]
                await asyncio.sleep(0.001)  # others switch
                yield content[5:]

            response = await client.post(path, content=body())
            return path, text, taken[0], response

        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for arm in (old, new):
                service.arms = both[arm]
                for path in BODIES:
                    for text in TEXTS:
                        alone = await client.post(path, content=BODIES[path](text))
                        expected[arm.version, path, text] = scores_in(path, alone.json())
            answers = [
                answer
                for start in range(0, len(TEXTS), 8)
                for answer in await asyncio.gather(
                    *(ask(path, text) for text in TEXTS[start : start + 8] for path in BODIES)
                )
            ]
        for arm in (old, new):
            await arm.pool.close()
        return answers

    answers = asyncio.run(scenario())

    assert len({arm.version for _, _, arm, _ in answers}) == 2
    for path, text, arm, response in answers:
        assert response.status_code == 200, response.text
        assert response.headers["x-model-version"] == arm.version
        found = scores_in(path, response.json())
        assert found == pytest.approx(expected[arm.version, path, text], abs=1e-4)


def test_info_openapi_and_model_paths_are_those_of_the_arm(
    arms: Callable[[], tuple[Arm, Arm]],
) -> None:
    async def scenario() -> None:
        old, new = arms()
        await ready(old, new)
        metrics = HttpMetrics()
        both = {arm: first_arms(arm, metrics) for arm in (old, new)}
        service = Service(both[old], ServeConfig(), metrics)
        transport = httpx.ASGITransport(app=build(FastAPI(), service, None))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for arm, other in ((old, new), (new, old)):
                service.arms = both[arm]
                info = (await client.get("/info")).json()
                document = (await client.get("/openapi.json")).json()
                path = "/v2/models/textloop/versions"

                assert info["model_version"] == arm.version
                assert info["labels"] == list(arm.manifest.labels)
                entry = document["paths"]["/v2/models/{name}/versions/{version}"]["get"]
                examples = [
                    parameter["schema"]["examples"]
                    for parameter in entry["parameters"]
                    if parameter["name"] == "version"
                ]
                assert examples == [[arm.version]]
                assert (await client.get(f"{path}/{arm.version}")).status_code == 200
                assert (await client.get(f"{path}/{other.version}")).status_code == 404
                metadata = (await client.get("/v2/models/textloop")).json()
                assert metadata["versions"] == [arm.version]
        for arm in (old, new):
            await arm.pool.close()

    asyncio.run(scenario())
