"""Parse a raw row into a text and its labels, or say why it cannot be used. Pure.

For where rows come from, see `train.data.sources`; for how unusable rows are handled, see
`train.data.reading`; for labels, see `train.data.labels`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from serve.inference.text import Text, text_problem
from train.config.run import RunConfig
from train.config.template_spec import fields_of
from train.data.labels import LabelReader, RowError
from train.data.labels import Labels as Labels
from train.data.template import cell, derive, fill, value_of

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


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
        return tuple(dict.fromkeys((*names, *(data.label_columns or [data.label_column]))))

    @cached_property
    def labels(self) -> LabelReader:
        """The reader of the labels."""
        return LabelReader(self.config, self.class_names)

    def parse(self, row: Mapping[str, Any], number: int = 0) -> tuple[Text, Labels]:
        """Return the text (or pair) and the labels; RowError states the problem.

        number: of the row in its source, for messages about several rows.
        """
        text = self._text(row)
        for part in text if isinstance(text, tuple) else (text,):
            if problem := text_problem(part):
                raise RowError(problem)
        return text, self.labels.read(row, number)

    def _text(self, row: Mapping[str, Any]) -> Text:
        data = self.config.data
        if data.template is None:
            parts = [value_of(row, column) for column in data.text_columns]
            if any(isinstance(part, bytes) for part in parts):
                raise RowError("the text is bytes; store the column as a string")
            return parts[0] if len(parts) == 1 else (parts[0], parts[1])
        values = {}
        for name in fields_of(data.template):
            derived = data.derive.get(name)
            column = derived.column if derived else name
            try:
                value = value_of(row, column)
                values[name] = derive(value, derived.feature) if derived else cell(value)
            except ValueError as error:
                raise RowError(f"column `{column}`: {error}") from None
        return fill(data.template, values)
