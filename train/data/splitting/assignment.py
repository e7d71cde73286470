"""Which split a text belongs to: by its hash, so that each label has rows in every split. Pure.

The hash alone leaves rare labels without validation or test rows. For each such label one text is
moved from train, and the splits of all its texts are recorded (`train.data.splitting.split_file`),
so that no text changes its split when rows are added.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from serve.inference.text import Text
from train.data.labels import Labels
from train.data.rows import SplitName

MIN_TRAIN_TEXTS = 3
"""Different texts of each of its labels that a text which is moved must leave in train."""

_MANY = 1000
"""Number up to which the training texts of a label are counted."""

Rows = Callable[[], Iterable[tuple[int, Labels]]]
"""Returns the key of each row's text, see `content_key`, and its labels; called several times."""


def content_key(text: Text) -> int:
    """Hash a text's words, without case and white space, to 64 bits."""
    parts: Iterable[str] = text if isinstance(text, tuple) else (text,)
    words = json.dumps([" ".join(part.casefold().split()) for part in parts], ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8])


@dataclass(kw_only=True)
class Assignment:
    """The split of each text of a source that is divided."""

    fractions: dict[SplitName, float]
    """The splits to make of it beside train, validation first, and their fractions."""

    recorded: dict[int, SplitName] = field(default_factory=dict)
    """By key, the splits that earlier runs recorded; they never change."""

    added: dict[int, SplitName] = field(default_factory=dict)
    """Those to record of this run."""

    is_foreign: bool = False
    """True if no text of the source is recorded, though others are."""

    def split_of(self, key: int) -> SplitName:
        """Return the split of the text with this key."""
        return self.recorded.get(key) or self.added.get(key) or self.by_hash(key)

    def by_hash(self, key: int) -> SplitName:
        """Return the split by the hash alone."""
        position = key / 2**64
        for name, fraction in self.fractions.items():
            if position < fraction:
                return name
            position -= fraction
        return "train"

    @property
    def num_moved(self) -> int:
        """Number of texts that are not where the hash alone would put them."""
        both = self.recorded | self.added
        return sum(name != self.by_hash(key) for key, name in both.items())

    def complete(self, rows: Rows) -> None:
        """Move texts of labels that lack rows in a split, and note what is to be recorded.

        Texts of a label that train would lose stay there. Then each label without test rows, and
        each without validation rows, gets the training text with the lowest hash, if no split is
        recorded for it and each of its labels keeps MIN_TRAIN_TEXTS others in train.
        """
        self.is_foreign = bool(self.recorded) and not any(key in self.recorded for key, _ in rows())
        if lost := {label for label, splits in self._splits(rows).items() if "train" not in splits}:
            kept = {key for key, labels in rows() if not lost.isdisjoint(labels)}
            self.added = dict.fromkeys(sorted(kept - self.recorded.keys()), "train")
        found = self._splits(rows)
        lacking = {label for label, splits in found.items() if len(splits) <= len(self.fractions)}
        if not lacking and not self.added:
            return
        keys = {key for key, labels in rows() if not lacking.isdisjoint(labels)}
        labels_of, in_train = defaultdict[int, set[str]](set), defaultdict[str, set[int]](set)
        for key, labels in rows():
            if key in keys:
                labels_of[key].update(labels)
            if self.split_of(key) == "train":
                for label in labels:
                    if len(in_train[label]) < _MANY:
                        in_train[label].add(key)
        texts_of: dict[str, list[int]] = {label: [] for label in lacking}
        for key in sorted(keys):
            for label in labels_of[key] & lacking:
                texts_of[label].append(key)
        for label in sorted(lacking, key=lambda each: (len(texts_of[each]), each)):
            for name in reversed(self.fractions):  # test first
                if any(self.split_of(key) == name for key in texts_of[label]):
                    continue
                for key in texts_of[label]:
                    numbers = [len(in_train[each] - {key}) for each in labels_of[key]]
                    is_free = key not in self.recorded and self.split_of(key) == "train"
                    if is_free and min(numbers) >= MIN_TRAIN_TEXTS:
                        self.added[key] = name
                        for each in labels_of[key]:
                            in_train[each].discard(key)
                        break
        self.added |= {key: self.split_of(key) for key in keys - self.recorded.keys()}

    def _splits(self, rows: Rows) -> dict[str, set[SplitName]]:
        """Return the splits in which each label has rows."""
        found = defaultdict[str, set[SplitName]](set)
        for key, labels in rows():
            name = self.split_of(key)
            for label in labels:
                found[label].add(name)
        return found
