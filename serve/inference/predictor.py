"""From texts to logits and probabilities: the only inference path.

The server, the file classifier, `train merge` and `train evaluate` all come through
`Predictor`, so what was judged is what is served.

Shape suffixes: N texts, L tokens, C labels.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from serve.bundle.manifest import BundleError
from serve.bundle.seal import Bundle, open_bundle
from serve.inference.decision import Rules
from serve.inference.scores import Array, activate, default_activation
from serve.inference.text import Batch, Encoding, Text, TextEncoder, shortest_first

BackendName = Literal["auto", "torch", "onnx"]

GPU_NODES = ("/dev/nvidiactl", "/dev/dxg")
"""One of them is there where CUDA is (the second under WSL); importing torch takes seconds."""

PRECISION = {("onnx", "cpu"): "int8", ("torch", "cpu"): "fp32", ("torch", "cuda"): "bf16"}
"""Number format of the matrix products, by backend and kind of device."""

WARM_UP: dict[bool, Text] = {False: "warm up", True: ("warm", "up")}
"""A first text, by whether the model takes pairs."""

BATCH_TOKENS = {"cpu": (256, 512, 1024, 2048), "cuda": (4096, 8192, 16384, 32768)}
"""Sizes of a batch in tokens that warm-up chooses from."""


class Backend(Protocol):
    """Something that runs the model."""

    name: str
    """What runs it: onnx or torch."""
    precision: str
    """Number format of the products: int8, bf16 or fp32."""
    tolerance: float
    """Largest difference of one text's scores between two batches that it is part of."""
    device_kind: str
    """Where it runs: cpu or cuda."""
    streams: int
    """Number of calls of `forward` that may and should run side by side."""

    def forward(self, batch_NL: Batch) -> Array:
        """Logits of shape (N, C) for padded ids and their mask, each (N, L)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """How fast a model runs on its device."""

    max_batch_tokens: int
    """Size of a batch in tokens from which on larger ones are hardly faster."""
    overhead_tokens: float
    """What a forward pass costs whatever its size, in tokens that take as long."""
    tokens_per_s: float
    """Rate of full batches, over all streams."""


class Predictor:
    """A model, its tokenizer and its labels, on one device."""

    def __init__(self, bundle: Bundle, encoder: TextEncoder, backend: Backend, *, batch_size: int):
        self.bundle = bundle
        self.encoder = encoder
        self.backend = backend
        self.batch_size = batch_size
        self.rules = Rules.of(bundle.manifest, backend.name)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        backend: BackendName = "auto",
        streams: int | None = None,
        batch_size: int = 32,
        verify: bool = True,
    ) -> Predictor:
        """Open, verify and load a bundle.

        device: auto, cpu, cuda or cuda:N. backend: as for `pick_backend`. streams: forward
        passes side by side, of onnx alone; None for one per core. batch_size: texts
        in one forward pass of `logits`.
        Raises BundleError for a bundle that is not whole and unaltered.
        """
        bundle = open_bundle(path, verify=verify)
        device = pick_device(device)
        name, _ = pick_backend(bundle, device=device, asked=backend, streams=streams)
        chosen: Backend
        if name == "onnx":
            from serve.inference.backends.onnx import OnnxBackend

            chosen = OnnxBackend.load(bundle.path, streams=streams or usable_cores())
        else:
            from serve.inference.backends.torch import TorchBackend

            precision = PRECISION[name, device.partition(":")[0]]
            chosen = TorchBackend.load(bundle.path, device=device, precision=precision)
        return cls(bundle, load_encoder(bundle), chosen, batch_size=batch_size)

    def predict(self, texts: Sequence[Text]) -> Array:
        """Probabilities of shape (N, C), rows in the order of the texts; `rules` decides by them.

        Rows of a single-label model sum to 1; those of a multi-label model need not.
        Raises TextError for a text that cannot be classified.
        """
        logits_NC = self.logits(self.encoder.encode(texts))
        return activate(logits_NC, default_activation(self.bundle.manifest.task))

    def logits(self, encodings: Sequence[Encoding]) -> Array:
        """Logits of shape (N, C), rows in the order of the encodings.

        Runs in batches of texts of like length, since every text of a batch costs as much
        as its longest.
        """
        return batched_logits(self.backend, self.encoder, encodings, batch_size=self.batch_size)

    def warm_up(self, max_batch_tokens: int | None = None) -> Throughput:
        """Run the model, and time it.

        max_batch_tokens: a size of batch to use in place of the best one, which is the
        first that the next larger one does not beat by 3 %: it would only add latency.
        """
        length = min(32, self.encoder.max_length)
        encoding = self.encoder.encode([WARM_UP[self.encoder.is_pair]])[0]
        row: Encoding = {name: (list(ids) * length)[:length] for name, ids in encoding.items()}
        sizes = (
            BATCH_TOKENS[self.backend.device_kind]
            if max_batch_tokens is None
            else (max_batch_tokens,)
        )

        def seconds(rows: int) -> float:
            batch_NL = self.encoder.pad([row] * rows)
            times = []
            for _ in range(4):  # the first is often slow, and not counted
                started = time.perf_counter()
                self.backend.forward(batch_NL)
                times.append(time.perf_counter() - started)
            return statistics.median(times[1:])

        def rate(tokens: int) -> float:
            rows = max(1, tokens // length)
            return rows * length / seconds(rows)

        one_s = seconds(1)
        best, best_rate = sizes[0], rate(sizes[0])
        for size in sizes[1:]:
            if (larger := rate(size)) < 1.03 * best_rate:
                break
            best, best_rate = size, larger
        return Throughput(
            max_batch_tokens=best,
            overhead_tokens=max(1.0, one_s * best_rate - length),
            tokens_per_s=best_rate * self.backend.streams,
        )


def batched_logits(
    backend: Backend, encoder: TextEncoder, encodings: Sequence[Encoding], *, batch_size: int
) -> Array:
    """Logits of shape (N, C) in the order given, computed in length-sorted batches."""
    if not encodings:
        return np.zeros((0, 0), dtype=np.float32)
    order = shortest_first(encodings)

    def forward(start: int) -> Array:
        rows = order[start : start + batch_size]
        return backend.forward(encoder.pad([encodings[row] for row in rows]))

    starts = range(0, len(order), batch_size)
    with ThreadPoolExecutor(backend.streams) as pool:
        parts = list(pool.map(forward, starts))
    logits_NC = np.empty((len(order), parts[0].shape[1]), dtype=np.float32)
    logits_NC[order] = np.concatenate(parts)
    return logits_NC


def load_encoder(bundle: Bundle) -> TextEncoder:
    """The bundle's text preparation alone, without its weights."""
    manifest = bundle.manifest
    sizes: Any = {"max_length": manifest.max_length, "is_pair": manifest.is_pair}
    if manifest.tokenizer.fast:
        return TextEncoder.from_rules(bundle.path, manifest.tokenizer, **sizes)
    return TextEncoder.from_directory(bundle.path, **sizes)


