"""Does a loaded model answer as it did when its bundle was sealed?

Hashes show that a bundle's files are intact. They do not show that this machine, with its
libraries, computes what the sealed model computed. So a bundle carries golden cases: built-in texts
with their token ids, and random token ids, each with the logits that the model gave. A server
compares them before it accepts requests. `serve.bundle.golden` has the file's schema.

The limits, S being the largest golden logit:

- fp32: 2e-3 S. Other orders of summation (threads, oneDNN, eager attention, packed, padded) differ
  by 1e-6 S, products in TF32 by 6e-4 S, in fp16 by 1e-3 S.
- bf16: four times the error that the model showed in bf16 where it was sealed, because other
  hardware rounds at other places; at least 2e-2 S, by which packed and padded passes may differ.
- int8: 1.5 times its error against fp32. The export is the same function of integers on any CPU,
  but one unit in the last place of an fp32 sum moves some activations across a rounding boundary,
  and all that follows is rounded differently: with fp32 weights changed by 1e-7, logits change by
  0.4 of that error, with 1e-4 by 0.7 of it. Two independent roundings differ by sqrt(2) of it.

A zeroed layer, a swap of two labels, or another pooling changes logits by 0.2 S and more, noise of
1 % on all weights by 0.01 to 0.05 S. Measured on MiniLM with 77, 12 and 2 labels and on BERT.

Shape suffixes: N cases, C labels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.bundle import contents
from serve.bundle.golden import PARITY, Golden, GoldenCase, Precision, read_golden
from serve.bundle.manifest import BundleError, Manifest
from serve.inference.fast import is_failure
from serve.inference.passes import batch_ends
from serve.inference.placement import DeviceFailed, DoesNotFit
from serve.inference.predictor import WARM_UP, Predictor
from serve.inference.text import Encoding, Text, shortest_first
from serve.language.lines import first_line
from serve.language.spelling import shown

GOLDEN = contents.GOLDEN
"""The file of a bundle with its golden cases."""

RELATIVE = {"fp32": 2e-3, "bf16": 2e-2, "int8": 2e-3}
"""Least limit of a difference by precision, as a fraction of the largest golden logit."""

ERRORS = {"bf16": 4.0, "int8": 1.5}
"""Limit of a difference as a multiple of the error that the precision had when it was recorded."""

LENGTHS = (8, 33, 128, 256)
"""Tokens of the random cases, within `max_length`; besides one as short as the shortest text."""

MAX_TOKENS = 1000
"""Tokens of all cases; a case that would exceed it is left out. The warm-up of a server runs some
seven times as many."""

MAX_LOGITS = 100_000
"""Logits of all cases in one precision, except of a first case: a file of 2 MB."""

BATCH_SIZE, BATCH_TOKENS = 8, 256
"""Cases of a padded batch, and their tokens; longer cases run alone."""

_SENTENCE = "The delivery was late, and nobody answered my question about the invoice again."

_TEXTS = (
    "ok",
    "The parcel arrived late, and the box was open.",
    "Could you please tell me where my refund is?",
    "WHY IS THIS STILL NOT FIXED!!!",
    "Order #4711: 3 x 19.99 EUR = 59.97 (20% off)",
    "Müller aß Crème brûlée in São Paulo",
    "这个产品非常好。",
    "Очень плохое обслуживание",
    "great 👍 thanks",
    " ".join([_SENTENCE] * 8),
)


class GoldenMismatch(BundleError):
    """A loaded model does not answer as the sealed one did."""


def make_golden(
    full: Predictor, int8: Predictor | None = None, bf16: Predictor | None = None
) -> bytes:
    """Return the content of `golden.json` for a model that is loaded in fp32.

    int8: the export, where the bundle has one. bf16: the model in bf16, where it may be served so.
    The manifest needs their `Golden.errors` in its `parity`. Raises BadLogits for logits that are
    not finite.
    """
    inputs = _inputs(full)
    predictors: dict[Precision, Predictor | None] = {"fp32": full, "bf16": bf16, "int8": int8}
    logits: dict[Precision, list[tuple[float, ...]]] = {
        # One by one: what padding changes is the compared model's error, not the recorded one's.
        precision: [tuple(map(_shortest, each.forward([e])[0])) for _, e in inputs]
        for precision, each in predictors.items()
        if each is not None
    }
    cases = tuple(
        GoldenCase(
            text=text,
            encoding={name: tuple(map(int, ids)) for name, ids in encoding.items()},
            logits={precision: rows[number] for precision, rows in logits.items()},
        )
        for number, (text, encoding) in enumerate(inputs)
    )
    golden = Golden(labels=full.bundle.manifest.labels, cases=cases)
    lines = [json.dumps(each.model_dump(mode="json"), ensure_ascii=False) for each in cases]
    labels = json.dumps(golden.labels, ensure_ascii=False)
    rows = ",\n".join(lines)
    return f'{{"labels": {labels}, "cases": [\n{rows}\n]}}\n'.encode()


def check_golden(predictor: Predictor) -> None:
    """Compare a loaded model with its bundle's golden cases, in some ten milliseconds.

    A bundle of schema 3 has none, and passes. Raises GoldenMismatch that names the case, the
    largest difference and the limit; BundleError for a file that cannot be read.
    """
    bundle = predictor.bundle
    if bundle.manifest.schema_version < 4:
        return
    golden = read_golden(bundle.path, bundle.manifest)
    try:
        _check_tokens(golden, predictor)
        _check_logits(golden, predictor)
    except (BundleError, DeviceFailed, DoesNotFit):
        raise
    except BaseException as error:
        if not is_failure(error):
            raise
        raise GoldenMismatch(
            f"bundle `{bundle.path}`: the model fails for its golden cases: {first_line(error)}"
        ) from error


def _inputs(predictor: Predictor) -> list[tuple[Text | None, Encoding]]:
    """Return the built-in texts that have an encoding, and random token ids: what is recorded."""
    encoder = predictor.encoder
    texts: list[Text] = [WARM_UP[encoder.is_pair]]  # which every tokenizer that loads takes
    texts += [*pairwise(_TEXTS), (_TEXTS[-1], _TEXTS[-1])] if encoder.is_pair else _TEXTS
    found: list[tuple[Text | None, Encoding]] = [
        (text, encoding)
        for text, encoding in zip(texts, encoder.encode_each(texts), strict=True)
        if not isinstance(encoding, str)
    ]
    words = sorted({*encoder.plain_ids()} - {encoder.rules.fill["input_ids"]})
    shortest = min((len(encoding["input_ids"]) for _, encoding in found), default=1)
    lengths = sorted({min(length, encoder.max_length) for length in (shortest, *LENGTHS)})
    generator = np.random.default_rng(0)
    if found and words:
        found += [(None, _random(found[0][1], length, words, generator)) for length in lengths]
    kept: list[tuple[Text | None, Encoding]] = []
    tokens = 0
    for text, encoding in found:
        if not kept or tokens + len(encoding["input_ids"]) <= MAX_TOKENS:
            kept.append((text, encoding))
            tokens += len(encoding["input_ids"])
    count = max(1, MAX_LOGITS // len(predictor.bundle.manifest.labels))
    return kept[:: math.ceil(len(kept) / count)]


def _random(
    like: Encoding, length: int, words: Sequence[int], generator: np.random.Generator
) -> Encoding:
    """Return random ids; other columns are those of an encoding, repeated."""
    encoding: dict[str, Any] = {
        name: (list(values) * length)[:length] for name, values in like.items()
    }
    encoding["input_ids"] = [words[n] for n in generator.integers(0, len(words), length)]
    return encoding


def _shortest(value: np.float32) -> float:
    """Return the number with the fewest digits that is this one in fp32."""
    return float(str(value))


def _check_tokens(golden: Golden, predictor: Predictor) -> None:
    longest = max(golden.cases, key=lambda case: case.num_tokens)
    if longest.num_tokens > predictor.encoder.max_length:
        raise _mismatch(
            predictor,
            f"{_name(longest)}: {longest.num_tokens} tokens, over `max_length` = "
            f"{predictor.encoder.max_length}",
        )
    cases = [case for case in golden.cases if case.text is not None]
    found = predictor.encoder.encode_each([case.text for case in cases if case.text is not None])
    for case, encoding in zip(cases, found, strict=True):
        if isinstance(encoding, str):
            raise _mismatch(predictor, f"its tokenizer takes no {_name(case)}: {encoding}")
        for column, recorded in case.encoding.items():
            ids = tuple(map(int, encoding[column]))
            if ids != recorded:
                place = next(
                    (
                        n
                        for n, pair in enumerate(zip(ids, recorded, strict=False))
                        if len({*pair}) > 1
                    ),
                    min(len(ids), len(recorded)),
                )
                raise _mismatch(
                    predictor,
                    f"its tokenizer gives other {column} for {_name(case)}: from token {place} on, "
                    f"{list(ids[place : place + 3])} and not {list(recorded[place : place + 3])}",
                )


def _check_logits(golden: Golden, predictor: Predictor) -> None:
    """Run the cases in padded batches, as a server does, and compare."""
    backend = predictor.backend
    precision = backend.precision
    recorded: Precision = "int8" if precision == "int8" else "fp32"
    limit = limit_of(golden, predictor.bundle.manifest, precision)
    encodings: list[Encoding] = [_encoding(case) for case in golden.cases]
    order = shortest_first(encodings)
    lengths = [golden.cases[row].num_tokens for row in order]
    ends = batch_ends(lengths, BATCH_SIZE, max_tokens=BATCH_TOKENS)
    difference_N = np.zeros(len(order))
    for start, end in pairwise([0, *ends]):
        rows = order[start:end]
        logits_NC = predictor.forward([encodings[row] for row in rows]).astype(np.float64)
        golden_NC = np.array([golden.cases[row].logits[recorded] for row in rows])
        difference_N[rows] = np.abs(logits_NC - golden_NC).max(axis=1)
    worst = int(difference_N.argmax())
    if not difference_N[worst] <= limit:
        raise _mismatch(
            predictor,
            f"its logits for {_name(golden.cases[worst])} differ by up to "
            f"{difference_N[worst]:.2g} from the golden ones, over the limit of {limit:.2g} in "
            f"{precision} ({backend.name} on {backend.device_kind})",
        )


def limit_of(golden: Golden, manifest: Manifest, precision: str) -> float:
    """Return the largest difference of a logit that a correct runtime may show."""
    error = manifest.parity.get(f"{PARITY}{precision}", 0.0)
    return max(RELATIVE[precision] * golden.scale, ERRORS.get(precision, 0.0) * error)


def _encoding(case: GoldenCase) -> dict[str, list[int] | NDArray[np.int32]]:
    return {name: list(values) for name, values in case.encoding.items()}


def _name(case: GoldenCase) -> str:
    if case.text is None:
        return f"{case.num_tokens} random tokens"
    text = case.text if isinstance(case.text, str) else " | ".join(case.text)
    return f"the text {shown(text, 40)!r}"


def _mismatch(predictor: Predictor, problem: str) -> GoldenMismatch:
    return GoldenMismatch(
        f"bundle `{predictor.bundle.path}` does not answer as when it was sealed: {problem}; "
        "download or merge it again, and if it stays so, another version of a library computes "
        "something else"
    )
