"""Findings of an audit in words: title, meaning, count, and the worst rows.

Pure. What copies are is decided in `train.audit.copies`, what a wrong label is in
`train.audit.label_errors`, what strange characters are in `train.audit.characters`.
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
from train.audit.copies import Copies, Place, named
from train.audit.duplicates import joined
from train.data.rows import Labels, SplitName
from train.data.splits import InvalidRow, LabelledData

FOREIGN_SHARE = 0.5
"""Share of letters outside the data set's scripts from which a text is reported."""

OUTLIER_DEVIATIONS = 5.0
"""Distance from the median of the logarithm of the length from which a text is reported, in
standard deviations as estimated by the median absolute deviation."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A row in the report."""

    split: str
    row: str
    text: Text
    labels: Labels
    note: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of trouble."""

    kind: str
    title: str
    meaning: str
    count: int
    parts: dict[str, int]
    """The count by split or source, where there is such a thing; those without any left out."""

    rows: list[Shown]
    """The worst ones, worst first."""


@dataclass(frozen=True, kw_only=True)
class View:
    """Makes rows of the report."""

    data: LabelledData
    limit: int
    """Rows per finding."""

    def row(self, place: Place, note: str = "") -> Shown:
        """One row of the splits."""
        split = self.data.splits[place.split]
        return Shown(
            split=place.split,
            row=named(self.data, place),
            text=split.texts[place.index],
            labels=split.labels[place.index],
            note=note,
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
        """Takes as many of the rows as are shown. parts: the part that each counted one is in."""
        return Finding(
            kind=kind,
            title=title,
            meaning=meaning,
            count=count,
            parts=dict(Counter(parts)),
            rows=list(islice(rows, self.limit)),
        )


def of_invalid(invalid: Sequence[InvalidRow], count: int, view: View) -> Finding:
    """Rows that are no examples at all."""
    return view.finding(
        "unusable",
        "Unusable rows",
        "Rows without a text or a label, or with a value of another type. `fit` refuses them; "
        "data.drop_invalid_rows=true leaves them out.",
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


def of_copies(copies: Copies, view: View) -> list[Finding]:
    """Leakage, conflicts, duplicates, and what is nearly one of these."""

    def same(places: Sequence[Place], exact: Sequence[Place]) -> Iterator[Shown]:
        letter_by_letter = set(exact)
        for place in places:
            how = "letter by letter" if place in letter_by_letter else "up to normalisation"
            yield view.row(place, how)

    def similar(pairs: Iterable[tuple[Place, Place, float]]) -> Iterator[Shown]:
        for place, other, similarity in pairs:
            row = view.row(other)
            text = joined(row.text).replace("\x1f", " / ")
            yield view.row(place, f"{similarity:.0%} the same as {row.row} ({row.split}): {text}")

    return [
        view.finding(
            "leakage",
            "Texts in two splits",
            "Rows of test that train or validation has too, and rows of validation that train "
            "has: they make a model look better than it is.",
            len(copies.leaks_normalized),
            same(copies.leaks_normalized, copies.leaks_exact),
            (place.split for place in copies.leaks_normalized),
        ),
        view.finding(
            "conflicts",
            "Copies with different labels",
            "Groups of the same text, up to normalisation, with different labels.",
            len(copies.conflicts),
            (
                view.row(place, f"group {number}")
                for number, group in enumerate(copies.conflicts, start=1)
                for place in group
            ),
        ),
        view.finding(
            "near_leakage",
            "Nearly the same text in two splits",
            "Pairs, the most similar first. Similar is not the same: --strict lets them pass.",
            len(copies.leaks_near),
            similar(copies.leaks_near),
            (place.split for place, _, _ in copies.leaks_near),
        ),
        view.finding(
            "duplicates",
            "Copies within a source",
            "Rows whose text stands earlier in the same source.",
            len(copies.normalized),
            same(copies.normalized, copies.exact),
            (f"data.{view.data.splits[place.split].source}" for place in copies.normalized),
        ),
        view.finding(
            "near_duplicates",
            "Nearly the same text within a split",
            "Pairs, the most similar first. Nothing is suggested for them.",
            len(copies.near),
            similar(copies.near),
            (place.split for place, _, _ in copies.near),
        ),
    ]


def count_labels(data: LabelledData) -> dict[str, dict[SplitName, int]]:
    """For each label its rows in each split, the most frequent in train first."""
    counts = {
        name: Counter(label for row in split.labels for label in row)
        for name, split in data.splits.items()
    }
    order = sorted(data.labels, key=lambda label: (-counts["train"][label], label))
    return {label: {name: counts[name][label] for name in counts} for label in order}


def of_labels(counts: dict[str, dict[SplitName, int]], rare: int, view: View) -> list[Finding]:
    """Labels with few examples, or none to be judged by."""

    def shown(labels: Iterable[str], note: str) -> Iterator[Shown]:
        for label in labels:
            text = ", ".join(f"{count} {name}" for name, count in counts[label].items())
            yield Shown(split="", row="", text=text, labels=(label,), note=note)

    few = [label for label in reversed(counts) if counts[label]["train"] < rare]
    unjudged = [label for label, each in counts.items() if not each["test"]]
    return [
        view.finding(
            "rare_labels",
            "Rare labels",
            f"Labels with fewer than {rare} rows in train.",
            len(few),
            shown(few, f"fewer than {rare} rows in train"),
        ),
        view.finding(
            "labels_without_test",
            "Labels that the test split does not have",
            "Nothing will be known about how well the model knows these.",
            len(unjudged),
            shown(unjudged, "no row in test"),
        ),
    ]


def of_lengths(
    tokens: dict[SplitName, NDArray[np.int64]], max_length: int, view: View
) -> list[Finding]:
    """Texts that will be cut, and texts far shorter or longer than the others."""
    places = [Place(split=name, index=n) for name in tokens for n in range(len(tokens[name]))]
    count_N = np.concatenate(list(tokens.values()))
    log_N = np.log(np.maximum(count_N, 1))
    distance_N = np.abs(log_N - np.median(log_N))
    deviation = max(1.4826 * float(np.median(distance_N)), 0.1)
    far_N = distance_N / deviation

    def shown(order_N: NDArray[np.intp]) -> Iterator[Shown]:
        for n in order_N:
            yield view.row(places[n], f"{count_N[n]} tokens")

    cut_N, strange_N = count_N > max_length, far_N > OUTLIER_DEVIATIONS
    return [
        view.finding(
            "cut",
            "Texts that are cut",
            f"Texts of more than {max_length} tokens (model.max_length); the rest is not seen.",
            int(cut_N.sum()),
            shown(np.argsort(-count_N, kind="stable")[: cut_N.sum()]),
        ),
        view.finding(
            "length_outliers",
            "Lengths far from the others",
            f"Over {OUTLIER_DEVIATIONS:g} robust deviations from the median of "
            f"{np.median(count_N):g} tokens, on a logarithmic scale.",
            int(strange_N.sum()),
            shown(np.argsort(-far_N, kind="stable")[: strange_N.sum()]),
        ),
    ]


def of_characters(data: LabelledData, view: View) -> list[Finding]:
    """Broken characters, and texts in other scripts than the data set's."""
    broken: list[tuple[Place, str]] = []
    for name, split in data.splits.items():
        for index, text in enumerate(split.texts):
            if problems := character_problems(joined(text).replace("\x1f", " ")):
                broken.append((Place(split=name, index=index), "; ".join(problems)))
    dominant = dominant_scripts(scripts_of(joined(text)) for text in data.train.texts)
    foreign: list[tuple[float, Place]] = []
    for name, split in data.splits.items():
        for index, text in enumerate(split.texts):
            share = foreign_fraction(scripts_of(joined(text)), dominant)
            if share > FOREIGN_SHARE:
                foreign.append((share, Place(split=name, index=index)))
    foreign.sort(key=lambda each: -each[0])
    scripts = ", ".join(sorted(map(str.title, dominant))) or "none"
    return [
        view.finding(
            "characters",
            "Broken or invisible characters",
            "Signs of a wrong encoding, control characters, characters that nobody sees.",
            len(broken),
            (view.row(place, note) for place, note in broken),
        ),
        view.finding(
            "scripts",
            "Texts in another script",
            f"More than {FOREIGN_SHARE:.0%} of the letters are outside this data set's scripts "
            f"({scripts}): often another language.",
            len(foreign),
            (view.row(place, f"{share:.0%} of the letters") for share, place in foreign),
        ),
    ]
