"""What differs between two bundles' answers: texts and labels. Pure, but for writing the file.

Of several seeds the first candidate is compared with the first champion.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serve.files import replacement
from serve.inference.scores import confidence
from serve.inference.text import Text
from serve.tables import write_rows
from train.data.splits import Split
from train.statistics.metrics import Choice
from train.statistics.resampling import Predictions

Outcome = Literal["broken", "fixed", "both wrong"]
"""Only the champion was right, only the candidate is, or neither."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A text whose answer changed."""

    row: int
    """Its number in the source, from 1."""
    text: Text
    label: tuple[str, ...]
    champion: tuple[str, ...]
    candidate: tuple[str, ...]
    confidence: float
    """The candidate's confidence in its answer."""
    outcome: Outcome


@dataclass(frozen=True, kw_only=True)
class LabelChange:
    """The recall of one label."""

    label: str
    rows: int
    champion: float
    candidate: float


def find_changes(
    split: Split,
    champion: Predictions,
    candidate: Predictions,
    *,
    labels: Sequence[str],
    task: str,
    new_labels: Sequence[str],
    predicted_new: Choice,
) -> list[Change]:
    """List the texts with different answers, the candidate's most confident answers first.

    new_labels, predicted_new: labels of the candidate alone, and its answers with these; (N, C).
    """
    changed_N = (champion.predicted_NC != candidate.predicted_NC).any(axis=1)
    probabilities_NC = np.nan_to_num(candidate.probabilities_NC)
    confidence_N = _confidence(probabilities_NC, candidate.predicted_NC, task)
    was_right_N, is_right_N = champion.correct_N, candidate.correct_N

    def names(choice_C: Any, of: Sequence[str] = labels) -> tuple[str, ...]:
        return tuple(of[c] for c in np.flatnonzero(choice_C).tolist())

    changed = np.flatnonzero(changed_N)
    return [
        Change(
            row=split.rows[n] if len(split.rows) else n + 1,
            text=split.texts[n],
            label=tuple(split.labels[n]),
            champion=names(champion.predicted_NC[n]),
            candidate=names(candidate.predicted_NC[n]) + names(predicted_new[n], new_labels),
            confidence=float(confidence_N[n]),
            outcome="broken" if was_right_N[n] else "fixed" if is_right_N[n] else "both wrong",
        )
        for n in changed[np.argsort(-confidence_N[changed], kind="stable")].tolist()
    ]


def _confidence(
    probabilities_NC: NDArray[np.float32], predicted_NC: Choice, task: str
) -> NDArray[np.float64]:
    """The confidence in each answer; in that with a new label, what the shared ones leave."""
    if task == "multi_label":
        return confidence(probabilities_NC, predicted_NC, task)
    answered_N = (probabilities_NC * predicted_NC).sum(axis=1, dtype=np.float64)
    left_N = np.clip(1 - probabilities_NC.sum(axis=1, dtype=np.float64), 0, 1)
    return np.asarray(np.where(predicted_NC.any(axis=1), answered_N, left_N))


def label_changes(
    champion: Predictions, candidate: Predictions, labels: Sequence[str]
) -> list[LabelChange]:
    """The recall of each label that the test rows have, the largest drop first."""
    reference_NC = candidate.reference_NC
    support_C = reference_NC.sum(axis=0)
    recalls = [(side.predicted_NC & reference_NC).sum(axis=0) for side in (champion, candidate)]
    found = [
        LabelChange(
            label=labels[c],
            rows=int(support_C[c]),
            champion=float(recalls[0][c] / support_C[c]),
            candidate=float(recalls[1][c] / support_C[c]),
        )
        for c in np.flatnonzero(support_C).tolist()
    ]
    return sorted(found, key=lambda each: each.candidate - each.champion)


def changes_file(report: Path) -> Path:
    """The file of changed texts beside a report."""
    return report.with_name(f"{report.stem}-changed.parquet")


def write_changes(file: Path, changes: Sequence[Change], *, is_pair: bool) -> None:
    """Write all changes, replacing an older file."""
    columns = ["row", "text", *["text_pair"] * is_pair, "label", "champion", "candidate",
               "confidence", "outcome"]  # fmt: skip

    def rows() -> Iterator[dict[str, Any]]:
        for each in changes:
            parts = (each.text,) if isinstance(each.text, str) else each.text
            yield {
                "row": each.row,
                **dict(zip(("text", "text_pair"), parts, strict=False)),
                "label": list(each.label),
                "champion": list(each.champion),
                "candidate": list(each.candidate),
                "confidence": each.confidence,
                "outcome": each.outcome,
            }

    names = ["x"]
    types = {"row": 1, "label": names, "champion": names, "candidate": names, "confidence": 0.5}
    with replacement(file) as temporary:
        write_rows(temporary, rows, columns, types=types)
