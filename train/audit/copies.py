"""Copies within and between splits, and what to do about them.

Decides which copy goes: train loses the row that test or validation has too, and of copies
within a split the first stays. Labels that contradict each other go to the majority, or the
copies go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from train.audit.duplicates import groups, joined, normalizer, text_key
from train.audit.near_duplicates import near_pairs
from train.config.sections import Normalization
from train.data.rows import SPLITS, Labels, SplitName
from train.data.splits import LabelledData

RANK = {name: place for place, name in enumerate(SPLITS)}
"""The later split keeps a row that two have."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A row of the three splits."""

    split: SplitName
    index: int
    """Its position in the split, from 0."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What a person is asked to consider for a row."""

    place: Place
    reason: str
    suggested: Labels | None = None
    """New labels; None to drop the row."""


@dataclass(frozen=True, kw_only=True)
class Copies:
    """What was found. Every row is listed once per list, in the order of the splits."""

    exact: list[Place] = field(default_factory=list)
    """Rows whose text stands earlier in the same source, letter by letter."""

    normalized: list[Place] = field(default_factory=list)
    """Rows whose normalised text stands earlier in the same source; the exact ones too."""

    near: list[tuple[Place, Place, float]] = field(default_factory=list)
    """Pairs within a source that are similar but not the same, and how much."""

    conflicts: list[list[Place]] = field(default_factory=list)
    """Groups of the same normalised text with different labels."""

    leaks_exact: list[Place] = field(default_factory=list)
    """Rows of validation that train has too, and of test that either has."""

    leaks_normalized: list[Place] = field(default_factory=list)
    """The same up to normalisation; the exact ones too."""

    leaks_near: list[tuple[Place, Place, float]] = field(default_factory=list)
    """Pairs between splits that are similar but not the same, the later split's row first."""

    advice: list[Advice] = field(default_factory=list)
    """At most one a row."""


def find_copies(
    data: LabelledData, *, steps: Sequence[Normalization], near: float | None, seed: int
) -> Copies:
    """Search all splits. steps: of `duplicates.normalizer`. near: least similarity, or None.

    Holds the normalised texts in memory.
    """
    splits = data.splits
    places = [Place(split=name, index=n) for name in SPLITS for n in range(len(splits[name]))]
    labels = [row for split in splits.values() for row in split.labels]
    sources = {name: split.source for name, split in splits.items()}
    normalize = normalizer(steps)
    exact = groups(text_key(joined(text)) for split in splits.values() for text in split.texts)
    same = [joined(text, normalize) for split in splits.values() for text in split.texts]
    normalized = groups(map(text_key, same))
    found = Copies(
        exact=[places[n] for n in _later_in_source(exact, places, sources)],
        normalized=[places[n] for n in _later_in_source(normalized, places, sources)],
        leaks_exact=[places[n] for n in _leaks(exact, places)],
        leaks_normalized=[places[n] for n in _leaks(normalized, places)],
    )
    advised: dict[int, Advice] = {}
    for group in normalized:
        if len({labels[n] for n in group}) > 1:
            found.conflicts.append([places[n] for n in group])
        for advice_n, advice in _advise(group, places, labels, data):
            advised.setdefault(advice_n, advice)
    if near is not None:
        first_of = sorted(set(range(len(same))) - {n for group in normalized for n in group[1:]})
        pairs = near_pairs([same[n] for n in first_of], threshold=near, seed=seed)
        for pair in pairs:
            a, b = first_of[pair.first], first_of[pair.second]
            early, late = places[a], places[b]
            if early.split == late.split:
                found.near.append((early, late, pair.similarity))
                continue
            found.leaks_near.append((late, early, pair.similarity))
            reason = f"{pair.similarity:.0%} the same as {named(data, late)}"
            advised.setdefault(a, Advice(place=early, reason=reason))
    found.advice.extend(advised[n] for n in sorted(advised))
    return found


def _later_in_source(
    found: Iterable[Sequence[int]], places: Sequence[Place], sources: dict[SplitName, SplitName]
) -> list[int]:
    """Members of each group but the first of each source."""
    later = []
    for group in found:
        seen: set[SplitName] = set()
        for n in group:
            source = sources[places[n].split]
            if source in seen:
                later.append(n)
            seen.add(source)
    return sorted(later)


def _leaks(found: Iterable[Sequence[int]], places: Sequence[Place]) -> list[int]:
    """Members of each group that an earlier split has too."""
    leaks = []
    for group in found:
        first = min(RANK[places[n].split] for n in group)
        leaks += [n for n in group if RANK[places[n].split] > first]
    return sorted(leaks)


def _advise(
    group: Sequence[int], places: Sequence[Place], labels: Sequence[Labels], data: LabelledData
) -> Iterator[tuple[int, Advice]]:
    """What to do about one group of copies."""
    last = max(RANK[places[n].split] for n in group)
    keeper = next(n for n in group if RANK[places[n].split] == last)
    votes = Counter(labels[n] for n in group).most_common()
    agreed = len(votes) == 1 or votes[0][1] > votes[1][1]
    for n in group:
        if not agreed:
            if RANK[places[n].split] < RANK["test"]:
                names = " and ".join(sorted(", ".join(each) or "none" for each, _ in votes))
                reason = f"the same text has the labels {names}, equally often"
                yield n, Advice(place=places[n], reason=reason)
        elif labels[n] != votes[0][0] and n == keeper:
            reason = f"{votes[0][1]} of {len(group)} copies of this text have the other label"
            yield n, Advice(place=places[n], reason=reason, suggested=votes[0][0])
        elif n != keeper:
            yield n, Advice(place=places[n], reason=f"a copy of {named(data, places[keeper])}")


def named(data: LabelledData, place: Place) -> str:
    """A row by its number in its source."""
    split = data.splits[place.split]
    return f"row {split.rows[place.index]} of data.{split.source}"
