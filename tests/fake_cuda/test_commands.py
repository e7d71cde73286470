"""The commands as users run them, in processes that see the pretended device."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from altered import forge, manifest
from processes import run, running

from fake_cuda.build import LIBRARY
from serve.bundle.seal import open_bundle
from serve.inference.predictor import Predictor
from serve.release.change import promote
from tests.serve.release.deployments import following, released

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(LIBRARY not in os.environ, reason="starts processes with the device"),
]


@pytest.mark.parametrize(("bf16", "precision"), [(True, "bf16"), (False, "tf32")])
def test_train_run_is_not_refused(
    make_config: Callable[..., dict[str, Any]],
    tmp_path: Path,
    bf16: bool,
    precision: str,
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(make_config(tmp_path / "run", trainer={"bf16": bf16})))

    for printed in (f"precision: {precision}", "fit: "):  # the second run does not fit again
        result = run("-m", "train", "run", "--config", config)
        assert result.returncode == 0, result.stderr
        assert printed in result.stdout

    parity = open_bundle(tmp_path / "run" / "bundle").manifest.parity
    assert max(parity["adapter_merged"], parity["adapter_reloaded"]) <= 1e-4
    live = 0.3 if bf16 else 1e-4  # the trained model is evaluated in fp32, not in TF32
    assert parity["live_bf16" if bf16 else "adapter_live"] <= live
    fitted = json.loads((tmp_path / "run" / "adapter" / "fit.json").read_text())
    assert fitted["precision"] == precision


def test_a_server_reports_that_it_runs_without_padding(bundles: Callable[[str], Path]) -> None:
    texts = ["my parcel is late", "please help me again", "the code"]
    on_cpu_NC = Predictor.load(bundles("single"), device="cpu", backend="torch").predict(texts)

    with running(bundles("single")) as server:
        answer = server.post({"inputs": texts}).json()
        info = httpx.get(f"{server.url}/info").json()
        metrics = httpx.get(f"{server.url}/metrics").text

    assert [row[0]["score"] for row in answer] == pytest.approx(on_cpu_NC.max(axis=1), abs=0.05)
    assert (info["device"], info["model_dtype"], info["packed"]) == ("cuda", "bf16", True)
    assert info["packed_reason"] == "its logits are those of padded batches"
    assert info["max_batch_tokens"] in (4096, 8192, 16384, 32768)
    assert "\ntextloop_packed 1.0\n" in metrics
    assert "\ntextloop_padding_tokens_total 0.0\n" in metrics


def test_two_versions_are_live_on_the_device(
    bundles: Callable[[str], Path], tmp_path: Path
) -> None:
    created = manifest(created="2006-01-01T00:00:00+00:00")
    second = forge(bundles("single"), tmp_path / "second", created)
    directory = tmp_path / "dep"
    versions = released(directory, bundles("single"), second)
    body = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a parcel"]}]}

    with following(directory) as server:
        status = server.reaches(promote(directory, versions[1], who="test").pointer.generation)
        answers = [
            httpx.post(f"{server.url}/v2/models/textloop/versions/{version}/infer", json=body)
            for version in versions
        ]
        info = httpx.get(f"{server.url}/info").json()

    assert status.refused is None
    assert [answer.json()["model_version"] for answer in answers] == versions
    assert answers[0].json()["outputs"] == answers[1].json()["outputs"]  # the same weights
    assert (info["device"], info["model_dtype"]) == ("cuda", "bf16")
    assert info["arms"] == {"champion": versions[1], "retired": versions[0]}
