"""The LitServe server: routes, limits, errors, health.

HTTP processes parse, validate and tokenize, so that a bad request is refused before it
reaches a batch; model processes (`serve.loop`) turn token ids into logits; the answer's
scores are computed here again. What a valid request is stands in `serve.schemas`.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import time
import uuid
from importlib.metadata import version
from typing import Any

import litserve
from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from litserve.utils import LitAPIStatus, ResponseBufferItem, WorkerSetupStatus
from starlette.exceptions import HTTPException

from serve.bundle import Bundle
from serve.config import ServeConfig
from serve.loop import ClassifierAPI
from serve.predictor import load_encoder, pick_device
from serve.schemas import (
    ErrorBody,
    PredictRequest,
    RequestError,
    Score,
    parse_request,
    to_texts,
)
from serve.scores import Array, activate, default_activation, ranked
from serve.text import Encoding, TextError

_REF = "#/components/schemas/{model}"


class ClassifierServer(litserve.LitServer):
    """LitServe with Textloop's own routes in place of the stock ones.

    The stock endpoint answers malformed JSON with 500, waits for ever on a worker that
    died, and its body limit is an exception inside the application (LitServe 0.2.19).
    """

    def __init__(self, bundle: Bundle, config: ServeConfig) -> None:
        self.bundle = bundle
        self.config = config
        self.encoder = load_encoder(bundle)
        super().__init__(
            ClassifierAPI(str(bundle.path), max_batch_texts=config.max_batch_texts),
            accelerator=pick_device(config.device),
            workers_per_device=config.workers_per_device,
            timeout=config.timeout_s,
        )

    def register_endpoints(self) -> None:
        """Put this server's routes on the application (called by LitServer's constructor)."""
        app: FastAPI = self.app
        app.title = "Textloop"
        app.version = version("textloop")
        app.exception_handler(RequestError)(_request_error)
        app.exception_handler(HTTPException)(_http_error)
        app.exception_handler(Exception)(_unexpected_error)
        app.get("/health", summary="200 once every model process is ready, else 503")(self.health)
        app.get("/info", summary="The model and the limits of this server")(self.info)
        app.post(
            "/predict",
            summary="Classify one text, or a list",
            openapi_extra={
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": {"$ref": _REF.format(model="PredictRequest")}
                        }
                    },
                }
            },
            responses={
                200: {"model": list[Score] | list[list[Score]]},
                **{code: {"model": ErrorBody} for code in (400, 413, 422, 500, 504)},
            },
        )(self.predict)
        app.openapi = self.openapi  # type: ignore[method-assign]  # FastAPI's documented hook

    def _register_middleware(self) -> None:
        """Add none: LitServe would gzip every answer over 1000 bytes at level 9."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, with the schema of a body that FastAPI does not parse."""
        if self.app.openapi_schema is None:
            document = get_openapi(
                title=self.app.title, version=self.app.version, routes=self.app.routes
            )
            schema = PredictRequest.model_json_schema(ref_template=_REF)
            definitions = schema.pop("$defs")
            document["components"]["schemas"] |= {"PredictRequest": schema, **definitions}
            self.app.openapi_schema = document
        result: dict[str, Any] = self.app.openapi_schema
        return result

    async def predict(self, request: Request) -> JSONResponse:
        """Answer `{"inputs": ..., "parameters": {...}}` with labels and scores."""
        asked = parse_request(await read_body(request, limit=self.config.max_body_bytes))
        manifest = self.bundle.manifest
        texts, single = to_texts(
            asked.inputs, is_pair=manifest.is_pair, limit=self.config.max_texts_per_request
        )
        try:
            encodings = self.encoder.encode(texts, truncation=asked.truncation)
        except TextError as error:
            field = "inputs" if single else f"inputs.{error.index}"
            remedy = "shorten the text or leave `parameters.truncation` on"
            raise RequestError(422, f"field `{field}`: {error}; {remedy}", field=field) from error
        logits_NC = await self.submit(encodings)
        scores_NC = activate(logits_NC, asked.activation or default_activation(manifest.task))
        answer = ranked(scores_NC, manifest.labels, asked.top_k)
        # One text gets a flat list, as from a pipeline. Hugging Face clients always send
        # `parameters` and expect one list per text.
        flat = single and asked.parameters is None
        return JSONResponse(
            answer[0] if flat else answer, headers={"X-Model-Version": manifest.version}
        )

    async def submit(self, encodings: list[Encoding]) -> Array:
        """Queue token ids for the model processes and wait for logits of shape (N, C).

        Raises HTTPException 504 after `timeout_s`, 500 if the forward pass failed.
        """
        uid = uuid.uuid4().hex
        item = ResponseBufferItem(event=asyncio.Event())
        self.response_buffer[uid] = item
        try:
            queue = self._get_request_queue(self.lit_api.api_path)
            queue.put((self.app.response_queue_id, uid, time.monotonic(), encodings))
            await asyncio.wait_for(item.event.wait(), self.config.timeout_s)
        except TimeoutError:
            limit = self.config.timeout_s
            raise HTTPException(504, f"no answer within timeout_s = {limit:g} seconds") from None
        finally:
            del self.response_buffer[uid]
        logits_NC, status = item.response
        if status != LitAPIStatus.OK:
            raise HTTPException(500, "the model failed on this request; see the server's log")
        result: Array = logits_NC
        return result

    async def health(self) -> JSONResponse:
        """Say whether every model process has loaded the model and run it once."""
        states = list(self.workers_setup_status.values())
        if states and all(state == WorkerSetupStatus.READY for state in states):
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "not ready"}, status_code=503)

    async def info(self) -> dict[str, Any]:
        """Describe the model and this server's limits."""
        manifest = self.bundle.manifest
        return {
            "model_version": manifest.version,
            "base_model": manifest.base_model,
            "task": manifest.task,
            "labels": manifest.labels,
            "text_columns": manifest.text_columns,
            "max_length": manifest.max_length,
            "metrics": {
                split: {name: metric.model_dump() for name, metric in metrics.items()}
                for split, metrics in manifest.metrics.items()
            },
            "created": manifest.created,
            "backend": "torch",
            "devices": self.devices,
            "limits": {
                "max_body_bytes": self.config.max_body_bytes,
                "max_texts_per_request": self.config.max_texts_per_request,
                "timeout_s": self.config.timeout_s,
            },
            "textloop_version": version("textloop"),
        }


