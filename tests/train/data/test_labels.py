"""Labels keep their meaning: what is no name is refused by row, one value is one label."""

from __future__ import annotations

import json
import os
from datetime import date
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from rows import write_jsonl

from train.config.run import RunConfig
from train.data.label_names import (
    list_separator,
    look_alikes,
    notes_on_labels,
    positive_label,
)
from train.data.labels import LabelReader, RowError
from train.data.splits import LabelledData, load_data


def reader(task: str = "multi_label", names: Any = (), **data: Any) -> LabelReader:
    values = {"output_dir": "x", "task": task, "data": {"train": "x"} | data}
    config = RunConfig.model_validate(values | {"model": {"base": "x"}})
    return LabelReader(config, {"label": names} if names else {})


def load(source: Path, *, task: str = "single_label", **data: Any) -> LabelledData:
    sources = dict.fromkeys(("train", "validation", "test"), str(source))
    values = {"output_dir": str(source.parent / "run"), "task": task, "data": sources | data}
    return load_data(RunConfig.model_validate(values | {"model": {"base": "x"}}))


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"choices": ["A", "B"]}, "the label is an object with `choices`"),
        ('{"choices": ["A", "B"]}', "the label is an object with `choices`"),
        ([["x"]], "the label is a list within a list"),
        ([{"name": "A"}], "the label is an object with `name`"),
        (b"x", "the label is bytes; store the column as a string"),
        (float("nan"), "the label is nan, which is no name"),
        (float("-inf"), "the label is -inf, which is no name"),
        ([None], "the label is missing"),
        (None, "the label is missing"),
        ([0, 0, 1, 0], "a list of 4 zeros and ones; name its classes in data.label_names"),
        ([0.0, 1.0], "a list of 2 zeros and ones"),
        ("[0, 1, 0]", "a list of 3 zeros and ones"),
        ([True, False], "a list of 2 zeros and ones"),
    ],
)
def test_value_that_is_no_name_is_refused(task: str, value: Any, message: str) -> None:
    with pytest.raises(RowError, match=message):
        reader(task).read({"label": value})


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
@pytest.mark.parametrize(
    "value",
    [
        "['a' 'b']",  # NumPy: Python would join the strings
        "[0 1 1]",
        "array(['a', 'b'], dtype=object)",
        "{a,b}",  # an array of Postgres
        '{"a b",c}',
        "[a, b]",
    ],
)
def test_list_of_another_program_is_refused_and_never_one_label(task: str, value: str) -> None:
    with pytest.raises(RowError, match="looks like a list, but is not written as JSON"):
        reader(task).read({"label": value})


@pytest.mark.parametrize("value", ["0 1 1", "1,0,1", "0, 0, 1"])
def test_string_of_zeros_and_ones_is_a_list(value: str) -> None:
    with pytest.raises(RowError, match="a list of 3 zeros and ones; name its classes"):
        reader().read({"label": value})
    assert "c" in reader(label_names=["a", "b", "c"]).read({"label": value})


def test_digits_for_classes_are_not_taken_for_a_number() -> None:
    digits = reader()
    for value in ("011", "100"):
        digits.read({"label": value})

    with pytest.raises(ValueError, match=r"write lists such as \[0, 1, 1\]"):
        digits.check()
    named = reader(label_separator="|")
    named.read({"label": "011"})
    named.check()
    with pytest.raises(RowError, match=r"write 11 or \[0, 1, 1\]"):
        reader(label_names=["a", "b", "c"]).read({"label": "011"})


def test_unreadable_list_is_refused_in_a_multi_label_task_only() -> None:
    with pytest.raises(
        RowError, match=r"'\[other\]' looks like a list, but is not written as JSON"
    ):
        reader().read({"label": "[other]"})
    assert reader("single_label").read({"label": "[other]"}) == ("[other]",)


@pytest.mark.parametrize(
    "value", [["b", "a"], "b|a", " b | a ", '["b", "a"]', "['b', 'a']", "('b', 'a')", "{'a', 'b'}"]
)
def test_lists_and_lists_in_strings_are_read(value: Any) -> None:
    assert reader().read({"label": value}) == ("a", "b")


@pytest.mark.parametrize(("value", "label"), [(["pos"], "pos"), ('["pos"]', "pos"), ([3], "3")])
def test_list_of_one_label_is_a_label(value: Any, label: str) -> None:
    assert reader("single_label").read({"label": value}) == (label,)


def test_no_labels_and_no_annotation_are_not_the_same() -> None:
    read = reader().read

    assert read({"label": []}) == read({"label": ""}) == read({"label": "[]"}) == ()
    for row in ({"label": None}, {}):
        with pytest.raises(RowError, match="the label is missing"):
            read(row)


