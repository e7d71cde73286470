"""The extras install what is needed and no more; the container is built by the same steps."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from processes import ROOT

from scripts.local_server import free_port, wait_until_ready

CONSTRAINTS = (ROOT / "constraints.txt").read_text()
DOCKERFILE = (ROOT / "Dockerfile.gpu").read_text()


def test_every_pin_is_exact_and_litserve_is_the_version_whose_internals_we_use() -> None:
    lines = [line for line in CONSTRAINTS.splitlines() if not line.startswith("#")]

    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][^+;]*", line) for line in lines)
    assert "litserve==0.2.19" in lines
    assert '"litserve==0.2.19"' in (ROOT / "pyproject.toml").read_text()


def requirements_of(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    """Requirements of an installed distribution with some of its extras on this machine."""
    for line in importlib.metadata.requires(name) or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            yield requirement


def test_every_direct_and_transitive_dependency_is_pinned() -> None:
    pinned = {canonicalize_name(line.split("==")[0]) for line in CONSTRAINTS.splitlines()}
    todo = [("textloop", frozenset({"dev"}))]
    seen = set()
    while todo:
        name, extras = todo.pop()
        for requirement in requirements_of(name, extras):
            item = (canonicalize_name(requirement.name), frozenset(requirement.extras))
            if item not in seen:
                seen.add(item)
                todo.append(item)

    # PyTorch's CUDA build itself pins these libraries to exact versions.
    names = {name for name, _ in seen if not name.startswith(("nvidia-", "cuda-", "triton"))}
    assert len(names) > 60
    assert names - {"textloop"} <= pinned


def test_every_extra_is_used_by_the_script_that_installs_each_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    script = runpy.run_path(str(ROOT / "scripts" / "check_extras"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert set(script["USES"]) - {""} == set(project["optional-dependencies"]) - {"dev"}


def test_container_is_built_by_the_steps_of_the_scripts() -> None:
    assert "RUN scripts/install" in DOCKERFILE
    assert "scripts/install dev" in (ROOT / "scripts" / "setup").read_text()
    assert "--constraint constraints.txt" in (ROOT / "scripts" / "install").read_text()
    assert "pip install" not in DOCKERFILE


def test_container_copies_what_exists_and_is_let_in_by_dockerignore() -> None:
    allowed = re.findall(r"^!(\S+?)/?$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    sources = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
        if not source.startswith("--")
    ]

    assert len(sources) >= 8
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(source == name or source.startswith(f"{name}/") for name in allowed), source


def test_container_does_not_run_as_root_and_says_whether_it_is_healthy() -> None:
    last = DOCKERFILE.rpartition("FROM ")[2]

    (user,) = re.findall(r"^USER (.*)$", last, re.MULTILINE)
    assert int(user) > 0  # by number, for Kubernetes' runAsNonRoot
    assert f"--uid {user} " in last
    assert "HEALTHCHECK" in last
    assert '"textloop", "serve"' in last


def test_container_installs_the_dependencies_before_it_copies_code() -> None:
    build = DOCKERFILE.partition("\nFROM ")[2].partition("\nFROM ")[0]
    before, _, after = build.partition('scripts/install "$EXTRAS"')

    for code in ("README.md LICENSE", "train", "serve"):
        assert f"COPY {code} " not in before
        assert f"COPY {code} " in after.partition("RUN scripts/install code")[0]


def test_container_takes_its_base_as_an_argument() -> None:
    assert re.search(r"^ARG BASE=\S+:\S+$", DOCKERFILE, re.MULTILINE)
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${BASE}", "${BASE}"]


def test_check_of_the_container_ignores_one_that_trains() -> None:
    """Run the health check's code here, where process 1 is not a server."""
    code = re.search(r'HEALTHCHECK .*?"-c", \\\n\s+"(.*?)"\]', DOCKERFILE, re.DOTALL)
    assert code is not None

    assert subprocess.run([sys.executable, "-c", code[1]], check=False).returncode == 0


def test_container_takes_serve_as_its_argument(bundles: Callable[[str], Path]) -> None:
    """Started as by SageMaker: port 8080 on all addresses; only the bundle is in another place."""
    assert "COPY scripts/container-serve /usr/local/bin/serve" in DOCKERFILE
    python = Path(sys.executable)
    environment = os.environ | {
        "BUNDLE": str(bundles("single")),
        "PATH": f"{python.parent}:{os.environ['PATH']}",
    }
    process = subprocess.Popen(
        ["scripts/container-serve", "--port", str(port := free_port())], cwd=ROOT, env=environment
    )
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/ping", process)
    finally:
        process.terminate()
        assert process.wait(timeout=60) == 0


def test_vertex_variables_say_where_to_listen(bundles: Callable[[str], Path]) -> None:
    environment = os.environ | {"AIP_HTTP_PORT": str(port := free_port())}
    process = subprocess.Popen(
        [sys.executable, "-m", "serve", "run", "--bundle", bundles("single")],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/health", process)
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=60)
    assert f"http://127.0.0.1:{port}" in output


@pytest.mark.slow
def test_serve_extra_alone_serves_a_bundle(bundles: Callable[[str], Path], tmp_path: Path) -> None:
    """Install from the package index into a fresh environment, and query a server there."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    environment = os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}"}
    subprocess.run(["scripts/install", "serve"], cwd=ROOT, env=environment, check=True)
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    names = {item["name"] for item in json.loads(listed)}
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [python, "-m", "serve", "run", "--bundle", bundles("single"), "--port", str(port)],
        cwd=tmp_path,
    )
    try:
        wait_until_ready(f"{url}/health", server)
        answer = httpx.post(f"{url}/predict", json={"inputs": "my parcel is late"}, timeout=60).text
    finally:
        server.terminate()
        assert server.wait(timeout=60) == 0

    assert not names & {"peft", "datasets", "accelerate", "evaluate", "pandas", "pyarrow"}
    assert {entry["label"] for entry in json.loads(answer)} == {"billing", "delivery", "login"}
