"""Is the bundle the model that was imported? Its logits are compared with the stock pipeline's.

Reference: the stock class and the stock tokenizer on the source, text by text and in padded
batches, in fp32. Bundle: the written directory through the code that serves it. First the token
ids must be the same, then the logits within `TOLERANCE`. A difference refuses the import, with the
figure and the kind of text.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serve.inference.passes import Backend
from serve.inference.placement import STOCK_SINGLE
from serve.inference.scores import Array
from serve.inference.text import Encoding, TextEncoder
from serve.language.lines import first_line
from serve.language.spelling import shown
from train.importing.checkpoint import Checkpoint
from train.importing.refusal import ImportRefused
from train.importing.samples import MAX_LONG_TOKENS, Sample

TOLERANCE = 1e-4
"""Largest allowed absolute difference of logits, in fp32."""

STOCK_BATCH = "stock_batch"
"""Key of the manifest's `parity`: the largest difference of a text in a padded batch."""

BATCH = 8
"""Texts of a padded batch; neighbours differ in length."""

MAX_SINGLE = 96
"""Texts that are also compared one by one."""


@dataclass(frozen=True, kw_only=True)
class Stock:
    """What the stock pipeline makes of the texts that the bundle takes."""

    model: str
    """Name of the stock class."""

    samples: Sequence[Sample]
    ids: list[list[int]]
    single_NC: Array
    """Of the first texts, alone, (min(N, MAX_SINGLE), C)."""

    batch_NC: Array | None
    """Of each text in its padded batch; None where the stock tokenizer cannot pad."""


def stock_logits(checkpoint: Checkpoint, samples: Sequence[Sample]) -> Stock:
    """Run the stock pipeline. Texts that no server here accepts, such as empty ones, are left out.

    Raises ImportRefused for a model that cannot run, or gives logits that are not finite.
    """
    usable = [
        sample
        for sample, encoding in zip(
            samples, checkpoint.encoder.encode_each([s.text for s in samples]), strict=True
        )
        if not isinstance(encoding, str) and _length(encoding) <= MAX_LONG_TOKENS
    ]
    ids = [[int(n) for n in row] for s in usable for row in _tokens(checkpoint, [s])["input_ids"]]
    single = [_run(checkpoint, [sample]) for sample in usable[:MAX_SINGLE]]
    batches = None
    if checkpoint.pads:
        batches = [_run(checkpoint, usable[n : n + BATCH]) for n in range(0, len(usable), BATCH)]
    return Stock(
        model=type(checkpoint.model).__name__,
        samples=usable,
        ids=ids,
        single_NC=np.concatenate(single),
        batch_NC=None if batches is None else np.concatenate(batches),
    )


def _length(encoding: Encoding) -> int:
    return len(encoding["input_ids"])


def _tokens(checkpoint: Checkpoint, samples: Sequence[Sample]) -> Any:
    """Tokenize as the pipeline does, with truncation, for a model that may not take all columns."""
    texts = [sample.text for sample in samples]
    is_pair = checkpoint.encoder.is_pair
    columns = checkpoint.tokenizer(
        [text[0] for text in texts] if is_pair else texts,
        [text[1] for text in texts] if is_pair else None,
        truncation=True,
        max_length=checkpoint.max_length,
        padding=len(texts) > 1,
        return_tensors="np",
        verbose=False,
    )
    names = (*checkpoint.encoder.columns, "attention_mask")
    return {name: columns[name] for name in names if name in columns}