def test_lists_of_zeros_and_ones_get_the_names_of_the_classes() -> None:
    given = reader(label_names=["a", "b", "c"])

    assert given.read({"label": [1, 0, 1]}) == given.read({"label": "[1, 0, 1]"}) == ("a", "c")
    assert given.read({"label": [0, 2]}) == ("a", "c")  # class numbers
    assert reader(names=["a", "b", "c"]).read({"label": [0, 1]}) == ("a", "b")
    assert reader("single_label", label_names=["no", "yes"]).read({"label": "1"}) == ("yes",)
    with pytest.raises(RowError, match=r"data.label_names, which has 3"):
        given.read({"label": [0, 1, 0, 0]})


@pytest.mark.parametrize("values", [(1, 1.0), (1.0, "1"), (True, "True"), ("007", 7), ("1.0", 1)])
def test_one_value_in_two_types_is_refused_and_can_be_mapped(values: tuple[Any, Any]) -> None:
    both = reader("single_label")
    for number, value in enumerate(values, start=1):
        both.read({"label": value}, number)
    mapped = reader("single_label", label_map={str(value): "x" for value in values} | {"true": "x"})
    for value in values:
        mapped.read({"label": value})

    with pytest.raises(ValueError, match=r"\(row 1\) and .* \(row 2\) are one value in two forms"):
        both.check()
    mapped.check()


def test_large_numbers_are_told_apart() -> None:
    large = reader("single_label")
    for value in (2**53, 2**53 + 1, str(2**53 + 2)):
        large.read({"label": value})

    large.check()


def test_number_and_its_text_are_one_label() -> None:
    same = reader("single_label")

    assert same.read({"label": 1}) == same.read({"label": "1"}) == ("1",)
    same.check()
    assert same.read({"label": date(2026, 1, 2)}) == ("2026-01-02",)


def test_one_column_per_label() -> None:
    read = reader(label_columns=["toxic", "rude"]).read

    assert read({"toxic": "1", "rude": "0"}) == ("toxic",)
    assert read({"toxic": True, "rude": 1.0}) == ("rude", "toxic")
    assert read({"toxic": 0, "rude": ""}) == ()
    with pytest.raises(RowError, match="column `rude`: expected 0 or 1, got '-1'"):
        read({"toxic": 1, "rude": -1})
    with pytest.raises(RowError, match="all label columns are empty"):
        read({"toxic": None, "rude": ""})


def test_column_of_zeros_and_ones_is_not_taken_for_labels(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,toxic,rude\na,0,1\nb,1,0\nc,1,1\n")

    with pytest.raises(ValueError, match=r"set data.label_columns=\[toxic, ...\]"):
        load(tmp_path / "a.csv", task="multi_label", label_column="toxic")
    data = load(tmp_path / "a.csv", task="multi_label", label_columns=["toxic", "rude"])

    assert list(data.train.labels) == [("rude",), ("toxic",), ("rude", "toxic")]


def test_comma_lists_are_refused_unless_the_separator_is_chosen(tmp_path: Path) -> None:
    rows = [("a", "joy"), ("b", "admiration, joy"), ("c", "admiration")]
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": t, "label": v} for t, v in rows])

    with pytest.raises(ValueError, match="'admiration, joy' looks like a list of labels that"):
        load(source, task="multi_label")
    split = load(source, task="multi_label", label_separator=",")
    whole = load(source, task="multi_label", label_separator="|")

    assert split.labels == ("admiration", "joy")
    assert "admiration, joy" in whole.labels


def test_separator_of_lists_is_found_and_names_with_commas_are_left() -> None:
    assert list_separator(["a;b", "b;c", "c;a"]) == (";", "a;b")
    assert list_separator(["law, government", "sport", "science, nature"]) is None


def test_rows_that_an_annotator_did_not_accept_are_refused(tmp_path: Path) -> None:
    """As Prodigy exports them."""
    rows = [
        {"text": "a", "accept": ["POS"], "answer": "accept"},
        {"text": "b", "accept": ["NEG"], "answer": "accept"},
        {"text": "c", "accept": [], "answer": "ignore"},
    ]
    source = write_jsonl(tmp_path / "a.jsonl", rows)

    with pytest.raises(ValueError, match="row 3: the annotator's `answer` is 'ignore'"):
        load(source, label_column="accept")
    data = load(source, label_column="accept", drop_invalid_rows=True)

    assert list(data.train.labels) == [("POS",), ("NEG",)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": "x", "answer": "reject"}, "the annotator's `answer` is 'reject'"),
        (
            {"label": ["x"], "label.status": ["submitted", "discarded"]},
            "the annotator's `label.status` is 'discarded'",
        ),
    ],
)
def test_rows_that_were_not_accepted_are_refused_in_any_layout(
    row: dict[str, Any], message: str
) -> None:
    with pytest.raises(RowError, match=message):
        reader("single_label").read(row)
    assert reader("single_label", text_columns=["answer"]).read({"label": "x", "answer": "reject"})


