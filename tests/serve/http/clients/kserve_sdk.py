"""Classify texts with KServe's SDK, in an environment of its own: V1, V2, V2 in bytes."""

from __future__ import annotations

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

URL, TEXTS = sys.argv[1], json.loads(sys.argv[2])


async def v1() -> object:
    client = InferenceRESTClient(RESTConfig(protocol="v1", retries=1))
    assert await client.is_server_live(URL)
    assert await client.is_model_ready(URL, "textloop")
    body = {"instances": TEXTS, "parameters": {"top_k": 2}}
    return await client.infer(URL, data=body, model_name="textloop")


async def v2(*, binary: bool) -> object:
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=1))
    assert await client.is_server_live(URL)
    assert await client.is_server_ready(URL)
    assert await client.is_model_ready(URL, "textloop")
    tensor = InferInput("text", [len(TEXTS)], "BYTES", parameters={"own": "a"})
    tensor.set_data_from_numpy(np.array(TEXTS, dtype=object), binary_data=binary)
    parameters = {"own": "b", "priority": 1, "binary_data_output": binary}
    outputs = [RequestedOutput("scores"), RequestedOutput("label")]
    request = InferRequest(
        "textloop", [tensor], request_id="seven", parameters=parameters, request_outputs=outputs
    )
    answer = await client.infer(URL, request, model_name="textloop")
    found = {output.name: output.as_numpy() for output in answer.outputs}
    labels = [each.decode() if isinstance(each, bytes) else each for each in found["label"]]
    return {
        "id": answer.id,
        "scores": found["scores"].tolist(),
        "labels": labels,
    }


async def main() -> list[object]:
    return [await v1(), await v2(binary=False), await v2(binary=True)]


print(json.dumps(asyncio.run(main())))
