"""Describe the findings of an audit: title, meaning, count, and the worst rows.

Pure. For what counts as a duplicate see `train.audit.duplicates`, as a label error
`train.audit.label_errors`, as a broken character `train.audit.characters`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from serve.inference.text import Text
from train.audit.characters import (
    character_problems,
    dominant_scripts,
    foreign_fraction,
    scripts_of,
)
from train.audit.duplicates import Duplicates, Place, named
from train.audit.normalization import joined
from train.data.rows import Labels, SplitName
from train.data.splits import InvalidRow, LabelledData

FOREIGN_FRACTION = 0.5
"""Fraction of letters outside the data set's scripts above which a text is reported."""

OUTLIER_DEVIATIONS = 5.0
"""Distance of a text's log length from the median above which it is reported, in standard
deviations estimated from the median absolute deviation."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A row in the report."""

    split: str
    row: str
    text: Text
    labels: Labels
    note: str
    other: Text | None = None
    """The text that it duplicates; None if it is reported for another reason."""
    other_row: str = ""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of problem."""

    kind: str
    title: str
    meaning: str
    count: int
    parts: dict[str, int]
    """The count by split or source, where that applies; zero counts are left out."""

    rows: list[Shown]
    """The worst rows, worst first."""


@dataclass(frozen=True, kw_only=True)
class View:
    """Builds findings and their rows."""

    data: LabelledData
    limit: int
    """Maximum rows per finding."""

    def row(self, place: Place, note: str = "", other: Place | None = None) -> Shown:
        """Return a row of the splits. other: the row that it duplicates."""
        split = self.data.splits[place.split]
        return Shown(
            split=place.split,
            row=named(self.data, place),
            text=split.texts[place.index],
            labels=split.labels[place.index],
            note=note,
            other=self.data.splits[other.split].texts[other.index] if other else None,
            other_row=f"{named(self.data, other)}, {other.split}" if other else "",
        )

    def finding(
        self,
        kind: str,
        title: str,
        meaning: str,
        count: int,
        rows: Iterable[Shown],
        parts: Iterable[str] = (),
    ) -> Finding:
        """Make a finding that shows the first rows. parts: split or source of each counted row."""
        return Finding(
            kind=kind,
            title=title,
            meaning=meaning,
            count=count,
            parts=dict(Counter(parts)),
            rows=list(islice(rows, self.limit)),
        )


def invalid_finding(invalid: Sequence[InvalidRow], count: int, view: View) -> Finding:
    """Report the unusable rows."""
    return view.finding(
        "unusable",
        "Unusable rows",
        "Rows without a text or a label, or with a value of another type. `fit` refuses them "
        "unless `data.drop_invalid_rows=true` skips them.",
        count,
        (
            Shown(
                split="",
                row=f"row {each.row} of data.{each.source}",
                text=each.content,
                labels=(),
                note=each.problem,
            )
            for each in invalid
        ),
    )


def duplicate_findings(duplicates: Duplicates, view: View) -> list[Finding]:
    """Report leakage, conflicts, duplicates and near duplicates."""

    def same(places: Sequence[Place], exact: Sequence[Place]) -> Iterator[Shown]:
        exact_places = set(exact)
        for place in places:
            kind = "exact" if place in exact_places else "after normalization"
            yield view.row(place, kind, duplicates.first.get(place))

    def similar(pairs: Iterable[tuple[Place, Place, float]]) -> Iterator[Shown]:
        for place, other, similarity in pairs:
            yield view.row(place, f"{similarity:.0%} similar", other)

    return [
        view.finding(
            "leakage",
            "Texts in more than one split",
            "Rows of test that are also in train or validation, and rows of validation that are "
            "also in train: leakage, which inflates the metrics.",
            len(duplicates.leaks_normalized),
            same(duplicates.leaks_normalized, duplicates.leaks_exact),
            (place.split for place in duplicates.leaks_normalized),
        ),
        view.finding(
            "conflicts",
            "Duplicates with conflicting labels",
            "Groups of rows with the same normalized text and different labels.",
            len(duplicates.conflicts),
            (
                view.row(place, f"group {number}")
                for number, group in enumerate(duplicates.conflicts, start=1)
                for place in group
            ),
        ),
        view.finding(
            "near_leakage",
            "Near duplicates across splits",
            "Pairs, most similar first. They do not fail `--strict`.",
            len(duplicates.leaks_near),
            similar(duplicates.leaks_near),
            (place.split for place, _, _ in duplicates.leaks_near),
        ),
        view.finding(
            "duplicates",
            "Duplicates within a source",
            "Rows whose normalized text occurs earlier in the same source.",
            len(duplicates.normalized),
            same(duplicates.normalized, duplicates.exact),
            (f"data.{view.data.splits[place.split].source}" for place in duplicates.normalized),
        ),
        view.finding(
            "near_duplicates",
            "Near duplicates within a split",
            "Pairs, most similar first. No change is suggested for them.",
            len(duplicates.near),
            similar(duplicates.near),
            (place.split for place, _, _ in duplicates.near),
        ),
    ]


def count_labels(data: LabelledData) -> dict[str, dict[SplitName, int]]:
    """Count each label's rows in each split, the most frequent in train first."""
    counts = {
        name: Counter(label for row in split.labels for label in row)
        for name, split in data.splits.items()
    }
    order = sorted(data.labels, key=lambda label: (-counts["train"][label], label))
    return {label: {name: counts[name][label] for name in counts} for label in order}