def _run(checkpoint: Checkpoint, samples: Sequence[Sample]) -> Array:
    import torch

    inputs = {name: torch.as_tensor(v) for name, v in _tokens(checkpoint, samples).items()}
    kind = type(checkpoint.model).__name__
    try:
        with torch.inference_mode():
            output = checkpoint.model(**inputs).logits
    except Exception as error:  # an architecture may raise anything
        raise ImportRefused(
            f"`{checkpoint.source.name}`: {kind} fails for {samples[0].kind}: {first_line(error)}"
        ) from error
    logits_NC: Array = output.float().numpy()
    if logits_NC.shape != (len(samples), len(checkpoint.labels)):
        raise ImportRefused(
            f"`{checkpoint.source.name}`: {kind} returns logits of shape {logits_NC.shape} for "
            f"{len(samples)} texts and {len(checkpoint.labels)} labels"
        )
    if not np.isfinite(logits_NC).all():
        raise ImportRefused(
            f"`{checkpoint.source.name}` gives logits that are not finite for {samples[0].kind}"
        )
    return logits_NC


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Figures for the manifest, and what the user should know."""

    figures: dict[str, float]
    notes: tuple[str, ...]


def compare(stock: Stock, backend: Backend, encoder: TextEncoder, *, temperature: float) -> Parity:
    """Compare the written model, run as it is served, with the stock pipeline.

    backend, encoder: made from the directory. temperature: by which the bundle's logits were
    divided. Raises ImportRefused with the largest difference and the kind of text.
    """
    encodings = encoder.encode([sample.text for sample in stock.samples])
    _check_ids(stock, encodings)
    single_NC = np.concatenate(
        [backend.forward(encoder.pad([each])) for each in encodings[: len(stock.single_NC)]]
    )
    batch_NC = np.concatenate(
        [
            backend.forward(encoder.pad(encodings[n : n + BATCH]))
            for n in range(0, len(encodings), BATCH)
        ]
    )
    alone_NC = stock.single_NC / np.float32(temperature)
    count = len(alone_NC)
    figures = {"texts": float(len(encodings)), "tolerance": TOLERANCE}
    figures[STOCK_SINGLE] = _largest(alone_NC, single_NC, stock.samples, "alone")
    _check_padding(stock, single_NC, batch_NC[:count])
    figures[STOCK_BATCH] = _largest(alone_NC, batch_NC[:count], stock.samples, "in a padded batch")
    if stock.batch_NC is None:
        return Parity(figures=figures, notes=())
    together_NC = stock.batch_NC / np.float32(temperature)
    varies = float(np.abs(together_NC[:count] - alone_NC).max())
    if varies > TOLERANCE:
        note = (
            f"the stock pipeline's logits depend on the texts in a batch (by up to {varies:.1e}); "
            "those of the bundle are the ones of each text alone"
        )
        return Parity(figures=figures, notes=(note,))
    difference = _largest(together_NC, batch_NC, stock.samples, "in a padded batch")
    figures[STOCK_BATCH] = max(figures[STOCK_BATCH], difference)
    return Parity(figures=figures, notes=())


def _check_padding(stock: Stock, single_NC: Array, batch_NC: Array) -> None:
    """Raise ImportRefused for a model whose answers depend on padding: a server batches texts."""
    difference_N = np.abs(batch_NC - single_NC).max(axis=1)
    worst = int(difference_N.argmax())
    if difference_N[worst] > TOLERANCE:
        raise ImportRefused(
            f"{stock.model} does not mask padding: its logits for {stock.samples[worst].kind}, "
            f"{_quoted(stock.samples[worst])}, change by {difference_N[worst]:.1e} with longer "
            "texts beside it in a batch, and a server puts texts of many clients into one"
        )


def _check_ids(stock: Stock, encodings: Sequence[Encoding]) -> None:
    for sample, expected, encoding in zip(stock.samples, stock.ids, encodings, strict=True):
        found = [int(each) for each in encoding["input_ids"]]
        if found != expected:
            place = next(_differing(expected, found))
            raise ImportRefused(
                f"the stock tokenizer and the bundle's give different tokens for {sample.kind}, "
                f"{_quoted(sample)}: from token {place} on, {expected[place : place + 3]} and "
                f"{found[place : place + 3]}"
            )


def _differing(first: list[int], second: list[int]) -> Iterator[int]:
    yield from (n for n, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1])
    yield min(len(first), len(second))


def _largest(first_NC: Array, second_NC: Array, samples: Sequence[Sample], how: str) -> float:
    """Return the largest difference; ImportRefused if it exceeds the tolerance, or is NaN."""
    difference_N = np.abs(first_NC - second_NC).max(axis=1)
    worst = int(np.nan_to_num(difference_N, nan=np.inf).argmax())
    if not difference_N[worst] <= TOLERANCE:
        sample = samples[worst]
        raise ImportRefused(
            f"logits of the stock pipeline and of the bundle differ by {difference_N[worst]:.1e} "
            f"for {sample.kind} {how}, {_quoted(sample)}, over the tolerance of {TOLERANCE:.0e}"
        )
    return float(difference_N[worst])


def _quoted(sample: Sample) -> str:
    text = sample.text if isinstance(sample.text, str) else " | ".join(sample.text)
    return repr(shown(text, 60))
