"""The forward pass in PyTorch: bf16 and without padding on CUDA, fp32 on the CPU."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from serve.inference.backends.bulk import BULK_TOKENS, OneDnnProducts, may_use_onednn, side_by_side
from serve.inference.backends.masks import build_masks_without_waiting
from serve.inference.backends.packed import PackedModel
from serve.inference.cores import usable_cores
from serve.inference.equivalence import move, to_tensors
from serve.inference.passes import BATCH_TOKENS
from serve.inference.placement import DeviceFailed, DoesNotFit
from serve.inference.pooling import load_classifier, usable_positions
from serve.inference.precision import matmul_precision
from serve.inference.scores import Array
from serve.inference.text import Batch

logger = logging.getLogger(__name__)


class TorchBackend:
    """A sequence classifier on one device."""

    name = "torch"
    concurrency = 1

    def __init__(self, model: Any, *, device: str, stock: bool = False) -> None:
        """Move a loaded model to `device` (cpu, cuda, cuda:0, ...); raises DoesNotFit.

        stock: let PyTorch alone compute, for proofs; see `serve.inference.backends.bulk`.
        """
        self.device = torch.device(device)
        self.device_kind = self.device.type
        if self.device_kind == "cuda":
            build_masks_without_waiting()
        elif self.device_kind == "cpu":  # PyTorch does not see a container's limit
            torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
        self.model: Any = move(model, self.device).eval()
        self.positions = usable_positions(model)
        self._ids = int(model.get_input_embeddings().weight.shape[0])
        half = next(model.parameters()).dtype == torch.bfloat16
        self.precision = "bf16" if half else "fp32"
        self.tolerance = 2e-2 if half else 1e-4
        """Maximum difference between a text's scores in two batches."""
        on_cpu = self.device_kind == "cpu"
        self.bulk_tokens = BULK_TOKENS if on_cpu else BATCH_TOKENS["torch", "cuda"][-1]
        self._onednn = None if on_cpu and not (half or stock) else False
        """Whether oneDNN multiplies; None until `prepare` has compared it."""
        self.packed: PackedModel | None = None
        self.padded_because = ""
        """Why batches are padded in the forward pass; empty if they are not."""
        if self.device_kind != "cuda":
            self.padded_because = f"no kernel without padding on the {self.device_kind}"
        elif not half:
            self.padded_because = "the kernel without padding computes in bf16, the model in fp32"
        else:
            self._pack()

    def _pack(self) -> None:
        """Go without padding if the logits are then those of the padded pass.

        Raises DeviceFailed if the device does.
        """
        try:
            with self._device_errors(), torch.inference_mode():
                packed = PackedModel(self.model)
                packed.check_equivalence(tolerance=self.tolerance)
        except DeviceFailed:
            raise
        except Exception as error:  # kernels and architectures may raise any other exception
            with self._device_errors():
                torch.cuda.synchronize(self.device)
            self.padded_because = str(error) or repr(error)
            logger.warning(
                "padding-free inference is not available for this model, using padded batches: %s",
                error,
            )
        else:
            self.packed = packed

    @classmethod
    def load(cls, path: Path, *, device: str, precision: str = "fp32") -> TorchBackend:
        """Load a model directory in `fp32` or `bf16`, with or without mean pooling.

        Raises ValueError if it cannot be loaded, and if the files do not hold exactly the weights
        of the model.
        """
        transformers_logging.disable_progress_bar()  # nothing is downloaded
        # Without dtype, transformers uses the checkpoint's.
        model, info = load_classifier(
            path, dtype=torch.bfloat16 if precision == "bf16" else torch.float32
        )
        if missing := info["missing_keys"]:
            raise ValueError(f"`{path}` lacks the weights {sorted(missing)}; merge the run again")
        if unused := sorted(info["unexpected_keys"]):
            raise ValueError(
                f"`{path}` has {len(unused)} weights that the model of its config.json does not "
                f"use, such as `{unused[0]}`; merge the run again"
            )
        for name, values in model.named_parameters():
            if not torch.stack(torch.aminmax(values.detach())).isfinite().all():
                raise ValueError(f"the weights `{name}` in `{path}` are not finite")
        return cls(model, device=device)

    @torch.inference_mode()
    def forward(self, batch_NL: Batch) -> Array:
        """Return logits of shape (N, C) in fp32 for padded ids and their mask, each (N, L).

        Raises DoesNotFit for a batch that is too large for the device, and DeviceFailed if the
        device fails. Raises ValueError for ids that the model does not embed: on a GPU they would
        end the process.
        """
        if int(batch_NL["input_ids"].max()) >= self._ids:
            raise ValueError(f"the tokenizer gave an id over {self._ids - 1}, the model's last")
        with self._device_errors(), contextlib.suppress(torch.OutOfMemoryError):
            return self._logits(batch_NL)
        # Outside of the handler, because the error's traceback keeps the batch's tensors.
        torch.cuda.empty_cache()
        texts, tokens = batch_NL["attention_mask"].shape
        raise DoesNotFit(
            f"a batch of {texts} texts of {tokens} tokens does not fit into the memory of "
            f"{self.device}"
        )

    def prepare(self, longest_NL: Batch) -> None:
        """Let oneDNN multiply from now on, if it gives the same logits for these texts."""
        if self._onednn is None:
            self._onednn = may_use_onednn(
                lambda: self.model(**to_tensors(longest_NL, self.device)).logits,
                name=type(self.model).__name__,
            )

    def run_all(self, run: Callable[[int], Array], tokens: Sequence[int]) -> Iterator[Array]:
        """Yield the results of `run` for the numbers of all batches, in order."""
        if self.device_kind != "cpu":
            yield from map(run, range(len(tokens)))
            return
        with matmul_precision("highest"):
            yield from side_by_side(run, tokens)

    def release(self, batch_NL: Batch) -> bool:
        """Release nothing: a pass keeps no memory on a CPU, and a GPU has no other use for it."""
        return False

    @contextlib.contextmanager
    def _device_errors(self) -> Iterator[None]:
        """Turn an error after which every call on this device fails into DeviceFailed."""
        try:
            yield
        except torch.AcceleratorError as error:
            raise DeviceFailed(f"{self.device} failed: {error}") from error

    def _logits(self, batch_NL: Batch) -> Array:
        if self.packed:
            output = self.packed(batch_NL)
        else:
            products = OneDnnProducts() if self._onednn else contextlib.nullcontext()
            with matmul_precision("highest"), products:
                output = self.model(**to_tensors(batch_NL, self.device)).logits
        logits_NC: Array = output.float().cpu().numpy()
        return logits_NC