def label_findings(counts: dict[str, dict[SplitName, int]], rare: int, view: View) -> list[Finding]:
    """Report labels with few training rows, and labels without test rows."""

    def shown(labels: Iterable[str], note: str) -> Iterator[Shown]:
        for label in labels:
            text = ", ".join(f"{count} {name}" for name, count in counts[label].items())
            yield Shown(split="", row="", text=text, labels=(label,), note=note)

    few = [label for label in reversed(counts) if counts[label]["train"] < rare]
    untested = [label for label, each in counts.items() if not each["test"]]
    return [
        view.finding(
            "rare_labels",
            "Rare labels",
            f"Labels with fewer than {rare} rows in train (`audit.rare_label_threshold`).",
            len(few),
            shown(few, f"fewer than {rare} rows in train"),
        ),
        view.finding(
            "labels_without_test",
            "Labels without test rows",
            "Performance on these labels cannot be measured.",
            len(untested),
            shown(untested, "no row in test"),
        ),
    ]


def length_findings(
    tokens: dict[SplitName, NDArray[np.int64]], max_length: int, view: View
) -> list[Finding]:
    """Report texts that will be truncated, and texts of unusual length."""
    places = [Place(split=name, index=n) for name in tokens for n in range(len(tokens[name]))]
    count_N = np.concatenate(list(tokens.values()))
    log_N = np.log(np.maximum(count_N, 1))
    distance_N = np.abs(log_N - np.median(log_N))
    deviation = max(1.4826 * float(np.median(distance_N)), 0.1)
    far_N = distance_N / deviation

    def shown(order_N: NDArray[np.intp]) -> Iterator[Shown]:
        for n in order_N:
            yield view.row(places[n], f"{count_N[n]} tokens")

    truncated_N, unusual_N = count_N > max_length, far_N > OUTLIER_DEVIATIONS
    return [
        view.finding(
            "cut",
            "Truncated texts",
            f"Texts of more than {max_length} tokens (`model.max_length`); the rest is ignored.",
            int(truncated_N.sum()),
            shown(np.argsort(-count_N, kind="stable")[: truncated_N.sum()]),
        ),
        view.finding(
            "length_outliers",
            "Unusual lengths",
            f"More than {OUTLIER_DEVIATIONS:g} robust standard deviations from the median of "
            f"{np.median(count_N):g} tokens, on a logarithmic scale.",
            int(unusual_N.sum()),
            shown(np.argsort(-far_N, kind="stable")[: unusual_N.sum()]),
        ),
    ]


def character_findings(data: LabelledData, view: View) -> list[Finding]:
    """Report broken characters, and texts in other scripts than the data set's."""
    broken: list[tuple[Place, str]] = []
    for name, split in data.splits.items():
        for index, text in enumerate(split.texts):
            if problems := character_problems(joined(text).replace("\x1f", " ")):
                broken.append((Place(split=name, index=index), "; ".join(problems)))
    dominant = dominant_scripts(scripts_of(joined(text)) for text in data.train.texts)
    foreign: list[tuple[float, Place]] = []
    for name, split in data.splits.items():
        for index, text in enumerate(split.texts):
            fraction = foreign_fraction(scripts_of(joined(text)), dominant)
            if fraction > FOREIGN_FRACTION:
                foreign.append((fraction, Place(split=name, index=index)))
    foreign.sort(key=lambda each: -each[0])
    scripts = ", ".join(sorted(map(str.title, dominant))) or "none"
    return [
        view.finding(
            "characters",
            "Broken or invisible characters",
            "Text decoded with a wrong encoding, control characters, invisible characters.",
            len(broken),
            (view.row(place, note) for place, note in broken),
        ),
        view.finding(
            "scripts",
            "Texts in another script",
            f"More than {FOREIGN_FRACTION:.0%} of the letters are outside this data set's scripts "
            f"({scripts}); often another language.",
            len(foreign),
            (view.row(place, f"{fraction:.0%} of the letters") for fraction, place in foreign),
        ),
    ]
