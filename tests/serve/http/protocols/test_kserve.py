"""KServe V1 and V2, as Triton's client speaks it, give the answer of `POST /predict`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from answers import PAIRS, TEXTS, StartServer, assert_same, native
from tritonclient.utils import InferenceServerException

from serve.bundle.seal import open_bundle
from serve.inference.decision import Rules


def test_kserve_v1_says_what_is_there(serve: StartServer) -> None:
    url = serve("single").url

    assert httpx.get(f"{url}/").json() == {"status": "alive"}
    assert httpx.get(f"{url}/v1/models").json() == {"models": ["textloop"]}
    ready = httpx.get(f"{url}/v1/models/textloop")
    assert ready.status_code == 200
    assert ready.json() == {"name": "textloop", "ready": True}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models/other"),
        ("POST", "/v1/models/other:predict"),
        ("GET", "/v2/models/other"),
        ("GET", "/v2/models/other/ready"),
        ("GET", "/v2/models/textloop/versions/0"),
        ("GET", "/v2/models/textloop/versions/0/ready"),
        ("POST", "/v2/models/other/infer"),
        ("POST", "/v2/models/textloop/versions/0/infer"),
    ],
)
def test_kserve_unknown_model_or_version_is_404(serve: StartServer, method: str, path: str) -> None:
    response = httpx.request(method, f"{serve('single').url}{path}")

    assert response.status_code == 404
    assert "; this server has `" in response.json()["error"]


@pytest.fixture
def client(serve: StartServer) -> Iterator[triton.InferenceServerClient]:
    """Triton's client of the server of single texts."""
    with triton.InferenceServerClient(f"127.0.0.1:{serve('single').port}") as client:
        yield client


def tensor(
    name: str, texts: list[str], *, binary: bool, columns: tuple[int, ...] = ()
) -> triton.InferInput:
    values = np.array([text.encode() for text in texts], dtype=object)
    each = triton.InferInput(name, [len(texts), *columns], "BYTES")
    each.set_data_from_numpy(values.reshape(-1, *columns), binary_data=binary)
    return each


def best_first(result: triton.InferResult, labels: list[str]) -> list[Any]:
    """The scores of Triton's client, as `/predict` answers."""
    return [
        [{"label": labels[c], "score": float(row[c])} for c in np.argsort(-row, kind="stable")]
        for row in result.as_numpy("scores")
    ]


def label_texts(result: triton.InferResult) -> list[str]:
    """Triton's client gives bytes for a binary tensor and strings for one in JSON."""
    labels = result.as_numpy("label").tolist()
    return [label.decode() if isinstance(label, bytes) else label for label in labels]


def test_triton_client_sees_server_and_model(
    client: triton.InferenceServerClient, bundles: Callable[[str], Path]
) -> None:
    version = open_bundle(bundles("single")).manifest.version

    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("textloop")
    assert client.is_model_ready("textloop", version)
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert client.get_model_metadata("textloop", version) == {
        "name": "textloop",
        "versions": [version],
        "platform": "textloop",
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {
                "name": "scores",
                "datatype": "FP32",
                "shape": [-1, 3],
                "parameters": {"labels": ["billing", "delivery", "login"]},
            },
        ],
    }


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("columns", [(), (1,)])
def test_triton_client_gets_the_native_answer(
    serve: StartServer,
    client: triton.InferenceServerClient,
    binary_in: bool,
    binary_out: bool,
    columns: tuple[int, ...],
) -> None:
    expected = native(serve("single"), TEXTS)
    metadata = client.get_model_metadata("textloop")

    result = client.infer(
        "textloop",
        [tensor("text", TEXTS, binary=binary_in, columns=columns)],
        model_version=metadata["versions"][0],
        request_id="seven",
        outputs=[
            triton.InferRequestedOutput(name, binary_data=binary_out)
            for name in ("scores", "label")
        ],
    )

    labels = metadata["outputs"][1]["parameters"]["labels"]
    assert_same(best_first(result, labels), expected)
    assert label_texts(result) == [answer[0]["label"] for answer in expected]
    response = result.get_response()
    assert response["id"] == "seven"
    assert response["model_version"] == metadata["versions"][0]
    assert [output["name"] for output in response["outputs"]] == ["scores", "label"]


def test_triton_client_gets_all_outputs_in_bytes_by_default(
    serve: StartServer, client: triton.InferenceServerClient
) -> None:
    result = client.infer("textloop", [tensor("text", TEXTS, binary=True)])

    assert [list(output) for output in result.get_response()["outputs"]] == [
        ["name", "shape", "datatype", "parameters"]
    ] * 2
    assert_same(
        best_first(result, ["billing", "delivery", "login"]), native(serve("single"), TEXTS)
    )


def test_triton_client_selects_an_output_and_a_function(
    serve: StartServer, client: triton.InferenceServerClient
) -> None:
    result = client.infer(
        "textloop",
        [tensor("text", TEXTS, binary=True)],
        outputs=[triton.InferRequestedOutput("scores")],
        parameters={"function_to_apply": "none"},
    )

    assert result.as_numpy("label") is None
    expected = native(serve("single"), TEXTS, function_to_apply="none")
    assert_same(best_first(result, ["billing", "delivery", "login"]), expected)


