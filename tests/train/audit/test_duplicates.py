"""Duplicates are found within and across splits, and the right one of them is dropped."""

# ruff: noqa: RUF001
from __future__ import annotations

import random
import time
from typing import Any

import pytest

from train.audit.duplicates import Duplicates, find_duplicates
from train.audit.near_duplicates import near_pairs
from train.audit.normalization import groups, normalizer
from train.data.splits import LabelledData, Split

STEPS = ("unicode", "case", "punctuation", "whitespace")


def split(*rows: tuple[Any, str], source: Any = "train", start: int = 1) -> Split:
    return Split(
        texts=[text for text, _ in rows],
        labels=[(label,) for _, label in rows],
        rows=range(start, start + len(rows)),
        source=source,
    )


def duplicates(
    train: Split, validation: Split, test: Split, near: float | None = None
) -> Duplicates:
    data = LabelledData(
        train=train, validation=validation, test=test, labels=("a", "b"), num_dropped=0
    )
    return find_duplicates(data, steps=STEPS, near=near, seed=0)  # type: ignore[arg-type]


def places(found: Any) -> list[tuple[str, int]]:
    return [(place.split, place.index) for place in found]


def test_leaks_differ_from_duplicates_and_exact_from_normalized() -> None:
    found = duplicates(
        split(("Where is it?", "a"), ("other", "b"), ("where is it", "a"), ("other", "b")),
        split(("OTHER!", "b"), ("new", "a"), start=5),
        split(("where is  it?", "a"), ("new", "a"), ("fine", "b"), source="test"),
    )

    assert places(found.exact) == [("train", 3)]
    assert places(found.normalized) == [("train", 2), ("train", 3), ("validation", 0)]
    assert places(found.leaks_exact) == [("test", 1)]
    assert places(found.leaks_normalized) == [("validation", 0), ("test", 0), ("test", 1)]
    assert found.conflicts == []


def test_a_copy_goes_from_the_earlier_split_and_the_test_split_stays() -> None:
    found = duplicates(
        split(("x y", "a"), ("only here", "b"), ("only here", "b")),
        split(("new", "b"), start=4),
        split(("X Y", "a"), source="test"),
    )

    suggestions = [(each.place.split, each.place.index, each.reason) for each in found.suggestions]
    assert suggestions == [
        ("train", 0, "duplicate of row 1 of data.test"),
        ("train", 2, "duplicate of row 2 of data.train"),
    ]
    assert all(each.suggested is None for each in found.suggestions)


def test_contradicting_labels_go_to_the_majority_and_without_one_the_copies_go() -> None:
    found = duplicates(
        split(("x", "a"), ("x", "a"), ("x", "b"), ("y", "a"), ("y", "b")),
        split(("p", "a")),
        split(("X", "b"), ("y", "a"), ("X", "a"), source="test"),
    )

    assert [places(group) for group in found.conflicts] == [
        [("train", 0), ("train", 1), ("train", 2), ("test", 0), ("test", 2)],
        [("train", 3), ("train", 4), ("test", 1)],
    ]
    relabelled = [each for each in found.suggestions if each.suggested is not None]
    assert places(each.place for each in relabelled) == [("test", 0)]
    assert relabelled[0].suggested == ("a",)
    assert ("train", 4) in places(each.place for each in found.suggestions)

    tie = duplicates(split(("x", "a"), ("x", "b")), split(("p", "a")), split(("q", "a")))
    assert places(each.place for each in tie.suggestions) == [("train", 0), ("train", 1)]
    assert tie.suggestions[0].reason == "duplicates have the labels a and b, equally often"


def test_pairs_are_copies_only_if_both_texts_are() -> None:
    found = duplicates(
        split((("x", "y"), "a"), (("x", "z"), "a"), (("X.", "Y"), "a"), (("xy", ""), "a")),
        split((("p", "q"), "a")),
        split((("q", "p"), "a")),
    )

    assert places(found.normalized) == [("train", 2)]
    assert found.leaks_normalized == []


def test_nearly_the_same_text_is_found_between_and_within_splits() -> None:
    long = "my card was charged twice for the same thing at the shop on monday"
    found = duplicates(
        split((long, "a"), (long + " please", "a"), ("quite another text altogether", "b")),
        split(("p", "a")),
        split((long + " and help", "a"), (long.upper() + "!", "a"), source="test"),
        near=0.8,
    )

    assert [(a.index, b.index) for a, b, _ in found.near] == [(0, 1)]
    # The duplicate of the first text is not also a near duplicate.
    assert {(late.index, early.index) for late, early, _ in found.leaks_near} == {(0, 0), (0, 1)}
    assert places(found.leaks_normalized) == [("test", 1)]


@pytest.mark.parametrize(
    ("steps", "first", "second", "same"),
    [
        (STEPS, "Ｗhat's up?", "whats up", False),
        (STEPS, "Ｗhat’s up?", "what's  UP", True),
        (STEPS, "costs $5", "costs €5", True),
        (STEPS, "good 😀", "good 😡", False),
        (STEPS, "???", "!!!", False),
        (STEPS, "किताब", "कताब", False),
        (("case",), "a b", "A  b", False),
        (("html", "whitespace"), "<p>a &amp; b</p>", "a & b", True),
        (STEPS, "<p>a</p>", "a", False),
    ],
)
def test_normalization_removes_the_chosen_differences(
    steps: Any, first: str, second: str, same: bool
) -> None:
    normalize = normalizer(steps)

    assert (normalize(first) == normalize(second)) is same


def test_groups_are_of_equal_keys_in_order() -> None:
    assert groups("abcab") == [[0, 3], [1, 4]]
    assert groups("") == []


def jaccard(a: str, b: str) -> float:
    sets = [{text[n : n + 5] for n in range(len(text) - 4)} for text in (a, b)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_near_pairs_are_those_of_a_search_over_all_pairs() -> None:
    chooser = random.Random(0)
    words = [f"w{chooser.randrange(10**4)}" for _ in range(300)]
    texts = []
    for _ in range(120):
        text = chooser.choices(words, k=12)
        changed = text.copy()
        changed[chooser.randrange(12)] = chooser.choice(words)
        texts += [" ".join(text), " ".join(changed)]
    texts += ["", "ab", "ab", "x" * 50, "x" * 60, "日本語の文章です", "日本語の文章です。"]
    expected = {
        (a, b)
        for b in range(len(texts))
        for a in range(b)
        if len(texts[a]) > 4 < len(texts[b]) and jaccard(texts[a], texts[b]) >= 0.7
    } | {(241, 242)}

    found = near_pairs(texts, threshold=0.7)

    assert len(expected) > 60
    assert {(pair.first, pair.second) for pair in found} == expected
    sure = [pair for pair in found if len(texts[pair.first]) > 4]
    assert all(
        pair.similarity == pytest.approx(jaccard(texts[pair.first], texts[pair.second]))
        for pair in sure
    )


def test_ten_thousand_texts_are_compared_in_seconds() -> None:
    chooser = random.Random(1)
    words = [f"word{n}" for n in range(2000)]
    texts = [" ".join(chooser.choices(words, k=12)) for _ in range(10_000)]
    texts += [
        "the same boilerplate under every message, but for number " + str(n) for n in range(500)
    ]
    started = time.monotonic()

    found = near_pairs(texts, threshold=0.8)

    assert time.monotonic() - started < 20
    assert {pair.second for pair in found} >= set(range(10_001, 10_500))
