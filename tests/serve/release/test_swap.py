"""A server follows the releases of its deployment directory, and no request notices."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from altered import forge, golden_cases, head, manifest, without_export
from processes import left_after, wait_for, workers_of
from prometheus_client.parser import text_string_to_metric_families
from rows import make_rows

from serve.bundle.seal import open_bundle
from serve.inference.predictor import Predictor
from serve.release.bundles import deploy
from serve.release.change import promote, rollback
from serve.release.pointer import bundle_path
from tests.serve.release.deployments import (
    Following,
    following,
    point_to,
    released,
    reversed_labels,
    scores_by,
    scores_of,
)

TEXTS = [row["text"] for row in make_rows(40, seed=13)]
Bundles = Callable[[str], Path]


@pytest.fixture(scope="module")
def pair(bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two versions of one bundle."""
    created = manifest(created="2001-01-01T00:00:00+00:00")
    path = tmp_path_factory.mktemp("second") / "bundle"
    return bundles("single"), forge(bundles("single"), path, created)


@pytest.fixture(scope="module")
def server(
    pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Following]:
    directory = tmp_path_factory.mktemp("deployment") / "dep"
    released(directory, *pair)
    with following(directory, "api_processes=2") as started:
        yield started


class Load:
    """Threads that ask one text after the other, on connections of their own, without retries."""

    def __init__(self, server: Following, paths: list[str]) -> None:
        self.server = server
        self.paths = paths
        self.answers: list[tuple[str, str, httpx.Response]] = []
        self.errors: list[Exception] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(4)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        with httpx.Client(timeout=60) as client:
            while not self._over.is_set():
                number += 1
                text, path = TEXTS[number % len(TEXTS)], self.paths[number % len(self.paths)]
                try:
                    response = client.post(f"{self.server.url}{path}", json={"inputs": text})
                except httpx.HTTPError as error:
                    self.errors.append(error)
                    return
                self.answers.append((text, path, response))


@pytest.mark.slow
def test_every_answer_is_one_versions_while_versions_change(
    server: Following, bundles: Bundles, tmp_path: Path
) -> None:
    """The labels of the two versions are in another order."""
    old, new = bundles("single"), reversed_labels(bundles("single"), tmp_path / "bundle")
    expected = {}
    for path in (old, new):
        predictor = Predictor.load(path, device="cpu")
        expected[predictor.bundle.manifest.version] = scores_by(predictor, TEXTS)
    versions = list(expected)
    deploy(server.directory, str(new))

    with Load(server, ["/predict", "/invocations"]) as load:
        for turn in (1, 0, 1, 0):
            changed = promote(server.directory, versions[turn], who="test")
            generation = changed.pointer.generation
            assert server.reaches(generation).version == versions[turn]
            before = len(load.answers)
            wait_for(lambda before=before: len(load.answers) > before + 20)

    assert load.errors == []
    seen = set()
    for text, _, response in load.answers:
        assert response.status_code == 200
        version = response.headers["x-model-version"]
        seen.add((version, response.headers["x-model-generation"]))
        found = scores_of(response)
        assert next(iter(found)) == max(found, key=lambda label: found[label])
        assert found == pytest.approx(expected[version][text], abs=1e-3)
    assert len(seen) >= 4


def test_any_live_version_can_be_addressed(server: Following, pair: tuple[Path, Path]) -> None:
    old, new = (open_bundle(path).manifest.version for path in pair)
    body = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a parcel"]}]}
    generation = promote(server.directory, new, who="test").pointer.generation
    server.reaches(generation)

    def ask(version: str) -> httpx.Response:
        path = f"/v2/models/textloop/versions/{version}"
        return httpx.post(f"{server.url}{path}/infer", json=body)

    for version in (old, new):
        answer = ask(version)
        assert answer.json()["model_version"] == version
        assert answer.headers["x-model-version"] == version
        assert answer.headers["x-model-generation"] == str(generation)
    assert ask("0" * 12).status_code == 404
    assert ask("0" * 12).json()["error"].endswith(f"this server has `{new}` and `{old}`")
    metadata = httpx.get(f"{server.url}/v2/models/textloop").json()
    assert metadata["versions"] == [new, old]
    server.reaches(rollback(server.directory, who="test").pointer.generation)


def kept(server: Following, champion: str) -> dict[str, Any]:
    """/info of a server that answers as before."""
    answer = server.ask()
    assert answer.status_code == 200
    assert answer.headers["x-model-version"] == champion
    about: dict[str, Any] = httpx.get(f"{server.url}/info").json()
    return about


