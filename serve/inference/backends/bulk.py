"""Passes over many texts on a CPU in fp32, faster than one after another by stock PyTorch.

Neither of the two ways changes a result beyond rounding:

- oneDNN multiplies matrices. PyTorch gives fp32 to MKL, whose best kernels run on Intel's CPUs
  alone. On AMD EPYC (Zen 5) a core multiplies at 110 GFLOP/s with MKL, at 250 with oneDNN. The
  results of both are compared on the longest texts before anything is run by oneDNN.
- One pass per core, with one thread, in batches that stay in the core's caches: no thread waits
  for another inside a pass.

Both together are as fast as ONNX Runtime in fp32 (5.9 and 5.7 ms of a core per text of 41 tokens,
MiniLM; stock PyTorch 12.9), whose export takes 9 s before the first text.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from serve.inference.equivalence import check_equivalent
from serve.inference.passes import LONGEST_TEXTS, MIN_BULK_TOKENS, in_order
from serve.inference.precision import matmul_precision

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

BULK_TOKENS = 512
"""Tokens of a batch, padding included; 2048 take a core 12 % longer per text."""

ALONE_TOKENS = 2048
"""Tokens from which a text runs alone on all cores: the memory of a pass grows with it."""

TOLERANCE = 1e-5
"""Largest difference between the two, as a fraction of the largest value."""

DIFFERENT = "with oneDNN its results differ by {:.1e} of the largest value"


class OneDnnProducts(TorchFunctionMode):
    """Within it, this thread's linear layers in fp32 on the CPU are computed by oneDNN."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Replace `torch.nn.functional.linear`, and call everything else."""
        if func is functional.linear and not kwargs and _is_plain_fp32(*args[:2]):
            bias = args[2] if len(args) > 2 else None
            return torch.ops.mkldnn._linear_pointwise(args[0], args[1], bias, "none", [], "")
        return func(*args, **(kwargs or {}))


def _is_plain_fp32(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.layout == weight.layout == torch.strided
        and weight.dim() == 2
        and x.dim() > 1
        and x.numel() > 0
        and not torch.is_grad_enabled()
    )


def may_use_onednn(run: Callable[[], Tensor], *, name: str) -> bool:
    """Run something twice, and return whether oneDNN gives what stock PyTorch gives.

    name: of the model, for the warning if it does not. Runs as the passes do, on one thread.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    with matmul_precision("highest"), _threads.kept():
        (problem,) = in_order(lambda _: _difference(run), 1, 1, initializer=_one_thread)
    if problem:
        logger.warning("%s runs by stock PyTorch, which is slower: %s", name, problem)
    return not problem


@torch.no_grad()
def _difference(run: Callable[[], Tensor]) -> str:
    """State how oneDNN's result differs from stock PyTorch's; '' if it does not."""
    stock = run()
    try:
        with OneDnnProducts():
            ours = run()
        check_equivalent(ours, stock, TOLERANCE, relative=True, message=DIFFERENT)
    except Exception as error:  # the operator is not part of PyTorch's interface
        return str(error) or repr(error)
    return ""


class Bulk:
    """Passes of one model, given as functions of row numbers."""

    def __init__(self, model: Any, device: torch.device) -> None:
        """On another device than a CPU the passes run one after another, unchanged."""
        self.name = type(model).__name__
        self.on_cpu = device.type == "cpu"
        self._onednn: bool | None = None

    def run(
        self,
        run: Callable[[Sequence[int]], Tensor],
        batches: Sequence[Sequence[int]],
        lengths: Sequence[int],
        *,
        together: bool = True,
    ) -> Iterator[Tensor]:
        """Yield the result of each batch of rows, in order.

        run: must be thread-safe unless `together` is False. batches: shortest texts first.
        lengths: tokens of each row. The first call with `MIN_BULK_TOKENS` decides on oneDNN.
        """
        if not self.on_cpu:
            yield from map(run, batches)
            return
        tokens = [len(rows) * max(lengths[row] for row in rows) for rows in batches]
        if self._onednn is None and sum(tokens) >= MIN_BULK_TOKENS:
            longest = [row for rows in batches[-LONGEST_TEXTS:] for row in rows][-LONGEST_TEXTS:]
            self._onednn = may_use_onednn(lambda: run(longest), name=self.name)

        def run_one(number: int) -> Tensor:
            with torch.no_grad(), OneDnnProducts() if self._onednn else nullcontext():
                return run(batches[number])

        numbers = range(len(tokens))
        with matmul_precision("highest"):
            yield from side_by_side(run_one, tokens) if together else map(run_one, numbers)


def side_by_side(run: Callable[[int], Result], tokens: Sequence[int]) -> Iterator[Result]:
    """Yield the results of `run` for the numbers of all batches, in order.

    tokens: of each batch, fewest first. As many run at the same time as PyTorch may use threads,
    each on one; those over `ALONE_TOKENS` run one by one on all of them.
    """
    narrow = sum(count <= ALONE_TOKENS for count in tokens)
    workers = min(torch.get_num_threads(), narrow)
    if workers > 1:
        with _threads.kept():
            yield from in_order(run, narrow, workers, initializer=_one_thread)
    else:
        yield from map(run, range(narrow))
    yield from map(run, range(narrow, len(tokens)))


class _Threads:
    """PyTorch's number of threads, which a worker's setting changes for new threads and for MKL."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = self._number = 0

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Restore the number that held before the first of several users at the same time."""
        with self._lock:
            if self._users == 0:
                self._number = torch.get_num_threads()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                torch.set_num_threads(self._number)


_threads = _Threads()


def _one_thread() -> None:
    """Let the calling thread compute on one thread; OpenMP keeps the number per thread."""
    torch.set_num_threads(1)
