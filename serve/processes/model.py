"""What LitServe starts in a model process: the model it loads, and our loop in place of its own.

Its stock batched loop runs decode, predict and encode of a whole batch in one `try`, so that one
bad request fails its neighbours, counts batches in requests, and spins while idle when its batch
timeout is 0.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import litserve
from litserve.loops.base import LitLoop

from serve import lines
from serve.engine.gc_tuning import trim_heap, tune_gc
from serve.engine.loop import Worker
from serve.engine.metrics import WorkerMetrics
from serve.engine.status import write_status
from serve.inference.golden import check_golden
from serve.inference.predictor import Predictor, Throughput
from serve.settings import ServeConfig


class ClassifierAPI(litserve.LitAPI):
    """What a model process loads."""

    predictor: Predictor
    throughput: Throughput

    def __init__(self, bundle_path: Path, config: ServeConfig) -> None:
        super().__init__(loop=ClassifierLoop())
        self.bundle_path = bundle_path
        self.config = config

    def setup(self, device: str) -> None:
        """Load the model in this process, check it and time it. The parent verified the bundle."""
        # Signals reach the whole process group; the parent ends its model processes in order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        config = self.config
        try:
            self.predictor = Predictor.load(
                self.bundle_path, device=device, backend=config.backend, verify=False
            )
            check_golden(self.predictor)
            self.throughput = self.predictor.warm_up(config.max_batch_tokens)
        except ValueError as error:  # LitServe would print its traceback
            print(f"error: {error}", file=sys.stderr, flush=True)
            os._exit(1)


class ClassifierLoop(LitLoop):
    """What a model process runs: `serve.engine.loop.Worker`."""

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
        """Serve until the parent is gone. `request_queue` is the socket's path."""
        lines.log_to_stderr(lit_api.config.log_level)
        lines.stderr.start()
        packed = not lit_api.predictor.backend.padded_because
        metrics = WorkerMetrics(device=device, packed=packed)
        write_status(request_queue, lit_api.predictor, lit_api.throughput)
        worker = Worker(lit_api.predictor, lit_api.throughput, metrics=metrics)
        tune_gc()
        trim_heap()  # of what loading took
        parent = multiprocessing.parent_process()
        assert parent is not None
        worker.serve(request_queue, until=parent.sentinel)
        lines.stderr.close()
        # Forward threads are daemons inside native code: exit without waiting for them.
        os._exit(0)


def count_devices(device: str) -> int:
    """Count the devices that PyTorch sees.

    LitServe counts the lines of `nvidia-smi -L`: none where the tool is missing, or where
    CUDA_VISIBLE_DEVICES names GPUs or their slices by UUID; it then starts no model process.
    """
    if device == "cpu":
        return 1
    import torch

    return torch.cuda.device_count()