def pick_device(device: str) -> str:
    """Resolve auto to cuda where there is a CUDA GPU, else to cpu."""
    if device == "cpu" or (device == "auto" and not any(map(os.path.exists, GPU_NODES))):
        return "cpu"
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device `{device}` asked for, but PyTorch sees no CUDA GPU; use cpu")
    return device


def pick_backend(
    bundle: Bundle, *, device: str, asked: BackendName, streams: int | None = None
) -> tuple[Literal["torch", "onnx"], str]:
    """The backend for a resolved device, and why it is that one.

    auto is onnx on the CPU where the bundle has the int8 export, else torch.
    streams: forward passes side by side that were asked for, if any were.
    Raises ValueError if onnx is asked for and cannot be had, or streams without it.
    """
    name, reason = _pick_backend(bundle, device=device, asked=asked)
    if name == "torch" and streams is not None:
        raise ValueError(
            f"`streams: {streams}` is for the onnx backend, and this model runs on torch "
            f"({reason}); leave streams out, or set workers_per_device"
        )
    return name, reason


def _pick_backend(
    bundle: Bundle, *, device: str, asked: BackendName
) -> tuple[Literal["torch", "onnx"], str]:
    int8 = bundle.manifest.int8
    if asked == "torch":
        return "torch", "asked for"
    missing = None
    if device != "cpu":
        missing = f"the int8 export is for the CPU, the device is {device}"
    elif int8 is None or not int8.shipped:
        missing = "the bundle has no int8 export" + (f": {int8.reason}" if int8 else "")
    if asked == "onnx":
        if missing:
            raise BundleError(f"backend `onnx` asked for, but {missing}; use torch")
        return "onnx", "asked for"
    if missing:
        return "torch", missing
    assert int8 is not None
    return "onnx", f"int8 export: {int8.reason}"


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and its cgroup's CPU limit if it has one."""
    cores = len(os.sched_getaffinity(0))
    limit = Path("/sys/fs/cgroup/cpu.max")
    if limit.is_file():
        quota, _, period = limit.read_text().partition(" ")
        if quota != "max":
            cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores
