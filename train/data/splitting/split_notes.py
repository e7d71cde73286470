"""What every stage says of the splits: texts in two of them, and labels that cannot be measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from serve.inference.text import Text
from train.data.labels import Labels
from train.data.rows import SplitName
from train.data.splitting.assignment import content_key

_SHOWN = 3


def shared_texts(texts: Mapping[SplitName, Iterable[Text]]) -> list[str]:
    """Return notes on texts that are in two splits, up to case and white space.

    texts: of train and of each split that has a source of its own; those that are split off
    train share no text with it.
    """
    others = {name: {*map(content_key, each)} for name, each in texts.items() if name != "train"}
    in_train = set[int]()
    for key in map(content_key, texts.get("train", ()) if others else ()):
        if any(key in keys for keys in others.values()):
            in_train.add(key)
    notes = []
    for name, keys in others.items():
        validation = others.get("validation", set()) if name == "test" else set()
        if shared := len(keys & (in_train | validation)):
            where = "train or validation" if name == "test" else "train"
            notes.append(
                f"{shared} texts of {name} are also in {where}, so its metrics are too high; "
                "`prepare` lists them and suggests which rows to drop"
            )
    return notes


def unmeasured_labels(labels: Mapping[SplitName, Sequence[Labels]], known: Iterable[str]) -> str:
    """Return a note on labels without test rows; '' if there are none. known: all labels."""
    missing = sorted({*known}.difference(*labels["test"]))
    if not missing:
        return ""
    shown = ", ".join(repr(label[:40]) for label in missing[:_SHOWN])
    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    return (
        f"{len(missing)} labels have no test rows, so nothing will be known of how well they are "
        f"recognised: {shown}{more}"
    )