def truncated(path: Path) -> None:
    file = path / "model.safetensors"
    os.truncate(file, file.stat().st_size // 2)


def altered(path: Path) -> None:
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(data)


def of_another(path: Path) -> None:
    """Another bundle in the place of this version."""
    values = manifest(created="2001-01-01T00:00:00+00:00")
    forge(path, path.with_name("forged"), values)
    for name in sorted(path.rglob("*"), reverse=True):
        name.unlink() if name.is_file() else name.rmdir()
    path.rmdir()
    path.with_name("forged").rename(path)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (truncated, "was altered or truncated"),
        (altered, "was altered or truncated"),
        (of_another, "holds version"),
        (lambda path: (path / "config.json").unlink(), "`config.json` is missing"),
    ],
)
def test_what_was_altered_after_deploy_is_refused(
    server: Following,
    pair: tuple[Path, Path],
    tmp_path: Path,
    harm: Callable[[Path], None],
    reason: str,
) -> None:
    champion = server.ask().headers["x-model-version"]
    created = manifest(created=f"2002-01-01T00:00:00+00:00 {tmp_path.name}")
    version = deploy(server.directory, str(forge(pair[0], tmp_path / "bundle", created)))
    harm(bundle_path(server.directory, version))

    status = server.reaches(point_to(server.directory, version))

    assert status.refused is not None
    assert reason in status.refused.reason
    assert status.version == champion
    about = kept(server, champion)
    assert about["refused"]["version"] == version
    assert reason in about["refused"]["reason"]


@pytest.mark.slow
def test_other_labels_and_tasks_are_refused(
    server: Following, bundles: Bundles, tmp_path: Path
) -> None:
    champion = server.ask().headers["x-model-version"]
    for kind, reason in (("binary", "does not know"), ("multi", "its task is multi_label")):
        version = deploy(server.directory, str(bundles(kind)))
        status = server.reaches(point_to(server.directory, version))
        assert status.refused is not None
        assert reason in status.refused.reason
        kept(server, champion)


@pytest.mark.slow
def test_a_candidate_that_cannot_be_loaded_is_refused(
    server: Following, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """NaN weights, other golden logits, a process that dies while it loads; and metrics say so."""
    champion = server.ask().headers["x-model-version"]

    def refused() -> float:
        text = httpx.get(f"{server.url}/metrics").text
        families = text_string_to_metric_families(text)
        (family,) = (each for each in families if each.name == "textloop_releases_refused")
        return family.samples[0].value

    before = refused()
    broken = forge(
        pair[0],
        tmp_path / "nan",
        lambda path, values: (
            without_export(path, values),
            head(lambda tensor: np.full_like(tensor, np.nan))(path, values),
        ),
    )
    status = server.reaches(point_to(server.directory, deploy(server.directory, str(broken))))
    assert status.refused is not None
    assert "not finite" in status.refused.reason
    kept(server, champion)

    def other(case: dict[str, Any]) -> None:
        case["logits"] = {name: [x + 1 for x in v] for name, v in case["logits"].items()}

    wrong = forge(pair[0], tmp_path / "wrong", golden_cases(other))
    status = server.reaches(point_to(server.directory, deploy(server.directory, str(wrong))))
    assert status.refused is not None
    assert "does not answer as when it was sealed" in status.refused.reason
    kept(server, champion)

    fresh = forge(pair[0], tmp_path / "killed", manifest(created="2003-01-01T00:00:00+00:00"))
    version = deploy(server.directory, str(fresh))
    known = set(workers_of(server.process.pid))
    generation = point_to(server.directory, version)
    (born,) = wait_for(lambda: set(workers_of(server.process.pid)) - known)
    os.kill(born, signal.SIGKILL)
    status = server.reaches(generation)
    assert status.refused is not None
    assert "exited with code -9" in status.refused.reason
    kept(server, champion)
    assert refused() == before + 3


@pytest.mark.slow
def test_a_retired_group_goes_with_its_processes(pair: tuple[Path, Path], tmp_path: Path) -> None:
    directory = tmp_path / "dep"
    old, new = released(directory, *pair)
    with following(directory, "keep_s=0.2") as server:
        group = server.process.pid
        for version in (new, old, new):
            server.reaches(promote(directory, version, who="test").pointer.generation)
            wait_for(lambda: server.status().retired is None)
            wait_for(lambda: len(workers_of(group)) == 1)
        assert server.stop() == 0
        assert left_after(group) == []


def test_the_version_before_answers_where_the_champion_cannot_be_served(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    directory = tmp_path / "dep"
    old, new = released(directory, *pair)
    promote(directory, new, who="test")
    truncated(bundle_path(directory, new))

    with following(directory) as server:
        answer = server.ask()
        status = server.status()

    assert answer.headers["x-model-version"] == old
    assert status.refused is not None
    assert status.refused.version == new
    assert left_after(server.process.pid) == []


def test_a_directory_without_a_promotion_is_refused(bundles: Bundles, tmp_path: Path) -> None:
    deploy(tmp_path / "dep", str(bundles("single")))

    with pytest.raises(RuntimeError, match=r"nothing was promoted in .*textloop promote"):
        Following(tmp_path / "dep")
