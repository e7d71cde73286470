"""From texts to logits and probabilities: the only inference path.

The server, the file classifier, `textloop merge` and `textloop evaluate` all use `Predictor`, so
the model that was evaluated is the model that is served. `serve.inference.placement` chooses
where it runs.

Shape suffixes: N texts, L tokens, C labels.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serve.bundle.contents import CONFIG, TOKENIZER_CONFIG, read_object
from serve.bundle.manifest import BundleError
from serve.bundle.seal import Bundle, open_bundle
from serve.inference.decision import Rules
from serve.inference.fast import is_failure
from serve.inference.passes import BATCH_TOKENS, Backend, batched_logits, checked_forward
from serve.inference.placement import (
    BackendName,
    DeviceFailed,
    DoesNotFit,
    missing_for_torch,
    pick_backend,
    pick_device,
    pick_precision,
)
from serve.inference.scores import Array, activate, default_activation
from serve.inference.text import Encoding, Text, TextEncoder
from serve.language.lines import first_line
from serve.language.spelling import shown
from serve.privacy import silence

logger = logging.getLogger(__name__)

WARM_UP: dict[bool, Text] = {False: "warm up", True: ("warm", "up")}
"""Input of test inferences, by whether the model takes pairs."""


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """The measured speed of a model on its device."""

    max_batch_tokens: int
    """Batch size in tokens above which larger batches are hardly faster."""
    overhead_tokens: float
    """Fixed cost of a forward pass, expressed in tokens."""
    tokens_per_s: float
    """Rate at full batches, summed over concurrent passes."""


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
        batch_size: int = 32,
        verify: bool = True,
    ) -> Predictor:
        """Open, verify and load a bundle.

        device: auto, cpu, cuda or cuda:N. backend: see `pick_backend`. batch_size: maximum
        number of texts per forward pass of `logits`; see also `BATCH_TOKENS`.
        Raises BundleError if the bundle is incomplete or altered, if its parts contradict each
        other, and if its model cannot be loaded or classify a text.
        """
        silence()
        bundle = open_bundle(path, verify=verify)
        device = pick_device(device)
        name, _ = pick_backend(bundle, device=device, requested=backend)
        encoder = load_encoder(bundle)
        try:
            chosen = _load_backend(bundle, name, device)
            predictor = cls(bundle, encoder, chosen, batch_size=batch_size)
            predictor.forward([predictor._text_of(length) for length in (4, 16)])
        except (BundleError, DeviceFailed, DoesNotFit):
            raise
        except BaseException as error:  # damaged files make libraries raise anything, and panic
            if not is_failure(error):
                raise
            raise BundleError(f"bundle `{bundle.path}`: {first_line(error)}") from error
        return predictor

    def predict(
        self, texts: Sequence[Text], *, progress: Callable[[int], object] = lambda texts: None
    ) -> Array:
        """Return probabilities of shape (N, C), rows in the order of the texts.

        Rows of a single-label model sum to 1; those of a multi-label model need not.
        `rules` turns them into labels; `serve.classifier.classifier` has labels for texts of any
        form. progress: called with the number of texts after each pass. Raises TextError for a
        text that cannot be classified, and TypeError for a single text in place of a sequence.
        """
        if isinstance(texts, str):
            raise TypeError(f"expected a list of texts, got one text; give [{shown(repr(texts))}]")
        if not len(texts):
            return np.zeros((0, len(self.bundle.manifest.labels)), dtype=np.float32)
        logits_NC = self.logits(self.encoder.encode(texts), progress=progress)
        return activate(logits_NC, default_activation(self.bundle.manifest.task))

    def logits(
        self,
        encodings: Sequence[Encoding],
        *,
        progress: Callable[[int], object] = lambda texts: None,
    ) -> Array:
        """Return logits of shape (N, C), rows in the order of the encodings.

        Texts of similar length share a batch, because every text of a batch costs as much
        as its longest.
        """
        return batched_logits(
            self.backend,
            self.encoder,
            encodings,
            batch_size=self.batch_size,
            num_labels=len(self.bundle.manifest.labels),
            progress=progress,
        )

    def forward(self, encodings: Sequence[Encoding]) -> Array:
        """Return logits of shape (N, C) of one batch. Raises BadLogits."""
        batch_NL = self.encoder.pad(encodings)
        return checked_forward(self.backend, batch_NL, len(self.bundle.manifest.labels))

    def warm_up(self, max_batch_tokens: int | None = None) -> Throughput:
        """Run the model and measure its speed.

        max_batch_tokens: batch size to use; None chooses one, the first that the next larger
        size does not beat by 3 %: a larger batch would only add latency. Smaller than asked for
        if batches of the longest texts do not fit into the GPU's memory.
        Raises DoesNotFit if even one text does not.
        """
        length = min(32, self.encoder.max_length)
        row = self._text_of(length)
        wanted = (
            BATCH_TOKENS[self.backend.name, self.backend.device_kind]
            if max_batch_tokens is None
            else (max_batch_tokens,)
        )
        fitting = self._largest_batch(wanted[-1])
        sizes = [size for size in wanted if size <= fitting] or [fitting]

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
            tokens_per_s=best_rate * self.backend.concurrency,
        )

    def release(self) -> bool:
        """Release some of the memory that passes left allocated, in some milliseconds.

        The next large batch allocates it again. Returns False if there is no more.
        """
        return self.backend.release(self.encoder.pad([self._text_of(4)]))

    def _text_of(self, length: int) -> Encoding:
        """Return an encoding of `length` tokens, at most `max_length`."""
        length = min(length, self.encoder.max_length)
        encoding = self.encoder.encode([WARM_UP[self.encoder.is_pair]])[0]
        return {name: (list(ids) * length)[:length] for name, ids in encoding.items()}

    def _largest_batch(self, tokens: int) -> int:
        """Halve `tokens` until a batch of the longest texts fits into the device's memory."""
        if self.backend.device_kind != "cuda":
            return tokens  # the CPU's memory is not so small, and the pass would take seconds
        longest = self._text_of(self.encoder.max_length)
        while True:
            texts = max(1, tokens // self.encoder.max_length)
            try:
                self.backend.forward(self.encoder.pad([longest] * texts))
                return tokens
            except DoesNotFit as error:
                if texts == 1:
                    raise
                tokens //= 2
                logger.warning("%s; using at most %d tokens", error, tokens)


def _load_backend(bundle: Bundle, name: str, device: str) -> Backend:
    """Load the bundle's model. Raises BundleError if it has fewer positions than `max_length`."""
    if name == "onnx":
        from serve.inference.backends.onnx import OnnxBackend

        return OnnxBackend.load(bundle.path)
    from serve.inference.backends.torch import TorchBackend

    precision = pick_precision(bundle, backend=name, device=device)
    backend = TorchBackend.load(bundle.path, device=device, precision=precision)
    if backend.positions is not None and bundle.manifest.max_length > backend.positions:
        raise BundleError(
            f"bundle `{bundle.path}`: `max_length` = {bundle.manifest.max_length} in "
            f"`manifest.json`, but the model has positions for {backend.positions} tokens"
        )
    return backend


def _pad_id(bundle: Bundle, encoder: TextEncoder) -> int | None:
    """The id of the tokenizer's padding; None if its settings do not name one."""
    if TOKENIZER_CONFIG not in bundle.manifest.files:
        return None
    token = read_object(bundle.path, TOKENIZER_CONFIG).get("pad_token")
    name = token.get("content") if isinstance(token, dict) else token
    return encoder.id_of(name) if isinstance(name, str) else None


def load_encoder(bundle: Bundle) -> TextEncoder:
    """Load the bundle's tokenizer without its weights.

    Raises BundleError for files that are no tokenizer, or one that the manifest does not describe.
    """
    manifest = bundle.manifest
    sizes: Any = {"max_length": manifest.max_length, "is_pair": manifest.is_pair}
    if not manifest.tokenizer.fast and (missing := missing_for_torch()):
        raise BundleError(
            f"bundle `{bundle.path}`: its tokenizer is not a fast one and needs transformers, "
            f"but {missing}"
        )
    try:
        if manifest.tokenizer.fast:
            encoder = TextEncoder.from_rules(bundle.path, manifest.tokenizer, **sizes)
        else:
            encoder = TextEncoder.from_directory(bundle.path, **sizes)
        rows = read_object(bundle.path, CONFIG).get("vocab_size")
        encoder.check(rows if isinstance(rows, int) else None)
        stated = manifest.tokenizer.model_copy(update={"fast": encoder.rules.fast})
        if encoder.rules != stated:
            raise ValueError("its columns, padding or truncation are not those of `manifest.json`")
        if (pad := _pad_id(bundle, encoder)) not in (None, encoder.rules.fill["input_ids"]):
            raise ValueError(f"its padding has the id {pad}, in `manifest.json` another")
        encoder.encode([WARM_UP[manifest.is_pair]])
    except BaseException as error:
        if not is_failure(error):
            raise
        raise BundleError(f"bundle `{bundle.path}`: its tokenizer: {first_line(error)}") from error
    return encoder
