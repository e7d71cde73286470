"""Parse a raw row into a text and its labels, or say why it cannot be used. Pure.

For where rows come from, see `train.data.sources`; for how unusable rows are handled, see
`train.data.splits`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from serve.inference.text import Text, text_problem
from train.config.run import RunConfig
from train.config.template_spec import fields_of
from train.data.template import cell, derive, fill

Labels = tuple[str, ...]
SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


class RowError(ValueError):
    """Why a row cannot be used."""


@dataclass(frozen=True, kw_only=True)
class RowRules:
    """Parser of the rows of one source."""

    config: RunConfig
    class_names: Mapping[str, Sequence[str]]
    """By column, the names of integer labels, if the data set has them."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the source that are used, the label column last."""
        data = self.config.data
        names = dict.fromkeys(data.text_columns)
        if data.template is not None:
            fields = fields_of(data.template)
            names = dict.fromkeys(
                data.derive[name].column if name in data.derive else name for name in fields
            )
        return (*names, data.label_column)

    def parse(self, row: Mapping[str, Any]) -> tuple[Text, Labels]:
        """Return the text (or pair) and the labels; RowError states the problem."""
        text = self._text(row)
        for part in text if isinstance(text, tuple) else (text,):
            if problem := text_problem(part):
                raise RowError(problem)
        return text, self._labels(row.get(self.config.data.label_column))

    def _text(self, row: Mapping[str, Any]) -> Text:
        data = self.config.data
        if data.template is None:
            parts = [row.get(column) for column in data.text_columns]
            return parts[0] if len(parts) == 1 else (parts[0], parts[1])  # type: ignore[return-value]
        values = {}
        for name in fields_of(data.template):
            derived = data.derive.get(name)
            column = derived.column if derived else name
            try:
                value = row.get(column)
                values[name] = derive(value, derived.feature) if derived else cell(value)
            except ValueError as error:
                raise RowError(f"column `{column}`: {error}") from None
        return fill(data.template, values)

    def _labels(self, value: Any) -> Labels:
        """Return the labels after label_map, unique and sorted."""
        data = self.config.data
        multi = self.config.task == "multi_label"
        if isinstance(value, list):
            if not multi:
                raise RowError("the label is a list; set task: multi_label")
            values = value
        elif multi:
            text = "" if value is None else str(value)
            values = [part.strip() for part in text.split(data.label_separator) if part.strip()]
        else:
            values = [value]
        names = self.class_names.get(data.label_column)
        labels = []
        for item in values:
            if item is None or not str(item).strip():
                raise RowError("the label is missing")
            if names is not None and isinstance(item, int):
                if not 0 <= item < len(names):
                    raise RowError(
                        f"the label {item} is out of range: the data set has {len(names)} classes"
                    )
                item = names[item]
            label = str(item).lower() if isinstance(item, bool) else str(item).strip()
            label = data.label_map.get(label, label)
            if text_problem(label):
                raise RowError(f"the label {label!r}: {text_problem(label)}")
            labels.append(label)
        return tuple(sorted(set(labels)))
