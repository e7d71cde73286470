"""What is wrong with a data set: findings for people, and suggestions for rows.

Pure: rows, numbers of tokens and the judgements of models come in; `train.audit.findings` puts what
is found into words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.audit.copies import Advice, Place, find_copies
from train.audit.findings import (
    Finding,
    View,
    count_labels,
    of_characters,
    of_copies,
    of_invalid,
    of_labels,
    of_lengths,
)
from train.audit.label_errors import LabelIssues
from train.config.run import RunConfig
from train.data.fixes import Fix, Label, row_hash
from train.data.rows import Labels, SplitName
from train.data.splits import InvalidRow, LabelledData


@dataclass(frozen=True, kw_only=True)
class Audit:
    """All that was found."""

    findings: list[Finding]
    fixes: list[Fix]
    """Suggestions: copies first, then labels, the most suspect first."""

    label_counts: dict[str, dict[SplitName, int]]
    """For each label its rows in each split, the most frequent in train first."""

    tokens: dict[str, float]
    """Median, 95th percentile and maximum of the number of tokens."""

    @property
    def counts(self) -> dict[str, int]:
        """By kind of finding the number of rows, or of pairs, groups or labels."""
        return {finding.kind: finding.count for finding in self.findings}

    @property
    def imbalance(self) -> float:
        """Rows of the most frequent label in train for each row of the rarest."""
        counts = [each["train"] for each in self.label_counts.values()]
        return max(counts) / min(counts)

    @property
    def is_clean(self) -> bool:
        """Whether no text is in two splits and no copies contradict each other."""
        return not (self.counts["leakage"] or self.counts["conflicts"])


def audit(
    config: RunConfig,
    data: LabelledData,
    *,
    invalid: Sequence[InvalidRow],
    num_invalid: int,
    tokens: dict[SplitName, NDArray[np.int64]],
    judgements: dict[SplitName, LabelIssues] | None,
) -> Audit:
    """Look for everything.

    tokens: of each row before it is cut, (N,) by split. judgements: of the labels by split;
    None leaves this finding out.
    """
    section = config.audit
    view = View(data=data, limit=section.rows_shown)
    copies = find_copies(
        data, steps=section.normalize, near=section.near_duplicate_threshold, seed=config.seed
    )
    counts = count_labels(data)
    findings = [of_invalid(invalid, num_invalid, view), *of_copies(copies, view)]
    advice = list(copies.advice)
    if judgements is not None:
        suspects = rank_suspects(judgements, data)
        taken = {each.place for each in advice}
        advice += [each for each in suspects if each.place not in taken]
        findings.insert(
            1,
            view.finding(
                "label_errors",
                "Labels that are probably wrong",
                "Linear models on the frozen base, which did not see the row, are surer of "
                "another label than they usually are of that label's own rows.",
                len(suspects),
                (view.row(each.place, _proposal(each)) for each in suspects),
                (each.place.split for each in suspects),
            ),
        )
    findings += of_labels(counts, section.rare_label_threshold, view)
    findings += of_lengths(tokens, config.model.max_length, view)
    findings += of_characters(data, view)
    count_N = np.concatenate(list(tokens.values()))
    return Audit(
        findings=findings,
        fixes=[_fix(each, data, config.task) for each in advice],
        label_counts=counts,
        tokens={
            "median": float(np.median(count_N)),
            "p95": float(np.percentile(count_N, 95)),
            "max": float(count_N.max()),
        },
    )


def rank_suspects(judgements: dict[SplitName, LabelIssues], data: LabelledData) -> list[Advice]:
    """Rows whose labels are suspected, the most suspect first."""
    ranked: list[tuple[float, Advice]] = []
    for name, judged in judgements.items():
        for index in np.flatnonzero(judged.suspect_N).tolist():
            suggested = np.flatnonzero(judged.suggested_NC[index])
            score = float(judged.score_N[index])
            advice = Advice(
                place=Place(split=name, index=index),
                reason=f"label suspected, margin {score:+.3f}",
                suggested=tuple(data.labels[label] for label in suggested),
            )
            ranked.append((score, advice))
    return [advice for _, advice in sorted(ranked, key=lambda each: each[0])]


def _proposal(advice: Advice) -> str:
    return f"{', '.join(advice.suggested or ()) or 'no label'}? {advice.reason}"


def _fix(advice: Advice, data: LabelledData, task: str) -> Fix:
    split = data.splits[advice.place.split]
    text, labels = split.texts[advice.place.index], split.labels[advice.place.index]
    return Fix(
        action="drop" if advice.suggested is None else "relabel",
        source=split.source,
        row=split.rows[advice.place.index],
        sha256=row_hash(text, labels),
        text=text if isinstance(text, str) else list(text),
        label=_label(labels, task),
        suggested=None if advice.suggested is None else _label(advice.suggested, task),
        reason=advice.reason,
    )


def _label(labels: Labels, task: str) -> Label:
    return list(labels) if task == "multi_label" else labels[0]
