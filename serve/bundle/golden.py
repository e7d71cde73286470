"""What a bundle's `golden.json` holds: inputs, and the logits that the sealed model gave for them.

`serve.inference.golden` makes it and compares a loaded model with it. Here is its schema, and what
is refused unread: sizes, numbers that are not finite, and cases that do not fit the manifest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from serve.bundle.contents import CONFIG, GOLDEN, MAX_JSON_BYTES, read_object
from serve.bundle.manifest import BundleError, Manifest
from serve.config import FrozenModel

Precision = Literal["fp32", "bf16", "int8"]

MAX_CASES, MAX_TOKENS, MAX_CHARACTERS = 64, 4096, 4096
"""Cases of a bundle, their tokens in all, and characters of a text; those made here have about a
quarter of them."""

PARITY = "golden_"
"""Start of the keys of the manifest's `parity` with the error of each precision, see `errors`. They
decide how far a server's logits may differ, so they are not taken from the file itself."""

_Id = Annotated[int, Field(ge=0, lt=2**31)]
_Logit = Annotated[float, Field(ge=-3.5e38, le=3.5e38)]  # neither infinite nor NaN
_Text = Annotated[str, Field(max_length=MAX_CHARACTERS)]


class GoldenCase(FrozenModel):
    """An input and its logits."""

    text: _Text | tuple[_Text, _Text] | None
    """A built-in text, or pair; null for random token ids."""

    encoding: dict[str, Annotated[tuple[_Id, ...], Field(min_length=1, max_length=MAX_TOKENS)]]
    """Values of each column of the tokenizer: what the model was given."""

    logits: dict[Precision, tuple[_Logit, ...]]
    """Logits in label order, by precision: fp32, and bf16 and int8 where the bundle has them."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens."""
        return len(self.encoding["input_ids"])


class Golden(FrozenModel):
    """The content of `golden.json`."""

    labels: tuple[str, ...]
    """Label names in the order of the logits."""

    cases: Annotated[tuple[GoldenCase, ...], Field(min_length=1, max_length=MAX_CASES)]
    """Built-in texts first, then random token ids. Nothing of the training data is in them."""

    @property
    def scale(self) -> float:
        """The largest absolute logit in fp32, at least 1: the unit of all limits."""
        return max(1.0, *(abs(value) for case in self.cases for value in case.logits["fp32"]))

    def errors(self) -> dict[str, float]:
        """Return each precision's largest difference from fp32, by its key in `parity`."""
        return {
            f"{PARITY}{precision}": max(
                abs(first - second)
                for case in self.cases
                for first, second in zip(case.logits["fp32"], case.logits[precision], strict=True)
            )
            for precision in self.cases[0].logits
            if precision != "fp32"
        }


def read_golden(path: Path, manifest: Manifest) -> Golden:
    """Read the golden cases of a bundle of schema 4.

    Raises BundleError for a file that is too large or malformed, and one that does not fit the
    manifest.
    """
    try:
        if (path / GOLDEN).stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"more than {MAX_JSON_BYTES:,} bytes")
        golden = Golden.model_validate_json((path / GOLDEN).read_bytes(), strict=True)
        for problem in _problems(golden, manifest, read_object(path, CONFIG)):
            raise ValueError(problem)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BundleError(
            f"bundle `{path}`: file `{GOLDEN}`: {where}{': ' if where else ''}{first['msg']}"
        ) from None
    except (OSError, ValueError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"bundle `{path}`: file `{GOLDEN}`: {error}") from None
    return golden


def _problems(golden: Golden, manifest: Manifest, config: dict[str, Any]) -> Iterator[str]:
    if golden.labels != manifest.labels:
        yield "its labels are not those of `manifest.json`, in the same order"
    precisions = set(golden.cases[0].logits)
    shipped = manifest.int8 is not None and manifest.int8.shipped
    if precisions - {"bf16"} != ({"fp32", "int8"} if shipped else {"fp32"}):
        has = "has an int8 export" if shipped else "has no int8 export"
        yield f"it has logits in {sorted(precisions)}, but the bundle {has}"
    rows = config.get("vocab_size")
    last = rows - 1 if isinstance(rows, int) else 2**31
    for number, case in enumerate(golden.cases):
        for problem in _case_problems(case, manifest, precisions, last):
            yield f"case {number} {problem}"
    if sum(case.num_tokens for case in golden.cases) > MAX_TOKENS:
        yield f"its cases have more than {MAX_TOKENS:,} tokens"
    errors = golden.errors()
    stated = {key: value for key, value in manifest.parity.items() if key.startswith(PARITY)}
    if errors.keys() != stated.keys():
        yield f"it has {sorted(errors)}, but `parity` in `manifest.json` has {sorted(stated)}"
    for key, error in errors.items():
        if not math.isclose(error, stated[key], rel_tol=1e-6):
            yield (
                f"its logits in {key.removeprefix(PARITY)} differ from those in fp32 by up to "
                f"{error:.3g}, but `parity` in `manifest.json` says {stated[key]:.3g}"
            )


def _case_problems(
    case: GoldenCase, manifest: Manifest, precisions: set[Precision], last: int
) -> Iterator[str]:
    if case.text is not None and isinstance(case.text, tuple) != manifest.is_pair:
        yield f"is {'one text' if manifest.is_pair else 'a pair'}, which the model does not take"
    columns = manifest.tokenizer.columns
    if case.encoding.keys() != set(columns):
        yield f"has the columns {sorted(case.encoding)}, the tokenizer has {list(columns)}"
    elif len({len(values) for values in case.encoding.values()}) > 1:
        yield "has columns of different lengths"
    elif max(case.encoding["input_ids"]) > last:
        yield f"has the token id {max(case.encoding['input_ids'])}, the model's last is {last}"
    if case.logits.keys() != precisions:
        yield f"has logits in {sorted(case.logits)}, the first one in {sorted(precisions)}"
    for precision, values in case.logits.items():
        if len(values) != len(manifest.labels):
            yield f"has {len(values)} logits in {precision} for {len(manifest.labels)} labels"
