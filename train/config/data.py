"""The configuration of the data: sources, how their files are read, columns, labels, splits."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from serve.config import Config
from serve.formats.options import as_delimiter, as_encoding
from train.config.names import Name, Names, string_keys
from train.config.template_spec import Feature, fields_of

READING = frozenset(
    {
        "train",
        "validation",
        "test",
        "fixes",
        "fixes_max_fraction",
        "fixes_change_test",
        "split_file",
        "delimiter",
        "encoding",
        "quoting",
        "max_row_mb",
        "column_names",
        "label_columns",
        "label_names",
    }
)
"""Keys that say where rows come from and how they are read: runs compare the rows themselves."""


class DeriveSection(Config):
    """A word derived from a column with a time."""

    column: Name
    """Column with a time: ISO 8601, a database's own type, or seconds since 1970 (UTC)."""

    feature: Feature
    """hour (00 to 23), time_of_day (night, morning, afternoon, evening), weekday or month."""


def _label_column(value: Any) -> Any:
    if isinstance(value, list | tuple):
        raise ValueError(
            "it names one column; for one column per label, set data.label_columns instead"
        )
    return value


class DataConfig(Config):
    """Sources of the labelled text, and how their rows are read."""

    train: str
    """File, directory, pattern or URL; sql:URL#QUERY; or hub:OWNER/NAME#SPLIT."""

    validation: str | None = None
    """Same forms; null splits off a part of train by the hash of the text."""

    test: str | None = None
    """Same forms; null splits off a part of train by the hash of the text."""

    delimiter: str | None = None
    """Character between the values of CSV and TSV files, or `tab`; null detects it."""

    encoding: str | None = None
    """Encoding of text files, such as cp1252; null: UTF-8, or UTF-16 by its byte order mark."""

    quoting: Literal["auto", "csv", "none"] = "auto"
    """csv: RFC 4180; none: quote marks are text; auto: csv, or none for a TSV file that is not."""

    max_row_mb: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Longest row in MB, and largest JSON file that is not a list of rows; longer are refused."""

    column_names: Names = ()
    """Names of the columns of CSV and TSV files that have no header line."""

    text_columns: Annotated[Names, Field(min_length=1, max_length=2)] = ("text",)
    """Column with the text; two for text pairs; data.text is a value within an object of JSON."""

    template: str | None = None
    """Format of a text built from columns, "{title}: {body}"; clients must send the same format."""

    derive: dict[str, DeriveSection] = Field(default_factory=dict)
    """Additional names for the template, {hour: {column: created_at, feature: hour}}."""

    label_column: Annotated[Name, BeforeValidator(_label_column)] = "label"
    """Column with the label; for multi-label a list, or a string to split at label_separator."""

    label_columns: Names = ()
    """Multi-label: one column per label, with 0 or 1, instead of label_column."""

    label_names: Names = ()
    """Names of the classes 0, 1, 2 ... for labels that are numbers or lists of zeros and ones."""

    label_separator: Annotated[str, Field(min_length=1)] = "|"
    """Separator of the labels in a multi-label string, as in CSV files."""

    label_map: Annotated[dict[str, Name], BeforeValidator(string_keys)] = Field(
        default_factory=dict
    )
    """New names for labels; labels that are not listed keep their names."""

    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Fraction of train to use as validation if no validation source is set."""

    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Fraction of train to use as test if no test source is set."""

    split_file: str | None = None
    """File that keeps the splits of texts of rare labels; null: beside a local file or directory,
    named FILE.splits, and written if a label would have no validation or test rows."""

    drop_invalid_rows: bool = False
    """Skip rows without text or label and report their number, instead of refusing the data."""

    fixes: str | None = None
    """Reviewed fixes.jsonl of `prepare`, with rows to drop or relabel before the split."""

    fixes_max_fraction: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Largest fraction of all rows that `fixes` may change; a file that changes more is refused."""

    fixes_change_test: bool = False
    """Whether `fixes` may change rows of the test split."""

    group_by_length: bool = True
    """Group texts of similar length into batches to reduce padding; the batch size is unchanged."""

    @field_validator("delimiter", mode="before")
    @classmethod
    def _check_delimiter(cls, value: Any) -> Any:
        return as_delimiter(value) if isinstance(value, str) else value

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, value: str | None) -> str | None:
        return None if value is None else as_encoding(value)

    @model_validator(mode="after")
    def _check_template(self) -> Self:
        if self.template is None:
            if self.derive:
                raise ValueError("`derive` is set, but there is no `template` to use it; remove it")
            return self
        if len(self.text_columns) > 1:
            raise ValueError("`template` makes one text; remove the second of `text_columns`")
        if unused := sorted(set(self.derive) - set(fields_of(self.template))):
            raise ValueError(f"`derive.{unused[0]}` is not in the `template`")
        return self

    @model_validator(mode="after")
    def _check_fractions(self) -> Self:
        fractions = {
            f"{name}_fraction": getattr(self, f"{name}_fraction")
            for name in ("validation", "test")
            if getattr(self, name) is None
        }
        if sum(fractions.values()) >= 1:
            raise ValueError(
                f"{' and '.join(f'`{name}`' for name in fractions)} add up to "
                f"{sum(fractions.values()):g}, which leaves no rows for train; their sum must be "
                "less than 1"
            )
        return self

    @model_validator(mode="after")
    def _check_split_file(self) -> Self:
        if self.split_file is not None and self.validation and self.test:
            raise ValueError(
                "`split_file` is set, but validation and test have sources of their own, so that "
                "nothing is split; remove it"
            )
        return self

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        for key in ("label_columns", "label_names"):
            names = getattr(self, key)
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"`{key}` names {twice[0]!r} twice")
        if self.label_columns and self.label_column != "label":
            raise ValueError("set `label_column` or `label_columns`, not both")
        if self.label_columns and self.label_names:
            raise ValueError("`label_columns` are the names of the classes; remove `label_names`")
        return self
