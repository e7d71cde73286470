"""The server's processes: started, watched, replaced when they die, ended in order.

The main process binds the port and starts one model process per device (spawned) and the
HTTP processes (forked, sharing the port). Model processes that die are started again, with
growing pauses; meanwhile their requests fail at once and `/health/ready` says 503. SIGTERM
and SIGINT close the port, let accepted requests finish within the grace period, then end
the model processes. Should the main process be killed, the others notice and end.

LitServe 0.2.19 orphans its children on SIGTERM, lets requests hang whose worker died, and
keeps its queues in a manager process; the methods overridden here are those parts of it.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing import connection as mp_connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import litserve
from litserve.loops import inference_worker

from serve.bundle.seal import Bundle
from serve.config import ServeConfig
from serve.engine.gc_tuning import tune_gc
from serve.http.keys import ApiKeys
from serve.inference.placement import pick_device

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
"""Pauses before a model process is started again: doubled from the first to the longest."""

STEADY_S = 30.0
"""A model process that lived so long starts again after the first pause."""


class ClassifierServer(litserve.LitServer):
    """LitServe with Textloop's routes, transport and process management."""

    def __init__(self, bundle: Bundle, config: ServeConfig, runtime: Path) -> None:
        """runtime: a directory of the server's own, for sockets and metrics."""
        # These bring the metrics, which want PROMETHEUS_MULTIPROC_DIR when they are imported.
        from serve.engine.model_process import ClassifierAPI
        from serve.http.service import Service

        self.config = config
        self.keys = ApiKeys(config.api_keys_file) if config.api_keys_file else None
        device = pick_device(config.device)
        api = ClassifierAPI(bundle.path, config)
        self.ending = False
        self.failed = False
        self.runtime = runtime
        self.service = Service(bundle, config, device=device)
        super().__init__(
            api,
            accelerator=device,
            workers_per_device=config.workers_per_device,
            timeout=config.timeout_s,
        )
        self.uvicorn_graceful_timeout = config.grace_s

    def register_endpoints(self) -> None:
        """Put this server's routes on the application (called by LitServer's constructor)."""
        from serve.http.api import build

        workers = self._inference_workers_config_for_api(self.lit_api.api_path)
        self.paths = [self.runtime / f"model-{number}.sock" for number in range(len(workers))]
        self.service.pool.paths = self.paths
        self.app: Any = build(self.app, self.service, self.keys)

    def _register_middleware(self) -> None:
        """Add none: LitServe would gzip every answer over 1000 bytes at level 9."""

    def _init_manager(self, num_api_servers: int) -> None:
        """Start no manager process; the queues it would hold are sockets here."""
        self.workers_setup_status: dict[str, str] = {}
        self._shutdown_event = threading.Event()
        self._transport = None

    def launch_inference_worker(self, lit_api: litserve.LitAPI) -> list[BaseProcess]:
        """Start one model process per device and worker."""
        numbers = range(len(self.paths))
        return [self.launch_single_inference_worker(lit_api, number) for number in numbers]

    def launch_single_inference_worker(
        self, lit_api: litserve.LitAPI, worker_id: int
    ) -> BaseProcess:
        """Start the model process of that number."""
        device = self._inference_workers_config_for_api(lit_api.api_path)[worker_id]
        self.paths[worker_id].unlink(missing_ok=True)
        process = multiprocessing.get_context("spawn").Process(
            target=inference_worker,
            args=(
                lit_api,
                device if isinstance(device, str) else device[0],
                worker_id,
                self.paths[worker_id],
                None,
                {},
                self._callback_runner,
                False,
            ),
            name=f"textloop-model-{worker_id}",
        )
        # Ctrl-C goes to the whole process group; this one ends when the parent says so.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return process

    def verify_worker_status(self) -> None:
        """Wait for the sockets of all model processes; RuntimeError if one ends before."""
        while missing := [number for number, path in enumerate(self.paths) if not path.exists()]:
            if any(not self.inference_workers[number].is_alive() for number in missing):
                raise RuntimeError("a model process ended before it was ready")
            time.sleep(0.02)

    def _start_server(
        self, port: int, num: int, log_level: str, sockets: Any, *rest: Any, **kwargs: Any
    ) -> Any:
        processes = super()._start_server(port, num, log_level, sockets, *rest, **kwargs)
        # The HTTP processes hold the port; held here as well, it would take connections
        # that nobody answers once they have stopped accepting.
        for each in sockets:
            each.close()
        return processes

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """What an HTTP process does while it runs: keep its connections to model processes."""
        parent = multiprocessing.parent_process()
        assert parent is not None
        asyncio.get_running_loop().add_reader(parent.sentinel, self._end_with_parent)
        tune_gc()
        service = self.service
        service.metrics.info.set(1)
        service.metrics.workers_ready.set(0)
        service.pool.start()
        yield
        await service.pool.close()

    def _end_with_parent(self) -> None:
        """Nobody is left who would end this process or tidy up."""
        shutil.rmtree(self.runtime, ignore_errors=True)
        os.kill(os.getpid(), signal.SIGKILL)

    def _start_worker_monitoring(self, manager: None, uvicorn_workers: dict[int, Any]) -> None:
        threading.Thread(
            target=self._watch, args=(uvicorn_workers,), name="watch", daemon=True
        ).start()

    def _watch(self, http: dict[int, Any]) -> None:
        """Start model processes again that die; end the server if an HTTP process does."""
        pauses = dict.fromkeys(range(len(self.inference_workers)), FIRST_PAUSE_S)
        started_s = dict.fromkeys(pauses, time.monotonic())
        due_s: dict[int, float] = {}
        while not self.ending:
            alive = [
                process.sentinel
                for number, process in enumerate(self.inference_workers)
                if number not in due_s
            ]
            mp_connection.wait([*alive, *(each.sentinel for each in http.values())], timeout=0.2)
            if self.ending:
                return
            now = time.monotonic()
            if dead := [each for each in http.values() if not each.is_alive()]:
                logger.error("HTTP process %d ended unasked; ending the server", dead[0].pid)
                self.failed = True
                self._shutdown_event.set()
                return
            for number, process in enumerate(self.inference_workers):
                if number not in due_s and not process.is_alive():
                    if now - started_s[number] > STEADY_S:
                        pauses[number] = FIRST_PAUSE_S
                    logger.error(
                        "model process %d ended with code %s; starting it again in %.1f s",
                        number,
                        process.exitcode,
                        pauses[number],
                    )
                    due_s[number] = now + pauses[number]
                    pauses[number] = min(2 * pauses[number], LONGEST_PAUSE_S)
                elif due_s.get(number, now + 1) <= now:
                    del due_s[number]
                    started_s[number] = now
                    self.inference_workers[number] = self.launch_single_inference_worker(
                        self.lit_api, number
                    )

    def _perform_graceful_shutdown(
        self, manager: None, uvicorn_workers: dict[int, Any], shutdown_reason: str = "normal"
    ) -> None:
        """HTTP processes first, within the grace period; then the model processes."""
        self.ending = True
        http = list(uvicorn_workers.values())
        for process in http:
            process.terminate()
        deadline = time.monotonic() + self.config.grace_s + 2
        for process in http:
            process.join(timeout=max(0.0, deadline - time.monotonic()))
        _end(http)
        _end(self.inference_workers)


