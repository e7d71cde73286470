"""Templates build one text from columns, times become words, invalid values are named."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from rows import make_rows, write_jsonl

from train.config.run import RunConfig
from train.config.template_spec import fields_of
from train.data.labels import RowError
from train.data.rows import RowRules
from train.data.splits import load_data
from train.data.template import derive, fill


def rules(**data: Any) -> RowRules:
    values = {"output_dir": "x", "data": {"train": "x"} | data, "model": {"base": "x"}}
    return RowRules(config=RunConfig.model_validate(values), class_names={})


TEMPLATE = {
    "template": "{title} [SEP] {body} ({channel}, {day} {hour})",
    "derive": {
        "hour": {"column": "created_at", "feature": "hour"},
        "day": {"column": "created_at", "feature": "weekday"},
    },
}


def test_template_joins_columns_and_words_of_a_time() -> None:
    made = rules(**TEMPLATE)
    row = {
        "title": "Late",
        "body": "where is {it}?",
        "channel": 3,
        "created_at": "2026-11-24T07:05:00+02:00",
        "label": "delivery",
    }

    assert made.parse(row) == ("Late [SEP] where is {it}? (3, Tuesday 07)", ("delivery",))
    assert made.columns == ("title", "body", "channel", "created_at", "label")


def test_missing_values_leave_gaps_and_a_row_of_gaps_is_refused() -> None:
    made = rules(template="{title}: {body}")

    assert made.parse({"title": None, "body": "x", "label": "a"})[0] == ": x"
    with pytest.raises(RowError, match="the text is empty"):
        made.parse({"title": " ", "body": None, "label": "a"})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"created_at": "noon"}, "column `created_at`: 'noon' is not a time in ISO 8601"),
        ({"created_at": "2026-11-24"}, "'2026-11-24' is a date without a time"),
        ({"title": ["a"]}, "column `title`: expected text or a number, got list"),
    ],
)
def test_value_that_does_not_fit_the_template_is_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(RowError, match=message):
        rules(**TEMPLATE).parse({"title": "x", "label": "a"} | row)


@pytest.mark.parametrize(
    ("value", "feature", "word"),
    [
        ("2026-11-24 23:59", "hour", "23"),
        ("2026-11-24 05:59:59", "time_of_day", "night"),
        (datetime(2026, 11, 24, 6), "time_of_day", "morning"),
        (datetime(2026, 11, 24, 17, 59), "time_of_day", "afternoon"),
        (datetime(2026, 11, 24, 18), "time_of_day", "evening"),
        (date(2026, 11, 24), "weekday", "Tuesday"),
        ("2026-11-24", "month", "November"),
        (0, "weekday", "Thursday"),
        (None, "hour", ""),
        (" ", "hour", ""),
    ],
)
def test_words_of_times(value: Any, feature: Any, word: str) -> None:
    assert derive(value, feature) == word


@pytest.mark.parametrize("template", ["no column", "{", "{a.b!r}", "{a:>5}", "{}", "{a!s}"])
def test_template_that_does_more_than_to_name_columns_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="template"):
        fields_of(template)


def test_braces_are_written_twice() -> None:
    assert fields_of("{{x}} {a} {a}") == ("a",)
    assert fill("{{x}} {a}", {"a": "1"}) == "{x} 1"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"derive": TEMPLATE["derive"]}, "there is no `template`"),
        ({"template": "{a}", "derive": TEMPLATE["derive"]}, "`derive.day` is not in the"),
        ({"template": "{a}", "text_columns": ["a", "b"]}, "makes one text"),
        ({"template": "{a!r}"}, "expected only a column name"),
    ],
)
def test_template_settings_that_contradict_each_other_are_refused(
    data: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        rules(**data)


def test_data_of_a_template_are_loaded_and_a_missing_column_is_named(tmp_path: Path) -> None:
    rows = [
        {"a": row["text"], "b": n, "label": row["label"]}
        for n, row in enumerate(make_rows(60, seed=1))
    ]
    source = str(write_jsonl(tmp_path / "rows.jsonl", rows))
    values: dict[str, Any] = {
        "output_dir": str(tmp_path / "run"),
        "data": {"train": source, "test": source, "validation": source, "template": "{b}) {a}"},
        "model": {"base": "x"},
    }
    data = load_data(RunConfig.model_validate(values))
    values["data"]["template"] = "{b}) {c}"

    assert data.train.texts[7] == f"7) {rows[7]['a']}"
    with pytest.raises(ValueError, match="has no column `c`, only `a`, `b`, `label`"):
        load_data(RunConfig.model_validate(values))


def test_dotted_path_names_a_value_within_objects() -> None:
    made = rules(text_columns=["data.text"], label_column="meta.label")
    row = {"data": {"text": "lost card"}, "meta": {"label": "card"}}

    assert made.parse(row) == ("lost card", ("card",))
    assert rules(text_columns=["a.b"]).parse({"a.b": "x", "a": {"b": "y"}, "label": "l"})[0] == "x"


def test_dotted_path_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    rows = [{"data": {"text": f"text {n}"}, "label": "ab"[n % 2]} for n in range(40)]
    values = {
        "output_dir": str(tmp_path / "run"),
        "data": {"train": str(write_jsonl(tmp_path / "rows.jsonl", rows))},
        "model": {"base": "x"},
    }
    config = RunConfig.model_validate(values)

    with pytest.raises(ValueError, match=r"no column `text`.*dotted path, such as data\.text"):
        load_data(config, invalid=[])
    values["data"]["text_columns"] = ["data.body"]
    with pytest.raises(ValueError, match=r"has no column `data\.body`"):
        load_data(RunConfig.model_validate(values), invalid=[])