def run_server(bundle: Bundle, config: ServeConfig) -> None:
    """Serve a verified bundle until Ctrl-C or SIGTERM, then finish what was accepted.

    Raises ValueError if the port is taken or the model cannot be loaded.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            raise ValueError(
                f"port {config.port} of {config.host} cannot be had ({error.strerror}); "
                "choose another with --port"
            ) from None
    if os.environ.get("LIT_SERVER_API_KEY"):
        raise ValueError(
            "LIT_SERVER_API_KEY is set, but this server checks no key; unset it, and put the "
            "server behind a proxy that does"
        )
    server = ClassifierServer(bundle, config)
    main_process = os.getpid()

    def stop(*_: object) -> None:
        # In the HTTP processes, forked from here, uvicorn drains first and then raises the
        # signal again to end the process.
        if os.getpid() != main_process:
            raise SystemExit(0)
        # A second signal must not cut the orderly end short and leave processes behind.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    # LitServe handles Ctrl-C alone: SIGTERM would leave its children holding the port.
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        server.run(
            host=config.host,
            port=config.port,
            num_api_servers=config.api_processes,
            log_level=config.log_level,
            generate_client_file=False,
        )
    except KeyboardInterrupt:
        pass  # the signal came while the model was loading
    except RuntimeError as error:  # LitServe's word for a worker that could not load it
        raise ValueError(f"the model could not be loaded, see the log above ({error})") from error
    finally:
        for process in multiprocessing.active_children():
            process.terminate()


async def read_body(request: Request, *, limit: int) -> bytes:
    """The request's body; RequestError 413 if it is over `limit` bytes.

    The rest of a body that is too large is read and dropped, up to 16 times the limit, so
    that a client that sends before it listens gets its answer.
    """
    size = 0
    chunks = []
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        elif size > 16 * limit:
            break
    if size > limit:
        raise RequestError(413, f"the body is over the limit of {limit} bytes")
    return b"".join(chunks)


async def _request_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)
    body = ErrorBody(error=str(error), field=error.field)
    return JSONResponse(body.model_dump(exclude_none=True), status_code=error.status)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    body = {"error": error.detail}
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _unexpected_error(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": "internal error; see the server's log"}, status_code=500)
