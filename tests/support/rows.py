"""Tiny labelled rows: filler words with a few words of one topic, or of several."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

TOPICS = {
    "billing": "invoice charge bill paid twice amount receipt tax",
    "delivery": "parcel courier late shipping arrived box tracking door",
    "login": "password account locked code reset email sign access",
}
BINARY = {"billing": "other", "delivery": "other"}
"""`data.label_map` for a binary task: login or other."""

FILLER = "please help me i my the a it is was today again still thanks hello why not and".split()


def make_rows(num_rows: int, *, seed: int, columns: int = 1, multi: bool = False) -> list[Any]:
    """Rows of filler words with a few words of one topic (or several) among them."""
    chooser = random.Random(seed)
    rows = []
    for _ in range(num_rows):
        topics = chooser.sample(sorted(TOPICS), chooser.choice([1, 2]) if multi else 1)
        words = chooser.choices(FILLER, k=chooser.randint(1, 6))
        for topic in topics:
            words += chooser.choices(TOPICS[topic].split(), k=2)
        chooser.shuffle(words)
        row: dict[str, Any] = {"text": " ".join(words)}
        if columns == 2:
            row["text_pair"] = " ".join(chooser.choices(TOPICS[topics[0]].split(), k=3))
        row["label"] = topics if multi else topics[0]
        rows.append(row)
    return rows


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
