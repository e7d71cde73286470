"""Serving without PyTorch and transformers, as the `cpu` extra installs it.

A `sitecustomize` module hides both from every process, spawned ones included.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from altered import forge, manifest, without_export
from processes import ROOT, Server, children_of, free_port, run, running, wait_for

from serve.inference import placement
from serve.inference.predictor import Predictor

Bundles = Callable[[str], Path]

TEXT = "my parcel is late"
REMEDY = "pip install 'textloop[serve]'"


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables of a Python that cannot import PyTorch and transformers."""
    directory = tmp_path_factory.mktemp("light")
    code = "import sys\nsys.modules.update(torch=None, transformers=None)\n"
    (directory / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join([str(directory), str(ROOT)])}


@pytest.fixture(scope="module")
def served(
    bundles: Bundles, light: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, str]]:
    """A server with keys and traces, and a key."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    shown = run("-m", "serve", "key", "--name", "alice", **light).stdout.splitlines()
    keys.write_text(shown[-1] + "\n")
    overrides = [f"api_keys_file={keys}", "tracing=true"]
    with running(bundles("single"), *overrides, OTEL_TRACES_EXPORTER="console", **light) as server:
        yield server, shown[0]


@pytest.fixture(scope="module")
def expected(bundles: Bundles) -> dict[str, float]:
    """The scores of `TEXT` by label, computed with everything installed."""
    predictor = Predictor.load(bundles("single"), device="cpu", backend="onnx")
    scores_C = predictor.predict([TEXT])[0].tolist()
    return dict(zip(predictor.bundle.manifest.labels, scores_C, strict=True))


def by_label(entries: list[dict[str, Any]]) -> dict[str, float]:
    return {each["label"]: each["score"] for each in entries}


TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [TEXT]}

REQUESTS: dict[str, tuple[str, dict[str, Any], Callable[[Any], dict[str, float]]]] = {
    "native": ("/predict", {"inputs": TEXT}, by_label),
    "hugging face": ("/", {"inputs": TEXT, "parameters": {}}, lambda a: by_label(a[0])),
    "sagemaker": ("/invocations", {"inputs": TEXT}, by_label),
    "vertex": ("/vertex/predict", {"instances": [TEXT]}, lambda a: by_label(a["predictions"][0])),
    "kserve v1": (
        "/v1/models/textloop:predict",
        {"instances": [TEXT]},
        lambda answer: by_label(answer["predictions"][0]),
    ),
    "kserve v2": (
        "/v2/models/textloop/infer",
        {"inputs": [TENSOR]},
        lambda answer: next(each["data"] for each in answer["outputs"] if each["name"] == "scores"),
    ),
}


@pytest.mark.parametrize("protocol", REQUESTS)
def test_every_protocol_answers_without_pytorch(
    served: tuple[Server, str], expected: dict[str, float], protocol: str
) -> None:
    server, key = served
    path, body, read = REQUESTS[protocol]

    response = httpx.post(
        f"{server.url}{path}", json=body, headers={"authorization": f"Bearer {key}"}, timeout=60
    )

    assert response.status_code == 200, response.text
    found = read(response.json())
    if isinstance(found, list):
        found = dict(zip(expected, found, strict=True))
    assert found == pytest.approx(expected, abs=1e-4)


def test_keys_metrics_and_traces_work_without_pytorch(served: tuple[Server, str]) -> None:
    server, key = served
    headers = {"authorization": f"Bearer {key}"}

    assert server.post({"inputs": TEXT}).status_code == 401
    assert httpx.post(f"{server.url}/predict", json={"inputs": TEXT}, headers=headers).is_success
    assert 'backend="onnx"' in httpx.get(f"{server.url}/metrics").text
    assert httpx.get(f"{server.url}/info", headers=headers).json()["model_dtype"] == "int8"
    wait_for(lambda: "textloop.request_id" in server.log.read_text())


def test_no_process_of_an_int8_server_has_loaded_pytorch(serve: Callable[..., Server]) -> None:
    """Here both are installed."""
    processes = children_of(serve("single").process.pid)

    assert len(processes) >= 3
    for pid in processes:
        assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()


def test_files_are_classified_without_pytorch(
    bundles: Bundles, light: dict[str, str], expected: dict[str, float], tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text(f"text\n{TEXT}\n")
    files = ["--input", tmp_path / "in.csv", "--output", tmp_path / "out.csv"]

    done = run("-m", "serve", "predict", "--bundle", bundles("single"), *files, **light)

    assert done.returncode == 0, done.stderr
    (row,) = csv.DictReader((tmp_path / "out.csv").read_text().splitlines())
    assert row["predicted_label"] == max(expected, key=expected.__getitem__)
    assert float(row["predicted_score"]) == pytest.approx(max(expected.values()), abs=1e-4)


@pytest.fixture(scope="module")
def slow_tokenizer(bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose tokenizer says that it is written in Python."""
    destination = tmp_path_factory.mktemp("slow") / "bundle"
    return forge(bundles("single"), destination, manifest(tokenizer={"fast": False}))


@pytest.fixture(scope="module")
def full_precision(bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return forge(bundles("single"), tmp_path_factory.mktemp("full") / "bundle", without_export)


REFUSED = [
    ("full_precision", "auto", "auto", "the bundle has no int8 export"),
    ("single", "auto", "torch", "needs PyTorch (backend torch: requested)"),
    ("single", "cuda", "auto", "device `cuda` requested"),
    ("slow_tokenizer", "auto", "auto", "its tokenizer is not a fast one"),
]


@pytest.mark.parametrize(("kind", "device", "backend", "message"), REFUSED)
@pytest.mark.parametrize("command", ["run", "predict"])
def test_what_needs_pytorch_is_refused_with_the_remedy(
    bundles: Bundles,
    light: dict[str, str],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    command: str,
    kind: str,
    device: str,
    backend: str,
    message: str,
) -> None:
    bundle = bundles(kind) if kind == "single" else request.getfixturevalue(kind)
    arguments = ["-m", "serve", command, "--bundle", bundle, "--device", device]
    if command == "run":
        arguments += ["--port", free_port(), f"backend={backend}"]
    else:
        (tmp_path / "in.jsonl").write_text(json.dumps({"text": TEXT}) + "\n")
        files = ["--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl"]
        arguments += ["--backend", backend, *files]

    done = run(*arguments, **light)

    assert done.returncode == 2, done.stderr
    (line,) = (each for each in done.stderr.splitlines() if each.startswith("error: "))
    assert message in line
    assert REMEDY in line
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("hidden", ["torch", "transformers"])
def test_half_an_installation_is_none(bundles: Bundles, tmp_path: Path, hidden: str) -> None:
    """Hidden by a finder that raises, not by an entry of `sys.modules`."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == '{hidden}':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
    )
    arguments = ["-m", "serve", "run", "--bundle", bundles("single"), "backend=torch"]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])

    done = run(*arguments, "--port", free_port(), PYTHONPATH=path)

    assert done.returncode == 2, done.stderr
    assert f"but `{hidden}` is not installed" in done.stderr
    assert REMEDY in done.stderr


def test_a_gpu_without_pytorch_leaves_the_work_to_the_cpu_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(placement, "GPU_NODES", ("/dev/null",))
    monkeypatch.setattr(placement, "is_installed", lambda name: False)

    assert placement.pick_device("auto") == "cpu"
    assert "there is a GPU, but `torch` and `transformers` are not installed" in caplog.text
    with pytest.raises(ValueError, match=r"device `cuda:1` requested, but `torch`"):
        placement.pick_device("cuda:1")