def test_look_alikes_are_found() -> None:
    labels = [
        "Pos",
        "pos",
        "a",
        "a\u200b",
        "\xe9t\xe9",
        "e\u0301te\u0301",
        "1",
        "1.0",
        "b b",
        "b  b",
        "x",
        "z",
        "z\0",
    ]

    assert look_alikes(labels) == [
        ["1", "1.0"],
        ["Pos", "pos"],
        ["a", "a\u200b"],
        ["b  b", "b b"],
        ["e\u0301te\u0301", "\xe9t\xe9"],
        ["z", "z\0"],
    ]


def test_notes_name_look_alikes_missing_values_and_lists() -> None:
    notes = notes_on_labels({"Pos": 3, "pos": 2, "nan": 1, "x;y": 1}, multi=True)

    assert notes == [
        "labels that may be one label, written in different ways: 'Pos' (3 rows), 'pos' (2 rows)",
        "the label 'nan' (1 rows) may be a missing value as text",
        "1 labels contain ';', such as 'x;y'; set data.label_separator if they are lists",
    ]


@pytest.mark.parametrize("separator", [",", "\u3001", "/", " & ", "\n", " "])
def test_lists_of_labels_in_a_single_label_task_are_said(separator: str) -> None:
    notes = notes_on_labels({"x": 3, "y": 2, f"x{separator}y": 1}, multi=False)

    assert len(notes) == 1
    assert "may be a list of other labels" in notes[0]
    assert "set task: multi_label and data.label_separator" in notes[0]


@pytest.mark.parametrize("missing", [r"\N", ".", "#VALUE!", "None", "(null)"])
def test_missing_values_of_other_programs_are_said(missing: str) -> None:
    assert "missing value as text" in notes_on_labels({"x": 3, missing: 1}, multi=False)[0]


def test_label_of_every_row_is_said(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": ["all", "x"]}, {"text": "b", "label": ["all"]}]

    data = load(write_jsonl(tmp_path / "a.jsonl", rows), task="multi_label")

    assert data.notes[:1] == (
        "every row of data.train has the label 'all', so nothing can be learned about it",
    )


def test_label_map_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": True}, {"text": "b", "label": False}]
    source = write_jsonl(tmp_path / "a.jsonl", rows)

    with pytest.raises(ValueError, match="names 'tru', which no row has; the labels are 'false',"):
        load(source, label_map={"tru": "x"})
    assert load(source, label_map={True: "yes"}).labels == ("false", "yes")


def test_parquet_of_datasets_brings_its_class_names(tmp_path: Path) -> None:
    names = datasets.Sequence(datasets.ClassLabel(names=["bad", "good", "ugly"]))
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    values = {"text": ["x", "y"], "label": [[0, 1], [2]]}
    datasets.Dataset.from_dict(values, features=features).to_parquet(tmp_path / "a.parquet")

    data = load(tmp_path / "a.parquet", task="multi_label")

    assert list(data.train.labels) == [("bad", "good"), ("ugly",)]


def test_binary_text_is_named(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": [b"a"], "label": ["x"]}), tmp_path / "a.parquet")

    with pytest.raises(ValueError, match="the text is bytes; store the column as a string"):
        load(tmp_path / "a.parquet")


def test_json_that_was_edited_is_read_anew(tmp_path: Path) -> None:
    """With the modification time of before, as copies and archives have it."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": n, "label": f"old_{n}"} for n in "ab"]))
    before = load(path)
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_text(json.dumps([{"text": n, "label": f"new_{n}"} for n in "ab"]))
    os.utime(path, ns=times)

    assert before.labels == ("old_a", "old_b")
    assert load(path).labels == ("new_a", "new_b")


@pytest.mark.parametrize(
    ("counts", "configured", "positive"),
    [
        ({"ham": 9, "spam": 2}, None, "spam"),
        ({"yes": 2, "no": 9}, None, "yes"),
        ({"0": 5, "1": 5}, None, "1"),
        ({"ham": 9, "spam": 2}, "ham", "ham"),
    ],
)
def test_positive_label_is_the_configured_one_else_the_rarer(
    counts: dict[str, int], configured: str | None, positive: str
) -> None:
    assert positive_label(counts, configured) == positive


def test_positive_label_that_is_no_label_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'Spam', which is not a label of the task; .* 'spam'"):
        positive_label({"ham": 9, "spam": 2}, "Spam")
