"""Client libraries as their users have them, each in a process or a library of its own.

`-m clients` runs these alone. One that is not installed is skipped with how to get it:

    java, curl and node     the system's packages default-jdk-headless, curl and nodejs
    @huggingface/inference  npm install --prefix DIR @huggingface/inference; CLIENTS_NODE=DIR
    kserve                  python -m venv DIR; DIR/bin/pip install kserve; CLIENTS_KSERVE=DIR
                            (its psutil is older than ours, so it needs a place of its own)
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from answers import PAIRS, TEXTS, StartServer, assert_same, native

pytestmark = pytest.mark.clients

PROGRAMS = Path(__file__).parent / "clients"
LABELS = ["billing", "delivery", "login"]

ROUTES = {
    "/predict": {"inputs": TEXTS, "parameters": {}},
    "/invocations": {"inputs": TEXTS},
    "/v1/models/textloop:predict": {"instances": TEXTS},
}


def program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"`{name}` is not installed; get it with `apt-get install {package}`")
    return found


def directory(variable: str, command: str) -> Path:
    """A directory that a variable names; the test is skipped with the command that makes one."""
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set; make its directory with `{command}`")
    return Path(os.environ[variable])


def output_of(*command: object) -> str:
    result = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def rows_of(answer: Any) -> Any:
    return answer["predictions"] if isinstance(answer, dict) else answer


@pytest.mark.slow
def test_java_client_that_offers_http_2(serve: StartServer) -> None:
    server = serve("single")
    java = program("java", "default-jdk-headless")
    requests = [(server.url + path, json.dumps(body)) for path, body in ROUTES.items()]

    lines = output_of(java, PROGRAMS / "Client.java", *sum(requests, ())).splitlines()

    assert len(lines) == 2 * len(ROUTES)
    for line in lines:
        status, _, body = line.partition(" ")
        assert status == "200", line
        assert_same(rows_of(json.loads(body)), native(server, TEXTS))


@pytest.mark.parametrize("path", ROUTES)
def test_curl_that_offers_http_2(serve: StartServer, path: str) -> None:
    server = serve("single")
    curl = program("curl", "curl")

    answer = output_of(
        *(curl, "--silent", "--show-error", "--fail-with-body", "--http2", server.url + path),
        *("-H", "content-type: application/json", "-d", json.dumps(ROUTES[path])),
    )

    assert_same(rows_of(json.loads(answer)), native(server, TEXTS))


@pytest.mark.parametrize("path", ["", "/", "/predict"])
def test_hugging_face_client_of_javascript(serve: StartServer, path: str) -> None:
    server = serve("single")
    node = program("node", "nodejs")
    package = directory("CLIENTS_NODE", "npm install --prefix DIR @huggingface/inference")

    answers = json.loads(
        output_of(node, PROGRAMS / "client.mjs", package, server.url + path, TEXTS[0])
    )

    [everything], [two] = native(server, TEXTS[:1]), native(server, TEXTS[:1], top_k=2)
    assert_same(answers, [everything, everything, two, everything])


def test_kserve_sdk_of_both_protocols(serve: StartServer) -> None:
    server = serve("single")
    command = "python -m venv DIR; DIR/bin/pip install kserve"
    environment = directory("CLIENTS_KSERVE", command)

    output = output_of(
        environment / "bin" / "python", PROGRAMS / "kserve_sdk.py", server.url, json.dumps(TEXTS)
    )

    expected = native(server, TEXTS)
    first, *second = json.loads(output.splitlines()[-1])
    assert_same(first["predictions"], native(server, TEXTS, top_k=2))
    for answer in second:
        assert answer["id"] == "seven"
        assert answer["labels"] == [row[0]["label"] for row in expected]
        scores = [{entry["label"]: entry["score"] for entry in row} for row in expected]
        for row, wanted in zip(answer["scores"], scores, strict=True):
            assert row == pytest.approx([wanted[label] for label in LABELS], abs=1e-5)


def runtime(url: str) -> Any:
    """A client of SageMaker's runtime whose endpoint is this server."""
    boto3 = pytest.importorskip("boto3", reason="boto3 comes with the extra `dev`")
    from botocore.config import Config

    return boto3.client(
        "sagemaker-runtime",
        endpoint_url=url,
        region_name="eu-west-1",
        aws_access_key_id="nobody",
        aws_secret_access_key="nothing",
        config=Config(retries={"max_attempts": 0}, inject_host_prefix=False),
    )


@pytest.fixture
def endpoint(serve: StartServer, request: pytest.FixtureRequest) -> Any:
    """`invoke(**arguments)` of boto3, with SageMaker's proxy between it and the container."""
    from sagemaker_proxy import proxied

    server = serve(getattr(request, "param", "single"))
    with proxied(server.url) as url:
        client = runtime(url)
        yield lambda **arguments: client.invoke_endpoint(EndpointName="bank", **arguments)


def test_boto3_sends_json_lines_and_gets_a_line_per_record(
    serve: StartServer, endpoint: Any
) -> None:
    body = "".join(json.dumps({"inputs": text}) + "\n" for text in TEXTS)

    response = endpoint(
        Body=body, ContentType="application/jsonlines", Accept="application/jsonlines"
    )

    assert response["ContentType"] == "application/jsonlines"
    lines = response["Body"].read().decode().splitlines()
    assert_same([json.loads(line) for line in lines], native(serve("single"), TEXTS))


def test_boto3_sends_a_batch_of_csv_with_its_header(serve: StartServer, endpoint: Any) -> None:
    body = "inputs\n" + "".join(f'"{text}"\n' for text in TEXTS)

    response = endpoint(Body=body, ContentType="text/csv", Accept="application/json")

    assert_same(json.loads(response["Body"].read()), native(serve("single"), TEXTS))


def test_boto3_sends_json_without_a_content_type(serve: StartServer, endpoint: Any) -> None:
    response = endpoint(Body=json.dumps({"inputs": TEXTS}))

    assert_same(json.loads(response["Body"].read()), native(serve("single"), TEXTS))


@pytest.mark.parametrize("endpoint", ["pair"], indirect=True)
def test_boto3_sends_pairs(serve: StartServer, endpoint: Any) -> None:
    body = "\n".join(json.dumps({"text": a, "text_pair": b, "id": 1}) for a, b in PAIRS)

    response = endpoint(Body=body, ContentType="application/x-ndjson", Accept="*/*")

    assert_same(json.loads(response["Body"].read()), native(serve("pair"), PAIRS))


def test_boto3_sees_what_is_wrong(endpoint: Any) -> None:
    from botocore.exceptions import ClientError

    with pytest.raises(ClientError) as caught:
        endpoint(Body="<a/>", ContentType="application/xml")

    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 415
