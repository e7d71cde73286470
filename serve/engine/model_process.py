"""What LitServe runs in a model process: load the model, measure it, serve its socket."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import litserve
from litserve.loops.base import LitLoop

from serve.config import ServeConfig
from serve.engine.gc_tuning import tune_gc
from serve.engine.loop import Worker
from serve.engine.metrics import WorkerMetrics
from serve.inference.predictor import Predictor, Throughput


class ClassifierAPI(litserve.LitAPI):
    """The model of a model process; it is pickled before it is set up."""

    predictor: Predictor
    throughput: Throughput

    def __init__(self, bundle_path: Path, config: ServeConfig) -> None:
        super().__init__(loop=ClassifierLoop())
        self.bundle_path = bundle_path
        self.config = config

    def setup(self, device: str) -> None:
        """Load the model in this process and measure its speed. The parent verified the bundle."""
        # Signals reach the whole process group; the parent stops its workers in order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.predictor = Predictor.load(
            self.bundle_path, device=device, backend=self.config.backend, verify=False
        )
        self.throughput = self.predictor.warm_up(self.config.max_batch_tokens)


class ClassifierLoop(LitLoop):
    """Runs a `Worker` instead of LitServe's batched loop."""

    def run(
        self,
        lit_api: ClassifierAPI,
        device: str,
        worker_id: int,
        request_queue: Path,
        transport: Any,
        workers_setup_status: Any,
        callback_runner: Any,
    ) -> None:
        """Serve until the parent exits. `request_queue` is the socket's path."""
        metrics = WorkerMetrics(device=device)
        worker = Worker(lit_api.predictor, lit_api.throughput, metrics=metrics)
        tune_gc()
        parent = multiprocessing.parent_process()
        assert parent is not None
        worker.serve(request_queue, until=parent.sentinel)
        # Forward threads are daemons inside native code: exit without waiting for them.
        os._exit(0)
