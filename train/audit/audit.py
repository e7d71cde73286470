"""Audit a data set: findings for people, and suggested changes of rows.

Pure: rows, token counts and label issues are arguments. `train.audit.findings` describes what is
found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.audit.advice import Advice, class_weights, merge_labels, more_rows, shared_texts
from train.audit.duplicates import Place, Suggestion, find_duplicates
from train.audit.findings import (
    Finding,
    View,
    character_findings,
    count_labels,
    duplicate_findings,
    invalid_finding,
    label_findings,
    length_findings,
)
from train.audit.label_errors import Floats, LabelIssues
from train.audit.planted import Reliability
from train.config.run import RunConfig
from train.data.fixes import Fix, Label, row_hash
from train.data.rows import Labels, SplitName
from train.data.splits import InvalidRow, LabelledData
from train.statistics.metrics import Choice


@dataclass(frozen=True, kw_only=True)
class LabelJudgement:
    """What probes say of the labels, and how far they can be trusted."""

    reliability: Reliability
    issues: dict[SplitName, LabelIssues]
    """By split; empty if suspicion is not reported."""

    probs_NC: Floats
    """Of the training rows, by probes that were not fitted on them."""

    given_NC: Choice
    """The labels of the training rows."""

    balanced_NC: Floats | None
    """As `probs_NC`, by probes with balanced class weights; None if labels are as frequent."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The result of an audit."""

    findings: list[Finding]
    fixes: list[Fix]
    """Suggestions: duplicates first, then label errors, the most suspect first."""

    label_counts: dict[str, dict[SplitName, int]]
    """Each label's rows in each split, the most frequent in train first."""

    tokens: dict[str, float]
    """Median, 95th percentile and maximum of the tokens per text."""

    reliability: Reliability | None
    """How well label errors are found; None if they were not looked for."""

    advice: list[Advice]
    """What would probably help, with figures; empty where nothing is known to."""

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows, pairs, groups or labels by kind of finding."""
        return {finding.kind: finding.count for finding in self.findings}

    @property
    def imbalance(self) -> float:
        """Training rows of the most frequent label divided by those of the rarest."""
        counts = [each["train"] for each in self.label_counts.values()]
        return max(counts) / min(counts)

    @property
    def is_clean(self) -> bool:
        """True if no text is in two splits and no duplicates have conflicting labels."""
        return not (self.counts["leakage"] or self.counts["conflicts"])


def audit(
    config: RunConfig,
    data: LabelledData,
    *,
    invalid: Sequence[InvalidRow],
    num_invalid: int,
    tokens: dict[SplitName, NDArray[np.int64]],
    judgement: LabelJudgement | None,
) -> Audit:
    """Run all checks.

    tokens: of each row before truncation, (N,) by split. judgement: of the labels; None leaves
    this finding out.
    """
    section = config.audit
    view = View(data=data, limit=section.rows_shown)
    duplicates = find_duplicates(
        data, steps=section.normalize, near=section.near_duplicate_threshold, seed=config.seed
    )
    counts = count_labels(data)
    findings = [invalid_finding(invalid, num_invalid, view)]
    suggestions = list(duplicates.suggestions)
    if judgement is not None:
        suspects = rank_suspects(judgement.issues, data)
        taken = {each.place for each in suggestions}
        suggestions += [each for each in suspects if each.place not in taken]
        findings.append(_label_error_finding(suspects, judgement.reliability, view))
    findings += duplicate_findings(duplicates, view)
    findings += label_findings(counts, section.rare_label_threshold, view)
    findings += length_findings(tokens, config.model.max_length, view)
    findings += character_findings(data, view)
    count_N = np.concatenate(list(tokens.values()))
    return Audit(
        findings=findings,
        fixes=[_fix(each, data, config.task) for each in suggestions],
        label_counts=counts,
        tokens={
            "median": float(np.median(count_N)),
            "p95": float(np.percentile(count_N, 95)),
            "max": float(count_N.max()),
        },
        reliability=judgement.reliability if judgement else None,
        advice=[
            *(shared_texts(len(duplicates.leaks_normalized))),
            *(more_rows(counts, config.data)),
            *(_probes_advice(judgement, data.labels, config) if judgement else ()),
        ],
    )


def _probes_advice(
    judgement: LabelJudgement, labels: Sequence[str], config: RunConfig
) -> Iterator[Advice]:
    given_NC, probs_NC = judgement.given_NC, judgement.probs_NC
    if judgement.balanced_NC is not None:
        yield from class_weights(given_NC, probs_NC, judgement.balanced_NC, labels, config.seed)
    if config.task == "single_label":
        yield from merge_labels(given_NC, probs_NC, labels)


def rank_suspects(issues: dict[SplitName, LabelIssues], data: LabelledData) -> list[Suggestion]:
    """Return suggestions for rows with suspect labels, the most suspect first."""
    ranked: list[tuple[float, Suggestion]] = []
    for name, found in issues.items():
        for index in np.flatnonzero(found.suspect_N).tolist():
            suggested = np.flatnonzero(found.suggested_NC[index])
            score = float(found.score_N[index])
            suggestion = Suggestion(
                place=Place(split=name, index=index),
                reason=f"suspect label, odds {math.exp(min(-score, 20.0)):,.0f} to 1 against it",
                suggested=tuple(data.labels[label] for label in suggested),
            )
            ranked.append((score, suggestion))
    return [suggestion for _, suggestion in sorted(ranked, key=lambda each: each[0])]


def _label_error_finding(
    suspects: Sequence[Suggestion], reliability: Reliability, view: View
) -> Finding:
    def note(suspect: Suggestion) -> str:
        return f"{', '.join(suspect.suggested or ()) or 'no label'}? {suspect.reason}"

    meaning = (
        "Linear probes that were not trained on the row contradict its labels. The threshold finds "
        f"{reliability.found:.0%} of errors that were planted to test it; about "
        f"{reliability.precision:.0%} of the rows below are estimated to be wrong."
    )
    if reliability.reason:
        meaning = f"Not reported: {reliability.reason}."
    return view.finding(
        "label_errors",
        "Labels that are probably wrong",
        meaning,
        len(suspects),
        (view.row(each.place, note(each)) for each in suspects),
        (each.place.split for each in suspects),
    )


def _fix(suggestion: Suggestion, data: LabelledData, task: str) -> Fix:
    split = data.splits[suggestion.place.split]
    index = suggestion.place.index
    text, labels = split.texts[index], split.labels[index]
    return Fix(
        action="drop" if suggestion.suggested is None else "relabel",
        source=split.source,
        row=split.rows[index],
        sha256=row_hash(text, labels),
        text=text if isinstance(text, str) else list(text),
        label=_label(labels, task),
        suggested=None if suggestion.suggested is None else _label(suggestion.suggested, task),
        reason=suggestion.reason,
    )


def _label(labels: Labels, task: str) -> Label:
    return list(labels) if task == "multi_label" else labels[0]
