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
from litserve.callbacks import CallbackRunner
from litserve.loops import inference_worker
from litserve.loops.base import LitLoop

from serve import lines
from serve.command.priority import aside
from serve.engine.gc_tuning import trim_heap, tune_gc
from serve.engine.loop import Worker
from serve.engine.metrics import WorkerMetrics
from serve.engine.status import write_status
from serve.inference.golden import check_golden
from serve.inference.predictor import Predictor, Throughput
from serve.language.lines import one_line
from serve.processes.memory import check_gpu_memory
from serve.processes.order import Order, failure_file


class ClassifierAPI(litserve.LitAPI):
    """What a model process loads."""

    predictor: Predictor
    throughput: Throughput

    def __init__(self, order: Order | None = None) -> None:
        """order: None in the main process, which registers this with LitServe and loads nothing."""
        super().__init__(loop=ClassifierLoop())
        self._order = order

    @property
    def order(self) -> Order:
        """What this process is to run."""
        assert self._order is not None
        return self._order

    def setup(self, device: str) -> None:
        """Load the model in this process, check it and time it. The parent verified the bundle."""
        # Signals reach the whole process group; the parent ends its model processes in order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            if self.order.is_beside:
                aside(lambda: self._load(device))
            else:
                self._load(device)
        except ValueError as error:  # LitServe would print its traceback
            failure_file(self.order.socket).write_text(one_line(str(error)))
            print(f"error: {error}", file=sys.stderr, flush=True)
            os._exit(1)

    def _load(self, device: str) -> None:
        order = self.order
        if order.is_beside:
            check_gpu_memory(order.bundle, device)
        self.predictor = Predictor.load(
            order.bundle, device=device, backend=order.config.backend, verify=False
        )
        check_golden(self.predictor)
        if order.pace is None:
            self.throughput = self.predictor.warm_up(order.config.max_batch_tokens)
        else:
            self.throughput = order.pace


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
        lines.log_to_stderr(lit_api.order.config.log_level)
        lines.stderr.start()
        packed = not lit_api.predictor.backend.padded_because
        metrics = WorkerMetrics(device=device, packed=packed, slot=lit_api.order.slot)
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


def run_model(order: Order) -> None:
    """Let LitServe load the model and run our loop."""
    inference_worker(
        ClassifierAPI(order),
        order.device,
        order.number,
        order.socket,
        None,
        {},
        CallbackRunner(),
        False,
    )


def count_devices(device: str) -> int:
    """Count the devices that PyTorch sees.

    LitServe counts the lines of `nvidia-smi -L`: none where the tool is missing, or where
    CUDA_VISIBLE_DEVICES names GPUs or their slices by UUID; it then starts no model process.
    """
    if device == "cpu":
        return 1
    import torch

    return torch.cuda.device_count()
