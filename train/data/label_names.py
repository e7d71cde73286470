"""Find labels that are probably one label, no label, or several. Pure.

What is found is said by every stage that reads the data; only a list of labels in one string is
refused, because each combination would become a class.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping

_MISSING = frozenset(
    {"nan", "null", "<na>", "n/a", "na", "nat", "undefined", "missing", "nil", "(null)", "<null>"}
    | {"\\n", ".", "-", "--", "?"}  # MySQL writes \\N, Stata a full stop
    | {"#n/a", "#value!", "#ref!", "#name?", "#div/0!", "#num!", "#null!"}
)
_PYTHON_MISSING = "None"
_SURE_SEPARATORS = (",", ";")
_SEPARATORS = (*_SURE_SEPARATORS, "\uff0c", "\u3001", "\uff1b", "\n", "\t", "|", "/", "&", "+", " ")
_NUMBER = re.compile(r"[-+]?\d{1,15}\.0+")
_SHOWN = 5


def plain_form(label: str) -> str:
    """Return a label without what readers do not see as a difference.

    Unicode form (NFKC), case, white space, invisible characters, and the decimals of 1.0.
    """
    visible = "".join(c for c in unicodedata.normalize("NFKC", label) if not _is_invisible(c))
    plain = " ".join(unicodedata.normalize("NFKC", visible.casefold()).split())
    return plain.partition(".")[0] if _NUMBER.fullmatch(plain) else plain


def _is_invisible(character: str) -> bool:
    category = unicodedata.category(character)
    return category == "Cf" or (category == "Cc" and not character.isspace())


def look_alikes(labels: Iterable[str]) -> list[list[str]]:
    """Return the groups of labels that have the same plain form, each sorted."""
    groups: dict[str, list[str]] = {}
    for label in sorted(labels):
        groups.setdefault(plain_form(label), []).append(label)
    return [group for group in groups.values() if len(group) > 1]


def list_separator(
    labels: Iterable[str], separators: Iterable[str] = _SURE_SEPARATORS
) -> tuple[str, str] | None:
    """Return the separator of labels that are lists of other labels, and one of them.

    A label counts as a list if each of its parts is a label itself or, for a comma or a
    semicolon, is part of another list: names such as `and/or` or `open card` are common.
    """
    known = set(labels)
    for separator in separators:
        lists = {label: _parts(label, separator) for label in sorted(known) if separator in label}
        times = Counter(part for parts in lists.values() for part in parts)
        often = {part for part in times if times[part] > 1 and separator in _SURE_SEPARATORS}
        for label, parts in lists.items():
            if len(parts) > 1 and parts <= known | often:
                return separator, label
    return None


def _parts(label: str, separator: str) -> set[str]:
    return {part.strip() for part in label.split(separator) if part.strip()}


def notes_on_labels(counts: Mapping[str, int], *, multi: bool) -> list[str]:
    """Return what is worth a look in the labels of train. counts: rows by label."""
    notes = []
    groups = look_alikes(counts)
    for group in groups[:_SHOWN]:
        shown = ", ".join(f"{label!a} ({counts[label]} rows)" for label in group)
        notes.append(f"labels that may be one label, written in different ways: {shown}")
    if len(groups) > _SHOWN:
        notes.append(f"{len(groups) - _SHOWN} more groups of labels that may be one label")
    for label, count in counts.items():
        if label == _PYTHON_MISSING or label.casefold() in _MISSING:
            notes.append(f"the label {label!r} ({count} rows) may be a missing value as text")
    task = "" if multi else "task: multi_label and "
    for separator in _SEPARATORS:
        found = [label for label in counts if separator in label]
        if multi and separator in ",;|" and found:
            what = f"{len(found)} labels contain {separator!r}, such as {found[0][:60]!r}"
        elif hit := list_separator(counts, [separator]):
            what = f"the label {hit[1][:60]!r} may be a list of other labels by {separator!r}"
        else:
            continue
        notes.append(f"{what}; set {task}data.label_separator if they are lists")
    return notes


def positive_label(counts: Mapping[str, int], configured: str | None = None) -> str:
    """Return the label of a binary task whose precision and recall are meant by "the" recall.

    It is the configured one, else the one with fewer rows, and of two with as many the later in
    the order of the labels, as `spam` after `ham` and `1` after `0`. counts: training rows by
    label, of two labels. Raises ValueError if the configured one is neither.
    """
    if configured is not None and configured not in counts:
        raise ValueError(
            f"calibration.positive_label is {configured!r}, which is not a label of the task; "
            f"the labels are {', '.join(map(repr, sorted(counts)))}"
        )
    return configured or max(counts, key=lambda label: (-counts[label], label))
