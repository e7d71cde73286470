"""From a checkpoint to a sealed bundle: read, load, write, compare with the stock pipeline, seal.

Needs the extra `serve` alone. What is fitted or judged on the user's texts, which needs the extra
`train`, comes in as a function; see `train.importing.fitting`.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serve.bundle.manifest import BundleError, Calibration, Int8Export
from serve.bundle.seal import Bundle, open_bundle, seal
from serve.files import sync_directory
from serve.inference.passes import Backend
from serve.inference.predictor import Predictor
from serve.inference.text import Text, TextEncoder
from train.golden import write_golden
from train.importing.checkpoint import Checkpoint, load_checkpoint, write_checkpoint
from train.importing.labels import Naming, Task, labels_of, task_of
from train.importing.parity import Parity, compare, stock_logits
from train.importing.refusal import ImportRefused
from train.importing.samples import Sample, built_in
from train.importing.source import Source
from train.model.source import weights_sha256
from train.origin import code_revision, library_versions, tokenizer_rules

NO_TEXTS = "the model was imported without texts to judge it by; import it again with --texts FILE"

MAX_PARITY_TEXTS = 512
"""Texts of the user on which the bundle is compared with the stock pipeline."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """A source with its task and labels, known before anything is loaded."""

    source: Source
    task: Task
    labels: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What was fitted and judged on the user's texts."""

    temperature: float = 1.0
    """By which the head of the checkpoint was divided."""
    calibration: Calibration | None = None
    int8: Int8Export | None = None
    parity: dict[str, float] = field(default_factory=dict)
    """Figures on bf16."""
    data: dict[str, Any] = field(default_factory=dict)
    """Fingerprints of the rows, by what they were used for."""


Fit = Callable[[Checkpoint, Path], Fitted]
"""Fits and judges on the written directory, into which it may write; scales the model's head."""

Measure = Callable[[Bundle], Bundle]
"""Records metrics in a sealed bundle."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A bundle, and what the user should know about it."""

    bundle: Bundle
    checkpoint_dtype: str
    notes: tuple[str, ...]


def describe(source: Source, naming: Naming) -> Described:
    """Return task and labels as `config.json` and the user have them; refuses what is no such."""
    task = task_of(source.config, source.name, naming.task)
    labels, notes = labels_of(source.config, source.name, naming)
    if len(labels) < 2 and task == "single_label":
        raise ImportRefused(f"`{source.name}` has one label, so every text would get it")
    return Described(source=source, task=task, labels=labels, notes=notes)


def convert(
    described: Described,
    destination: Path,
    *,
    text_columns: tuple[str, ...],
    max_length: int | None = None,
    texts: Sequence[Text] = (),
    fit: Fit | None = None,
    measure: Measure | None = None,
) -> Imported:
    """Import a checkpoint as the bundle `destination`, which must not exist.

    texts: of the user, compared with the stock pipeline besides the built-in ones. Raises
    ImportRefused, and ValueError for a wrong `max_length`; then nothing is left behind.
    """
    from serve.inference.backends.torch import TorchBackend  # imports PyTorch

    is_pair = len(text_columns) == 2
    source = described.source
    checkpoint = load_checkpoint(
        source, described.labels, described.task, is_pair=is_pair, max_length=max_length
    )
    samples = [
        *(Sample(kind="one of your texts", text=text) for text in texts[:MAX_PARITY_TEXTS]),
        *built_in(
            checkpoint.tokenizer,
            max_length=checkpoint.max_length,
            is_pair=is_pair,
            pads=checkpoint.pads,
        ),
    ]
    samples = _built_in_first(samples, len(texts[:MAX_PARITY_TEXTS]))
    stock = stock_logits(checkpoint, samples)
    destination.parent.mkdir(parents=True, exist_ok=True)
    staging = destination.with_name(f".{destination.name}.{uuid.uuid4().hex}")
    sealed = staging.with_name(f"{staging.name}.sealed")
    try:
        write_checkpoint(checkpoint, staging)
        fitted = fit(checkpoint, staging) if fit else Fitted()
        encoder = TextEncoder.from_directory(
            staging, max_length=checkpoint.max_length, is_pair=is_pair
        )
        backend = TorchBackend.load(staging, device="cpu")
        parity = compare(stock, backend, encoder, temperature=fitted.temperature)
        manifest = _manifest(checkpoint, fitted, parity, text_columns)
        manifest["tokenizer"] = tokenizer_rules(staging, encoder, [s.text for s in samples])
        checkpoint = replace(checkpoint, model=None)
        manifest["parity"] |= _record(staging, manifest, backend, source)
        del backend  # the predictor loads the weights once more
        bundle = _opened(seal(staging, sealed, **manifest), source)
        if measure:
            bundle = measure(bundle)
        _place(sealed, destination)
    finally:
        for each in (staging, sealed):
            shutil.rmtree(each, ignore_errors=True)
    return Imported(
        bundle=Bundle(path=destination, manifest=bundle.manifest),
        checkpoint_dtype=checkpoint.dtype,
        notes=(*described.notes, *checkpoint.notes, *parity.notes),
    )


def _built_in_first(samples: list[Sample], given: int) -> list[Sample]:
    return [*samples[given:], *samples[:given]]


def _manifest(
    checkpoint: Checkpoint, fitted: Fitted, parity: Parity, text_columns: tuple[str, ...]
) -> dict[str, Any]:
    source = checkpoint.source
    return {
        "task": checkpoint.task,
        "labels": checkpoint.labels,
        "text_columns": text_columns,
        "max_length": checkpoint.max_length,
        "base_model": {
            "imported": True,
            "base": source.name,
            "revision": source.revision,
            "weights_sha256": weights_sha256(source.content),
            "content": source.content,
            "dtype": checkpoint.dtype,
        },
        "config": {},
        "data": fitted.data,
        "parity": parity.figures | fitted.parity,
        "int8": fitted.int8 or Int8Export(shipped=False, reason=NO_TEXTS),
        "calibration": fitted.calibration,
        "code_revision": code_revision(),
        "versions": library_versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _record(
    staging: Path, manifest: dict[str, Any], backend: Backend, source: Source
) -> dict[str, float]:
    """Write the golden cases; return figures for `parity`. ImportRefused for a model without."""
    try:
        return write_golden(staging, manifest, backend)
    except ValueError as error:
        reason = str(error).replace(f"bundle `{staging}`: ", "")
        raise ImportRefused(f"`{source.name}` makes no bundle that opens: {reason}") from error


def _opened(bundle: Bundle, source: Source) -> Bundle:
    """Open the sealed bundle as a server does: whatever would fail there is refused here."""
    try:
        for backend in ("torch", "onnx"):
            if backend == "torch" or (bundle.manifest.int8 and bundle.manifest.int8.shipped):
                Predictor.load(bundle.path, device="cpu", backend=backend)
    except BundleError as error:
        reason = str(error).replace(f"bundle `{bundle.path}`: ", "")
        raise ImportRefused(f"`{source.name}` makes no bundle that opens: {reason}") from error
    return open_bundle(bundle.path, verify=False)


def _place(sealed: Path, destination: Path) -> None:
    """Rename the bundle into place; another process that was faster wins, with the same content."""
    try:
        sealed.rename(destination)
    except OSError:
        open_bundle(destination)
        return
    sync_directory(destination.parent)
