"""The quickstart's data is as its README describes it."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations
from typing import Any

from processes import ROOT

DIRECTORY = ROOT / "configs" / "quickstart"


def rows_of(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DIRECTORY / name).read_text().splitlines()]


TRAIN, TEST = rows_of("train.jsonl"), rows_of("test.jsonl")
OUT_OF_SCOPE = rows_of("out_of_scope.jsonl")


def test_twelve_intents_of_a_hundred_messages_or_more() -> None:
    counts = Counter(row["label"] for row in TRAIN + TEST)

    assert len(counts) == 12
    assert min(counts.values()) >= 100
    assert set(Counter(row["label"] for row in TEST).values()) == {30}


def test_messages_have_three_to_sixty_words() -> None:
    lengths = [len(row["text"].split()) for row in TRAIN + TEST]

    assert min(lengths) >= 3
    assert max(lengths) <= 60
    assert sum(length < 10 for length in lengths) > 0.15 * len(lengths)
    assert sum(length > 28 for length in lengths) > 0.15 * len(lengths)


def test_no_two_messages_differ_in_a_slot_only() -> None:
    """Messages from one template, with different nouns, would share most of their words."""
    words = [frozenset(re.findall(r"[\w']+", row["text"].lower())) for row in TRAIN + TEST]

    closest = max(len(a & b) / len(a | b) for a, b in combinations(words, 2))

    assert closest <= 0.5


def test_openings_are_not_repeated() -> None:
    for label in {row["label"] for row in TRAIN}:
        texts = [row["text"] for row in TRAIN + TEST if row["label"] == label]
        openings = Counter(tuple(text.lower().split()[:2]) for text in texts)
        assert openings.most_common(1)[0][1] <= 3, label


def test_out_of_scope_messages_are_of_no_intent() -> None:
    assert len(OUT_OF_SCOPE) >= 120
    assert {row["label"] for row in OUT_OF_SCOPE} == {"out_of_scope"}
    assert not {row["text"] for row in OUT_OF_SCOPE} & {row["text"] for row in TRAIN + TEST}