@pytest.mark.parametrize("binary", [True, False])
def test_triton_client_sends_pairs(serve: StartServer, binary: bool) -> None:
    server = serve("pair")
    texts, pairs = map(list, zip(*PAIRS, strict=True))

    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        result = client.infer(
            "textloop",
            [
                tensor("text_pair", pairs, binary=binary),
                tensor("text", texts, binary=not binary),
            ],
        )

    assert_same(best_first(result, ["billing", "delivery", "login"]), native(server, PAIRS))


def test_triton_client_sees_what_is_wrong(client: triton.InferenceServerClient) -> None:
    inputs = [tensor("text", TEXTS, binary=True)]

    with pytest.raises(InferenceServerException, match="unknown model `other`") as caught:
        client.infer("other", inputs)
    assert caught.value.status() == "404"
    with pytest.raises(InferenceServerException, match="unknown output `logits`"):
        client.infer("textloop", inputs, outputs=[triton.InferRequestedOutput("logits")])
    with pytest.raises(InferenceServerException, match=r"field `text.1`: the text is empty"):
        client.infer("textloop", [tensor("text", ["a", ""], binary=True)])


ORDINARY: dict[str, Any] = {
    "request_id": "seven",
    "sequence_id": 5,
    "sequence_start": True,
    "sequence_end": True,
    "priority": 3,
    "timeout": 20_000_000,
    "parameters": {"my": "own", "tries": 3, "content_type": "str"},
    "headers": {"x-tenant": "a"},
    "query_params": {"a": 1},
    "response_compression_algorithm": "gzip",
}
"""Fields of Triton's client that tell other servers how to schedule or to label a request."""


@pytest.mark.parametrize("name", [*ORDINARY, "all"])
@pytest.mark.parametrize("algorithm", [None, "gzip", "deflate"])
def test_triton_client_may_send_every_field(
    serve: StartServer, client: triton.InferenceServerClient, name: str, algorithm: str | None
) -> None:
    options = ORDINARY if name == "all" else {name: ORDINARY[name]}

    result = client.infer(
        "textloop",
        [tensor("text", TEXTS, binary=True)],
        request_compression_algorithm=algorithm,
        **options,
    )

    assert_same(
        best_first(result, ["billing", "delivery", "login"]), native(serve("single"), TEXTS)
    )


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_triton_client_gets_classes_best_first(
    serve: StartServer, client: triton.InferenceServerClient, binary: bool, count: int
) -> None:
    result = client.infer(
        "textloop",
        [tensor("text", TEXTS, binary=True)],
        outputs=[triton.InferRequestedOutput("scores", binary_data=binary, class_count=count)],
    )

    classes = result.as_numpy("scores")
    assert classes.shape == (len(TEXTS), min(count, 3))
    texts = [[c if isinstance(c, str) else c.decode() for c in row] for row in classes.tolist()]
    answer = [
        [{"label": label, "score": float(score)} for score, _, label in (c.split(":") for c in row)]
        for row in texts
    ]
    assert_same(answer, native(serve("single"), TEXTS, top_k=count))
    labels = ["billing", "delivery", "login"]
    columns = [[labels[int(c.split(":")[1])] for c in row] for row in texts]
    assert columns == [[entry["label"] for entry in row] for row in answer]


def test_triton_client_is_told_when_its_time_is_over(
    client: triton.InferenceServerClient,
) -> None:
    with pytest.raises(InferenceServerException, match="timeout of 1 microseconds") as caught:
        client.infer("textloop", [tensor("text", TEXTS, binary=True)], timeout=1)
    assert caught.value.status() == "504"


@pytest.mark.parametrize("binary", [True, False])
def test_multi_label_decisions_are_an_output_of_their_own(
    serve: StartServer, bundles: Callable[[str], Path], binary: bool
) -> None:
    """`label` is the highest score even where no label reaches its threshold."""
    server = serve("multi")
    rules = Rules.of(open_bundle(bundles("multi")).manifest, "torch")
    outputs = [
        triton.InferRequestedOutput(name, binary_data=binary) for name in ("scores", "predicted")
    ]

    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        metadata = client.get_model_metadata("textloop")
        result = client.infer("textloop", [tensor("text", TEXTS, binary=True)], outputs=outputs)
        everything = client.infer("textloop", [tensor("text", TEXTS, binary=True)])

    assert [each["name"] for each in metadata["outputs"]] == ["label", "scores", "predicted"]
    assert [each["name"] for each in everything.get_response()["outputs"]] == ["label", "scores"]
    scores_NC = result.as_numpy("scores").astype(np.float32)
    predicted_NC = result.as_numpy("predicted")
    assert predicted_NC.dtype == bool
    assert (predicted_NC == rules.decide(scores_NC).predicted_NC).all()
    verdicts = native(server, TEXTS, decide=True)
    labels = metadata["outputs"][2]["parameters"]["labels"]
    assert [each["predicted"] for each in verdicts] == [
        [label for label, chosen in zip(labels, row, strict=True) if chosen]
        for row in predicted_NC.tolist()
    ]


def test_decisions_of_a_single_label_model_are_no_output(
    client: triton.InferenceServerClient,
) -> None:
    with pytest.raises(InferenceServerException, match="unknown output `predicted`"):
        client.infer(
            "textloop",
            [tensor("text", TEXTS, binary=True)],
            outputs=[triton.InferRequestedOutput("predicted")],
        )