def _end(processes: list[Any]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + 5
    for process in processes:
        process.join(timeout=max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def run_server(bundle: Bundle, config: ServeConfig) -> int:
    """Serve a verified bundle until Ctrl-C or SIGTERM, then finish what was accepted.

    Returns the exit code: 0, or 1 if an HTTP process died.
    Raises ValueError if the port is taken, the keys cannot be read or the model not loaded.
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
            "LIT_SERVER_API_KEY is set, but this server reads hashed keys from a file; unset it "
            "and set api_keys_file"
        )
    if config.tracing:
        from serve.http.tracing import check_installed

        check_installed()
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
    runtime = Path(tempfile.mkdtemp(prefix="textloop-"))
    server = None
    try:
        (runtime / "metrics").mkdir()
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(runtime / "metrics")
        server = ClassifierServer(bundle, config, runtime)
        server.run(
            host=config.host,
            port=config.port,
            num_api_servers=config.api_processes,
            log_level=config.log_level,
            generate_client_file=False,
            timeout_keep_alive=75,
            server_header=False,
            access_log=False,
            ws="none",
        )
    except KeyboardInterrupt:
        pass  # the signal came while the model was loading
    except RuntimeError as error:
        raise ValueError(f"the model could not be loaded, see the log above ({error})") from error
    finally:
        for process in multiprocessing.active_children():
            process.terminate()
            process.join(timeout=5)
        if os.getpid() == main_process:
            shutil.rmtree(runtime, ignore_errors=True)
    return 1 if server is not None and server.failed else 0
