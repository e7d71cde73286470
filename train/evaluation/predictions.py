"""`predictions.parquet`: one row per test text, to be joined with the source by row or id.

Columns: `row` (its number in the source, from 1), the columns of `evaluation.id_columns`, `text`
(and `text_pair`), `label` and `predicted` (a string, for multi-label a list of strings),
`correct`, `confidence`, `abstain` (null if the bundle never abstains), and for each label its
probability, as `p:LABEL`.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serve.bundle.manifest import Manifest
from serve.files import replacement
from serve.tables import write_rows
from train.data.splits import Split
from train.evaluation.result import Measurement


def write_predictions(file: Path, split: Split, manifest: Manifest, result: Measurement) -> None:
    """Write the file, replacing an older one."""
    columns = list(next(prediction_rows(split, manifest, result)))
    # The types of columns that may hold no value at all.
    types = {"abstain": False, "label": _none_of(manifest), "predicted": _none_of(manifest)}
    with replacement(file) as temporary:
        write_rows(
            temporary, lambda: prediction_rows(split, manifest, result), columns, types=types
        )


def _none_of(manifest: Manifest) -> Any:
    return ["x"] if manifest.task == "multi_label" else "x"


def prediction_rows(
    split: Split, manifest: Manifest, result: Measurement
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the file, in the order of the split."""
    names, multi = manifest.labels, manifest.task == "multi_label"
    decision, correct_N = result.decision, result.correct_N
    numbers = split.rows if len(split.rows) else range(1, len(split) + 1)
    ids = zip(*split.ids.values(), strict=True) if split.ids else [()] * len(split)
    for n, (number, text, labels, keys) in enumerate(
        zip(numbers, split.texts, split.labels, ids, strict=True)
    ):
        predicted = [names[c] for c in result.predicted_NC[n].nonzero()[0]]
        texts = {"text": text} if isinstance(text, str) else {"text": text[0], "text_pair": text[1]}
        yield {
            "row": number,
            **dict(zip(split.ids, keys, strict=True)),
            **texts,
            "label": list(labels) if multi else labels[0],
            "predicted": predicted if multi else predicted[0],
            "correct": bool(correct_N[n]),
            "confidence": float(decision.confidence_N[n]),
            "abstain": None if decision.abstain_N is None else bool(decision.abstain_N[n]),
            **{
                f"p:{name}": float(p)
                for name, p in zip(names, result.probabilities_NC[n], strict=True)
            },
        }
