"""Find duplicates within and across splits, and suggest what to do about them.

Decides which duplicate to drop: train loses rows that are in test or validation too, and within a
split the first row is kept. Conflicting labels are replaced by the majority's; without a majority
all rows but those of test are dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from train.audit.near_duplicates import near_pairs
from train.audit.normalization import groups, joined, normalizer, text_key
from train.config.sections import Normalization
from train.data.rows import SPLITS, Labels, SplitName
from train.data.splits import LabelledData

RANK = {name: place for place, name in enumerate(SPLITS)}
"""Of two splits with the same row, the later one keeps it."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A row of one of the splits."""

    split: SplitName
    index: int
    """Its position in the split, from 0."""


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """A suggested change of a row, for a person to review."""

    place: Place
    reason: str
    suggested: Labels | None = None
    """New labels; None to drop the row."""


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Duplicates in the data. Lists of rows are in the order of the splits, without repetition."""

    exact: list[Place] = field(default_factory=list)
    """Rows whose exact text occurs earlier in the same source."""

    normalized: list[Place] = field(default_factory=list)
    """Rows whose normalized text occurs earlier in the same source, exact duplicates included."""

    near: list[tuple[Place, Place, float]] = field(default_factory=list)
    """Near duplicates within a split, and their similarity."""

    conflicts: list[list[Place]] = field(default_factory=list)
    """Groups of rows with the same normalized text and different labels."""

    leaks_exact: list[Place] = field(default_factory=list)
    """Rows of validation that are also in train, and of test that are also in either."""

    leaks_normalized: list[Place] = field(default_factory=list)
    """The same for normalized texts, exact duplicates included."""

    leaks_near: list[tuple[Place, Place, float]] = field(default_factory=list)
    """Near duplicates across splits, the later split's row first, and their similarity."""

    first: dict[Place, Place] = field(default_factory=dict)
    """For each row whose normalized text occurs earlier in any split, the first such row."""

    suggestions: list[Suggestion] = field(default_factory=list)
    """At most one per row."""


def find_duplicates(
    data: LabelledData, *, steps: Sequence[Normalization], near: float | None, seed: int
) -> Duplicates:
    """Search all splits; holds the normalized texts in memory.

    steps: see `normalizer`. near: minimum similarity of near duplicates; None skips them.
    """
    splits = data.splits
    places = [Place(split=name, index=n) for name in SPLITS for n in range(len(splits[name]))]
    labels = [row for split in splits.values() for row in split.labels]
    sources = {name: split.source for name, split in splits.items()}
    normalize = normalizer(steps)
    exact = groups(text_key(joined(text)) for split in splits.values() for text in split.texts)
    same = [joined(text, normalize) for split in splits.values() for text in split.texts]
    normalized = groups(map(text_key, same))
    found = Duplicates(
        exact=[places[n] for n in _later_in_source(exact, places, sources)],
        normalized=[places[n] for n in _later_in_source(normalized, places, sources)],
        leaks_exact=[places[n] for n in _leaks(exact, places)],
        leaks_normalized=[places[n] for n in _leaks(normalized, places)],
        first={places[n]: places[group[0]] for group in normalized for n in group[1:]},
    )
    suggested: dict[int, Suggestion] = {}
    for group in normalized:
        if len({labels[n] for n in group}) > 1:
            found.conflicts.append([places[n] for n in group])
        for n, suggestion in _suggest(group, places, labels, data):
            suggested.setdefault(n, suggestion)
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
            reason = f"{pair.similarity:.0%} similar to {named(data, late)}"
            suggested.setdefault(a, Suggestion(place=early, reason=reason))
    found.suggestions.extend(suggested[n] for n in sorted(suggested))
    return found


def _later_in_source(
    found: Iterable[Sequence[int]], places: Sequence[Place], sources: dict[SplitName, SplitName]
) -> list[int]:
    """Return the members of each group except the first of each source."""
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
    """Return the members of each group that are also in an earlier split."""
    leaks = []
    for group in found:
        first = min(RANK[places[n].split] for n in group)
        leaks += [n for n in group if RANK[places[n].split] > first]
    return sorted(leaks)


def _suggest(
    group: Sequence[int], places: Sequence[Place], labels: Sequence[Labels], data: LabelledData
) -> Iterator[tuple[int, Suggestion]]:
    """Suggest what to do about one group of duplicates."""
    last = max(RANK[places[n].split] for n in group)
    keeper = next(n for n in group if RANK[places[n].split] == last)
    votes = Counter(labels[n] for n in group).most_common()
    agreed = len(votes) == 1 or votes[0][1] > votes[1][1]
    for n in group:
        if not agreed:
            if RANK[places[n].split] < RANK["test"]:
                names = " and ".join(sorted(", ".join(each) or "none" for each, _ in votes))
                reason = f"duplicates have the labels {names}, equally often"
                yield n, Suggestion(place=places[n], reason=reason)
        elif labels[n] != votes[0][0] and n == keeper:
            reason = f"{votes[0][1]} of {len(group)} duplicates have the other label"
            yield n, Suggestion(place=places[n], reason=reason, suggested=votes[0][0])
        elif n != keeper:
            reason = f"duplicate of {named(data, places[keeper])}"
            yield n, Suggestion(place=places[n], reason=reason)


def named(data: LabelledData, place: Place) -> str:
    """Name a row by its number in its source."""
    split = data.splits[place.split]
    return f"row {split.rows[place.index]} of data.{split.source}"
