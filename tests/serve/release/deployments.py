"""Deployment directories, bundles that differ, and servers that follow releases."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
from altered import config, head
from processes import Server, run, wait_for
from rows import make_rows, write_jsonl

from serve.bundle.seal import open_bundle
from serve.inference.predictor import Predictor
from serve.release.bundles import deploy
from serve.release.change import promote
from serve.release.pointer import POINTER, Pointer, pointer_bytes, read_pointer
from serve.release.servers import ServerStatus, live_servers


def reversed_labels(bundle: Path, destination: Path) -> Path:
    """The same model with its labels in the other order, imported with an export of its own."""
    labels = open_bundle(bundle).manifest.labels[::-1]
    source = destination.with_name("source")
    ours = shutil.ignore_patterns("manifest.json", "golden.json", "onnx")
    shutil.copytree(bundle, source, ignore=ours)
    names = {str(number): label for number, label in enumerate(labels)}
    numbers = {label: number for number, label in enumerate(labels)}
    config(id2label=names, label2id=numbers)(source, {})
    head(lambda tensor: np.ascontiguousarray(tensor[::-1]))(source, {})
    texts = write_jsonl(destination.with_name("texts.jsonl"), make_rows(150, seed=5))
    assert run("-m", "train", "import", source, "--output", destination, "--texts", texts,
               "--text-columns", "text").returncode == 0  # fmt: skip
    int8 = open_bundle(destination).manifest.int8
    assert int8 is not None
    assert int8.shipped
    return destination


class Following(Server):
    """A server of a deployment directory."""

    def __init__(self, directory: Path, *overrides: str) -> None:
        self.directory = directory
        super().__init__(directory, *overrides, option="--deployment")

    def ask(self, text: str = "my parcel", path: str = "/predict") -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json={"inputs": text}, timeout=60)

    def status(self) -> ServerStatus:
        """What the server says of itself."""
        own = [each for each in live_servers(self.directory) if each.pid == self.process.pid]
        assert len(own) == 1
        return own[0]

    def reaches(self, generation: int) -> ServerStatus:
        """Wait until the server answers by a generation, or has refused it."""

        def found() -> ServerStatus | None:
            status = self.status()
            refused = status.refused is not None and status.refused.generation == generation
            return status if refused or status.generation == generation else None

        status: ServerStatus = wait_for(found, seconds=60)
        return status


@contextmanager
def following(directory: Path, *overrides: str) -> Iterator[Following]:
    """Run a server of a deployment directory for the duration of a `with` block."""
    server = Following(directory, *overrides)
    try:
        yield server
    finally:
        server.kill()


def released(directory: Path, *bundles: Path) -> list[str]:
    """Deploy bundles and promote the first; return their versions."""
    versions = [deploy(directory, str(each)) for each in bundles]
    promote(directory, versions[0], who="test")
    return versions


def point_to(directory: Path, version: str) -> int:
    """Write a pointer without the checks of `promote`; return its generation."""
    before = read_pointer(directory)
    assert before is not None
    values = before.model_dump() | {
        "generation": before.generation + 1,
        "champion": version,
        "previous": before.champion,
    }
    new = directory / f"{POINTER}.new"
    new.write_bytes(pointer_bytes(Pointer.model_validate(values)))
    new.replace(directory / POINTER)
    return before.generation + 1


def scores_by(predictor: Predictor, texts: list[str]) -> dict[str, dict[str, float]]:
    """Scores by label of each text."""
    labels = predictor.bundle.manifest.labels
    return {
        text: dict(zip(labels, map(float, row), strict=True))
        for text, row in zip(texts, predictor.predict(texts), strict=True)
    }


def scores_of(response: httpx.Response) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in json.loads(response.content)}
