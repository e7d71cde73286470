"""The server that LitServe runs, with our routes, transport and process management in place.

LitServe 0.2.19 orphans its children on SIGTERM, lets requests hang whose worker died, and
keeps its queues in a manager process. The methods overridden here are those parts, some of them
private: read this file and `serve.processes.model` when the pinned version changes.

Imported by the main process and by model processes; these do not need `serve.http`, so it is
imported where an HTTP process is built.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import litserve
import uvicorn
from litserve.utils import configure_logging

from serve import lines
from serve.bundle.manifest import MANIFEST
from serve.bundle.seal import Bundle, read_manifest
from serve.engine.admission import Admission
from serve.engine.gc_tuning import tune_gc
from serve.engine.metrics import HttpMetrics
from serve.engine.routing import Group
from serve.inference.placement import pick_device
from serve.processes.first import First
from serve.processes.group import ModelGroup, Places, Slots
from serve.processes.model import ClassifierAPI, count_devices
from serve.processes.releases import Releases
from serve.processes.supervisor import Watch
from serve.settings import ServeConfig

TEARDOWN_S = 3.0
"""Seconds of the grace period that are kept, at most, for ending processes."""

LAST_S = 1.5
"""Seconds of those, at most, for model processes and logs, when the HTTP processes have ended."""


class ClassifierServer(litserve.LitServer):
    """LitServe with Textloop's routes, transport and process management."""

    def __init__(self, first: First, config: ServeConfig, runtime: Path) -> None:
        """first: what answers at the start. runtime: the server's own directory, for sockets."""
        from serve.http.arms.arm import Arm, build_arm
        from serve.http.arms.roles import first_arms
        from serve.http.connection.parsing import connection_class
        from serve.http.connection.registry import Connections, max_connections, raise_file_limit
        from serve.http.keys import ApiKeys
        from serve.http.service import Service

        self.config = config
        self.runtime = runtime
        self.first = first
        self.watch = Watch()
        self.live: ModelGroup | None = None
        """The group that answers at the start."""
        self.releases: Releases | None = None
        self.failed = False
        """Whether an HTTP process exited unexpectedly."""
        self.keys = ApiKeys(config.api_keys_file) if config.api_keys_file else None
        device = pick_device(config.device)
        metrics = HttpMetrics()
        most = max_connections(config, raise_file_limit())
        self.connection = connection_class(Connections(config, metrics, most))
        """The protocol of clients' connections, for uvicorn."""
        admission = Admission(
            max_tokens=config.max_queue_tokens,
            processes=config.api_processes,
            timeout_s=config.timeout_s,
            gauge=metrics.inflight_tokens,
        )
        place: Any = {"device": device, "admission": admission, "metrics": metrics}
        arm = build_arm(first.bundle, config, **place)

        def build_beside(group: Group, beside: Arm) -> Arm:
            path = Path(group.bundle)  # verified by the main process
            bundle = Bundle(path=path, manifest=read_manifest(path / MANIFEST))
            return build_arm(bundle, config, **place, beside=beside)

        self.build_beside = build_beside
        arms = first_arms(arm, metrics, generation=first.generation, refused=first.refused)
        self.service = Service(arms, config, metrics)
        super().__init__(
            ClassifierAPI(),
            accelerator=device,
            devices=count_devices(device),
            workers_per_device=config.workers_per_device,
            timeout=config.timeout_s,
        )
        # For what was accepted to be answered.
        self.uvicorn_graceful_timeout = max(config.grace_s - TEARDOWN_S, config.grace_s / 2)
        self.started_fd, self.report_fd = os.pipe()
        """HTTP processes report here that they serve."""
        self.report: asyncio.Task[None] | None = None

    def register_endpoints(self) -> None:
        """Put this server's routes on the application (called by LitServer's constructor)."""
        from serve.http.api import build

        self.app: Any = build(self.app, self.service, self.keys)

    def _register_middleware(self) -> None:
        """Add none: LitServe would gzip every response over 1000 bytes at level 9."""

    def _init_manager(self, num_api_servers: int) -> None:
        """Start no manager process; the queues that it would hold are sockets here."""
        lines.log_to_stderr(self.config.log_level)
        library = logging.getLogger("litserve")  # `run` has just given it a blocking stream
        library.handlers.clear()
        library.propagate = True
        self.workers_setup_status: dict[str, str] = {}
        self._shutdown_event = threading.Event()
        self._transport = None

    def run(
        self,
        host: str = "127.0.0.1",
        port: int = 8000,
        num_api_servers: int | None = 1,
        log_level: str = "warning",
        generate_client_file: bool = False,
        **options: Any,
    ) -> None:
        """Bind, start all processes and watch them until the end; options: uvicorn's.

        LitServe's own takes three addresses and no port under 1024.
        """
        configure_logging(log_level)
        address = uvicorn.Config(self.app, host=host, port=port, log_level=log_level, **options)
        sockets = [address.bind_socket()]
        number = num_api_servers or 1
        http: dict[int, Any] = {}
        try:
            self._init_manager(number)
            self._logger_connector.run(self)
            self._start_models()
            http = self._start_server(port, number, log_level, sockets, "process", **options)
            self._start_worker_monitoring(None, http)
            self._shutdown_event.wait()
        except KeyboardInterrupt:
            pass
        finally:
            for each in sockets:
                each.close()
            self._perform_graceful_shutdown(None, http)

    def _start_models(self) -> None:
        """Start the model processes, and wait for them; RuntimeError if one exits before."""
        devices = self._inference_workers_config_for_api(self.lit_api.api_path)
        places = Places(
            runtime=self.runtime,
            devices=tuple(each if isinstance(each, str) else each[0] for each in devices),
            config=self.config,
            slots=Slots(),
        )
        self.live = ModelGroup(self.first.bundle, places, "model")
        self.live.wait_until_listening()
        self.service.arms.champion.arm.pool.paths = self.live.paths
        if self.first.deployment is None:
            return
        self.releases = Releases(self.first, places, self.watch, self.live, url=self.config.url)
        self.releases.route()

    def _start_server(
        self, port: int, num: int, log_level: str, sockets: Any, *rest: Any, **kwargs: Any
    ) -> Any:
        # Without this, the collector of each process would write to objects that they share.
        gc.collect()
        gc.freeze()
        processes = super()._start_server(port, num, log_level, sockets, *rest, **kwargs)
        # The HTTP processes hold the port. Held here as well, it would accept connections that
        # nobody answers once they have stopped accepting.
        for each in sockets:
            each.close()
        # After the fork, which must not copy a process with threads.
        os.close(self.report_fd)
        lines.stdout.start()
        lines.stderr.start()
        return processes

    def _announce(self, num_processes: int) -> None:
        """Print the server's address once all HTTP processes serve."""
        while num_processes:
            reports = os.read(self.started_fd, num_processes)
            if not reports:
                return  # they exited
            num_processes -= len(reports)
        bundle = self.first.bundle
        generation = f", generation {self.first.generation}" if self.first.generation else ""
        lines.stdout.write(
            f"serving {bundle.path} (version {bundle.manifest.version}{generation}) "
            f"on {self.config.url}; docs at /docs; press Ctrl-C to stop"
        )

    async def report_serving(self) -> None:
        """Called by uvicorn once it accepts connections, and then every 30 seconds."""
        if self.report is None:
            self.report = asyncio.create_task(self._report_ready())

    async def _report_ready(self) -> None:
        """Report to the main process once this one is connected to all model processes."""
        pool = self.service.arms.champion.arm.pool
        while len(pool.ready) < len(pool.paths):
            await asyncio.sleep(0.02)
        os.write(self.report_fd, b".")

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Keep an HTTP process connected to the model processes while it runs."""
        parent = multiprocessing.parent_process()
        assert parent is not None
        asyncio.get_running_loop().add_reader(parent.sentinel, self._end_with_parent)
        lines.stdout.start()
        lines.stderr.start()
        tune_gc()
        self.service.metrics.workers_ready.set(0)
        arm = self.service.arms.champion.arm
        arm.pool.start()
        following: asyncio.Task[None] | None = None
        if self.first.deployment is not None:
            from serve.http.arms.follow import Follower

            follower = Follower(self.service, self.runtime, self.build_beside)
            following = asyncio.create_task(follower.run())
        yield
        if self.report:
            self.report.cancel()
        if following:
            following.cancel()
            await follower.close()
        else:
            await arm.pool.close()
        lines.stdout.close()
        lines.stderr.close()

    def _end_with_parent(self) -> None:
        """Nobody is left to end this process or to clean up."""
        shutil.rmtree(self.runtime, ignore_errors=True)
        os.kill(os.getpid(), signal.SIGKILL)

    def _start_worker_monitoring(self, manager: None, uvicorn_workers: dict[int, Any]) -> None:
        http = list(uvicorn_workers.values())

        def watch() -> None:
            if self.watch.until_over(http):
                self.failed = True
                self._shutdown_event.set()

        assert self.live is not None
        self.watch.add(self.live.supervisor)
        threading.Thread(target=watch, name="watch", daemon=True).start()
        threading.Thread(
            target=self._announce, args=(len(http),), name="announce", daemon=True
        ).start()
        if self.releases:
            self.releases.start([each.pid for each in http])

    def _perform_graceful_shutdown(
        self, manager: None, uvicorn_workers: dict[int, Any], shutdown_reason: str = "normal"
    ) -> None:
        """End HTTP processes, within the grace period; then the model processes."""
        self.watch.ending = True
        if self.releases:
            self.releases.ending.set()
        http = list(uvicorn_workers.values())
        for process in http:
            process.terminate()
        grace_s = self.config.grace_s
        deadline = time.monotonic() + max(grace_s - LAST_S, grace_s * 7 / 8)
        for process in http:
            process.join(timeout=max(0.0, deadline - time.monotonic()))
        for process in http:
            process.kill()  # one that is still there is in native code
        if self.releases:
            self.releases.close()
        elif self.live:
            self.live.end()
