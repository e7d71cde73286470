"""Read the labels of a row: names, class numbers, lists, or one column per label.

Nothing becomes a label by accident: a value that is no name, such as an object or NaN, is refused
with its row, and labels that are one value written in two ways are refused with their source.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from serve.inference.text import text_problem
from train.config.run import RunConfig
from train.data.label_lists import RowError as RowError
from train.data.label_lists import listed
from train.data.label_names import list_separator
from train.data.template import value_of

Labels = tuple[str, ...]
_NUMBER = re.compile(r"[-+]?\d{1,300}(?:\.\d{0,300})?")
_TRUE = frozenset({"1", "1.0", "true"})
_FALSE = frozenset({"0", "0.0", "false", ""})
_KINDS = {
    dict: "an object",
    list: "a list within a list",
    tuple: "a list within a list",
    bytes: "bytes; store the column as a string",
}


class LabelReader:
    """Reads the labels of the rows of one source."""

    def __init__(self, config: RunConfig, class_names: Mapping[str, Sequence[str]]) -> None:
        """class_names: by column, the names of integer labels, if the data set has them."""
        self._data = config.data
        self._multi = config.task == "multi_label"
        given = config.data.label_names or class_names.get(config.data.label_column)
        self._names: Sequence[str] | None = given or None
        data = config.data
        used = (*data.text_columns, data.label_column, *data.label_columns)
        self._uses_answer = "answer" in used or "{answer" in (data.template or "")
        self._status = f"{data.label_column}.status"
        self._known: dict[tuple[Any, Any], str] = {}
        self._first_rows: dict[tuple[Any, Any], int] = {}
        self._from_scalars = set[str]()
        self._from_lists = False
        self._row = 0
        self.written = set[str]()
        """The labels as they are before `data.label_map`."""

    def read(self, row: Mapping[str, Any], number: int = 0) -> Labels:
        """Return the labels of a row after label_map, unique and sorted.

        number: of the row, for messages. Raises RowError for a missing label in a single-label
        task, for a missing value in a multi-label one, and for a value that is no name.
        """
        self._row = number
        self._check_annotator(row)
        if self._data.label_columns:
            return self._marked(row)
        value = value_of(row, self._data.label_column)
        items, is_list = self._items(value)
        labels = {self._name(item) for item in items}
        if is_list:
            self._from_lists = True
        elif self._multi:
            self._from_scalars |= labels
        return tuple(sorted(labels))

    def _check_annotator(self, row: Mapping[str, Any]) -> None:
        """Refuse a row that an annotator did not accept, as Prodigy and Argilla export it."""
        answer = row.get("answer")
        if answer in ("reject", "ignore") and not self._uses_answer:
            raise RowError(f"the annotator's `answer` is {answer!r}")
        if status := row.get(self._status):
            states = status if isinstance(status, list) else [status]
            if refused := [each for each in states if each in ("discarded", "draft")]:
                raise RowError(f"the annotator's `{self._status}` is {refused[0]!r}")

    def _marked(self, row: Mapping[str, Any]) -> Labels:
        """Return the names of the columns whose value is one."""
        found, seen = [], False
        for column in self._data.label_columns:
            value = value_of(row, column)
            text = "" if value is None else str(value).strip().lower()
            if text not in _TRUE and text not in _FALSE:
                raise RowError(f"column `{column}`: expected 0 or 1, got {str(value)[:40]!r}")
            seen = seen or text != ""
            if text in _TRUE:
                found.append(self._name(column))
        if not seen:
            raise RowError("the label is missing: all label columns are empty")
        return tuple(sorted(set(found)))

    def _items(self, value: Any) -> tuple[list[Any], bool]:
        """Return the labels of a value, not yet as names, and whether it is a list of them."""
        if isinstance(value, str):
            self._check_digits(value)
            value = listed(value, strict=self._multi)
        if isinstance(value, tuple):
            value = list(value)
        if isinstance(value, list):
            hot = self._hot(value)
            items = value if hot is None else hot
            if not self._multi and len(items) > 1:
                raise RowError(f"the label is a list of {len(items)}; set task: multi_label")
            if not self._multi and not items:
                raise RowError("the label is missing: an empty list")
            return items, True
        if self._multi and isinstance(value, str):
            parts = [part.strip() for part in value.split(self._data.label_separator)]
            return [part for part in parts if part], False
        return [value], False

    def _check_digits(self, value: str) -> None:
        """Refuse a string such as 011, if it may say for each of the classes whether it is one."""
        size = len(self._names or ())
        if size > 2 and len(value.strip()) == size and not value.strip().strip("01"):
            raise RowError(
                f"the label {value!r} is the number of a class, or zeros and ones of {size} "
                f"classes; write {int(value)} or {list(map(int, value.strip()))}"
            )

    def _hot(self, values: list[Any]) -> list[str] | None:
        """Return the names of the ones in a list of zeros and ones; None for any other list.

        A list such as [0, 1] may be class numbers. It is not if it has a number twice, or as many
        numbers as `data.label_names` has names.
        """
        if len(values) < 2 or not all(isinstance(v, int | float) and v in (0, 1) for v in values):
            return None
        names = self._names
        is_sure = len(values) > 2 or values[0] == values[1] or type(values[0]) is not int
        if names and len(values) == len(names) and (is_sure or self._data.label_names):
            return [name for name, value in zip(names, values, strict=True) if value]
        if is_sure:
            classes = f", which has {len(names)}" if names else ""
            raise RowError(
                f"the label is a list of {len(values)} zeros and ones; name its classes in "
                f"data.label_names{classes}"
            )
        return None

    def _name(self, item: Any) -> str:
        """Return the label that an item means. Raises RowError if it is no name."""
        key = (type(item), item)
        try:
            known = self._known.get(key)
        except TypeError:  # not hashable
            key, known = (type(item), None), None
        if known is not None:
            return known
        label = self._data.label_map.get(name := self._written(item), name)
        if problem := text_problem(label):
            raise RowError(f"the label {label!r}: {problem}")
        self.written.add(name)
        self._known[key] = label
        self._first_rows[key] = self._row
        return label

    def _written(self, item: Any) -> str:
        if item is None or (isinstance(item, str) and not item.strip()):
            raise RowError("the label is missing")
        if isinstance(item, bool):
            return str(item).lower()
        if isinstance(item, float | Decimal) and not math.isfinite(item):
            raise RowError(f"the label is {item}, which is no name; if it is missing, leave it out")
        if self._names is not None and (number := self._class_number(item)) is not None:
            if not 0 <= number < len(self._names):
                raise RowError(
                    f"the label {item} is out of range: the data set has {len(self._names)} classes"
                )
            return self._names[number]
        if isinstance(item, str | int | float | Decimal | date | time | UUID):
            return str(item).strip()
        kind = next(
            (name for each, name in _KINDS.items() if isinstance(item, each)), type(item).__name__
        )
        keys = ""
        if isinstance(item, dict):
            keys = f" with {', '.join(f'`{str(key)[:40]}`' for key in list(item)[:5]) or 'no keys'}"
            keys += "; write the name alone, or a list of names"
        raise RowError(f"the label is {kind}{keys}")

    def _class_number(self, item: Any) -> int | None:
        assert self._names is not None
        if isinstance(item, int) or (isinstance(item, float) and item.is_integer()):
            return int(item)
        is_digits = isinstance(item, str) and item.strip().isdecimal()
        if is_digits and self._data.label_names and item.strip() not in self._names:
            return int(item)
        return None

    def check(self) -> None:
        """Raise ValueError if the labels of the source, all together, cannot be what is meant."""
        self._check_forms()
        if self._multi and not self._data.label_columns:
            self._check_strings()

    def _check_forms(self) -> None:
        """Refuse a value that is written in two types and so makes two classes, as 1 and 1.0."""
        forms: dict[Any, dict[str, tuple[Any, Any]]] = {}
        for kind, item in self._known:
            value = _value_of(kind, item)
            if value is not None:
                forms.setdefault(value, {}).setdefault(self._known[kind, item], (kind, item))
        for found in forms.values():
            if len(found) > 1 and any(kind is not str for kind, _ in found.values()):
                shown = [f"{key[1]!r} (row {self._first_rows[key]})" for key in found.values()]
                raise ValueError(
                    f"the labels {' and '.join(shown)} are one value in two forms, which would "
                    "make two classes; write them alike, or join them by data.label_map"
                )

    def _check_strings(self) -> None:
        labels = self._from_scalars
        binary = {label.lower() for label in labels} <= _TRUE | _FALSE
        if labels and binary and self._names is None and not self._from_lists:
            raise ValueError(
                f"column `{self._data.label_column}` has only zeros and ones; if there is one "
                f"column per label, set data.label_columns=[{self._data.label_column}, ...]"
            )
        if "label_separator" in self._data.model_fields_set:
            return  # chosen by the user
        as_name = f'data.label_separator="{self._data.label_separator}"'
        lengths = {len(label) for label in labels}
        if lengths and min(lengths) == max(lengths) > 2 and not "".join(labels).strip("01"):
            raise ValueError(
                f"the labels are zeros and ones, such as {min(labels)!r}; if each digit is for one "
                f"class, write lists such as {list(map(int, min(labels)))} and set "
                f"data.label_names; if they are names, set {as_name}"
            )
        if found := list_separator(labels):
            separator, example = found
            raise ValueError(
                f"the label {example[:60]!r} looks like a list of labels that occur elsewhere; "
                f"set \"data.label_separator='{separator}'\", or "
                f"{as_name} if it is one label"
            )


def _value_of(kind: type, item: Any) -> Any:
    """Return what a label means as a number or truth value; None if it is neither."""
    if kind is bool:
        return str(item).lower()
    if kind is str:
        text = item.strip()
        if text.lower() in ("true", "false"):
            return text.lower()
        if not _NUMBER.fullmatch(text):
            return None
        return float(text) if "." in text else int(text)
    if kind is int:
        return item  # as a float, large identifiers would be equal
    if kind in (float, Decimal):
        try:
            return float(item)
        except OverflowError:
            return item
    return None


def every_row(labels: Iterable[Labels]) -> list[str]:
    """Return the labels that all rows have."""
    common: set[str] | None = None
    for row in labels:
        common = set(row) if common is None else common.intersection(row)
        if not common:
            break
    return sorted(common or ())
