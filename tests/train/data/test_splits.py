"""Rows keep what was written, splits do not leak, and bad data is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from rows import make_rows, write_jsonl

from train.config.run import RunConfig
from train.data.splits import LabelledData, load_data
from train.data.splitting.assignment import content_key

ROWS = [
    ("None", "007"),
    ("NA", "1"),
    ("null", "007"),
    ("a, quoted", "1"),
    ('says "hi"', "007"),
    ("nan", "1"),
]


def load(tmp_path: Path, source: object, **data: Any) -> LabelledData:
    task = data.pop("task", "single_label")
    columns = {"validation_fraction": 1e-9, "test_fraction": 1e-9}
    columns |= {"validation": str(source), "test": str(source)}
    values = {
        "output_dir": str(tmp_path / "run"),
        "task": task,
        "data": {"train": str(source)} | columns | data,
        "model": {"base": "unused"},
    }
    return load_data(RunConfig.model_validate(values))


def write_csv(path: Path, delimiter: str = ",") -> Path:
    quoted = [['"' + text.replace('"', '""') + '"', label] for text, label in ROWS]
    path.write_text("\n".join(delimiter.join(row) for row in [["text", "label"], *quoted]) + "\n")
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "url"])
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    """Stock CSV loading reads the texts None, NA and null as missing and 007 as 7."""
    if kind == "jsonl":
        rows = [{"text": text, "label": label} for text, label in ROWS]
        source: object = write_jsonl(tmp_path / "rows.jsonl", rows)
    elif kind == "parquet":
        source = tmp_path / "rows.parquet"
        columns = list(zip(*ROWS, strict=True))
        parquet.write_table(pa.table({"text": columns[0], "label": columns[1]}), source)
    elif kind == "url":
        source = f"file://{write_csv(tmp_path / 'rows.csv')}"
    else:
        source = write_csv(tmp_path / f"rows.{kind}", "," if kind == "csv" else "\t")

    data = load(tmp_path, source)

    assert data.train.texts == [text for text, _ in ROWS]
    assert data.train.labels == [(label,) for _, label in ROWS]
    assert data.labels == ("007", "1")


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    rows = [{"text": text, "label": label} for text, label in ROWS]
    first = load(tmp_path / "a", write_csv(tmp_path / "rows.csv")).train.fingerprint
    same = load(tmp_path / "b", write_jsonl(tmp_path / "rows.jsonl", rows)).train.fingerprint
    rows[0]["label"] = "1"
    other = load(tmp_path / "c", write_jsonl(tmp_path / "rows.jsonl", rows)).train.fingerprint

    assert first == same
    assert first["rows"] == len(ROWS)
    assert first != other


def test_data_set_of_the_hub_form_brings_its_label_names(tmp_path: Path) -> None:
    """A local directory stands in for OWNER/NAME; both go to datasets.load_dataset."""
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    table = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [1, 0]}, features=features)
    (tmp_path / "set" / "data").mkdir(parents=True)
    table.to_parquet(tmp_path / "set" / "data" / "train-00000-of-00001.parquet")

    data = load(tmp_path, f"hub:{tmp_path / 'set'}#train")

    assert data.train.labels == [("good",), ("bad",)]


def test_hub_source_without_a_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected hub:OWNER/NAME#SPLIT"):
        load(tmp_path, "hub:PolyAI/banking77")


def test_hub_source_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read `hub:nobody/nothing@main#train`"):
        load(tmp_path, "hub:nobody/nothing@main#train")


def test_hash_split_is_stable_and_keeps_copies_together(tmp_path: Path) -> None:
    rows = make_rows(400, seed=5)
    copies = [{**row, "text": f"  {row['text'].upper()} "} for row in rows[:100]]
    source = write_jsonl(tmp_path / "a.jsonl", rows)
    more = write_jsonl(tmp_path / "b.jsonl", rows + copies)
    options = {"validation": None, "test": None}
    options |= {"validation_fraction": 0.2, "test_fraction": 0.1}

    before = load(tmp_path / "1", source, **options)
    after = load(tmp_path / "2", more, **options)

    assert set(before.test.texts) <= set(after.test.texts)
    assert set(before.train.texts) <= set(after.train.texts)
    positions = {
        name: {content_key(text) for text in getattr(after, name).texts}
        for name in ("train", "validation", "test")
    }
    assert not positions["train"] & positions["validation"]
    assert not positions["train"] & positions["test"]
    assert not positions["validation"] & positions["test"]
    assert 50 <= len(before.validation) <= 110
    assert 20 <= len(before.test) <= 60


def test_given_splits_are_taken_as_they_are(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "train.jsonl", make_rows(60, seed=1))
    test = write_jsonl(tmp_path / "test.jsonl", make_rows(20, seed=2))

    data = load(tmp_path, source, validation=None, test=str(test), validation_fraction=0.3)

    assert len(data.test) == 20
    assert len(data.train) + len(data.validation) == 60
    assert 5 <= len(data.validation) <= 30


def test_multi_label_from_lists_and_from_separated_strings(tmp_path: Path) -> None:
    lists = [{"text": "x", "label": ["b", "a"]}, {"text": "y", "label": []}]
    source = write_jsonl(tmp_path / "rows.jsonl", lists)
    csv = tmp_path / "rows.csv"
    csv.write_text("text,label\nx,b | a\ny,\n")

    assert load(tmp_path / "1", source, task="multi_label").train.labels == [("a", "b"), ()]
    assert load(tmp_path / "2", csv, task="multi_label").train.labels == [("a", "b"), ()]


def test_label_map_renames_and_other_columns_are_taken(tmp_path: Path) -> None:
    rows = [{"body": "x", "n": 0}, {"body": "y", "n": 1}, {"body": "z", "n": 2}]
    source = write_jsonl(tmp_path / "rows.jsonl", rows)

    data = load(
        tmp_path,
        source,
        text_columns=["body"],
        label_column="n",
        label_map={"0": "no", "1": "yes", "2": "yes"},
    )

    assert data.train.labels == [("no",), ("yes",), ("yes",)]


def test_pairs_need_both_texts(tmp_path: Path) -> None:
    rows = [
        {"a": "x", "b": "y", "label": "1"},
        {"a": "x", "b": " ", "label": "0"},
        {"a": "p", "b": "q", "label": "0"},
    ]
    source = write_jsonl(tmp_path / "rows.jsonl", rows)

    with pytest.raises(ValueError, match="row 2: the text is empty"):
        load(tmp_path, source, text_columns=["a", "b"])
    data = load(tmp_path, source, text_columns=["a", "b"], drop_invalid_rows=True)

    assert data.train.texts == [("x", "y"), ("p", "q")]
    assert data.num_dropped == 3  # the same file serves as three splits


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "", "label": "a"}, {"text": "x", "label": "b"}], "row 1: the text is empty"),
        ([{"text": "x", "label": None}, {"text": "x", "label": "b"}], "the label is missing"),
        ([{"text": "x", "label": "a"}], "a classifier needs two"),
        ([{"text": "x", "label": ["a", "b"]}], "set task: multi_label"),
        ([{"text": "x", "label": "a"}, {"body": "x", "label": "b"}], "row 2: expected a string"),
        ([{"body": "x", "label": "a"}], "has no column `text`, only `body`, `label`"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(tmp_path, write_jsonl(tmp_path / "rows.jsonl", rows))


@pytest.mark.parametrize(
    ("name", "content"), [("a.json", "[]"), ("a.jsonl", "\n"), ("a.csv", "text,label\n")]
)
def test_source_without_rows_is_named(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)

    with pytest.raises(ValueError, match=rf"{name}` has no rows"):
        load(tmp_path, tmp_path / name)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("label_column", ["a", "b"], "label_column.*\n.*set data.label_columns instead"),
        ("label_separator", "", "label_separator.*\n.*at least 1 character"),
    ],
)
def test_wrong_setting_of_labels_is_named_by_its_key(
    tmp_path: Path, key: str, value: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load(tmp_path, tmp_path / "a.csv", task="multi_label", **{key: value})


def test_csv_with_an_unquoted_comma_is_refused_and_one_with_an_index_is_read(
    tmp_path: Path,
) -> None:
    """pandas makes the first column an index and the text ` world` of the first file."""
    bad = tmp_path / "bad.csv"
    bad.write_text("text,label\nhello, world,a\nhi, you,b\n")
    exported = tmp_path / "exported.csv"
    exported.write_text(",text,label\n0,hello,a\n1,hi,b\n")

    with pytest.raises(ValueError, match="line 2: 3 values for 2 columns"):
        load(tmp_path / "1", bad)

    assert load(tmp_path / "2", exported).train.texts == ["hello", "hi"]


def test_rows_of_a_label_that_train_would_lose_stay_there(tmp_path: Path) -> None:
    rare = [{"text": f"rare {n}", "label": f"only-{n}"} for n in range(60)]
    source = write_jsonl(tmp_path / "rows.jsonl", make_rows(60, seed=1) + rare)

    data = load(
        tmp_path, source, validation=None, test=None, validation_fraction=0.3, test_fraction=0.3
    )

    assert len(data.labels) == 63
    assert len(data.validation) > 5


def test_label_that_only_the_test_split_has_is_named(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "train.jsonl", make_rows(30, seed=1))
    test = write_jsonl(tmp_path / "test.jsonl", [{"text": "x", "label": "refund"}])

    with pytest.raises(ValueError, match=r"data.test has 1 rows with the label 'refund'"):
        load(tmp_path, source, test=str(test))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.csv", "there is no data file"),
        ("rows.xlsx", "unknown format"),
        ("bad.jsonl", "cannot read"),
    ],
)
def test_source_that_cannot_be_read_is_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "bad.jsonl").write_text(json.dumps({"text": "x"}) + "\n{broken\n")

    (tmp_path / "rows.xlsx").write_bytes(b"PK")

    with pytest.raises(ValueError, match=message):
        load(tmp_path, tmp_path / name)


@pytest.mark.parametrize(
    ("labels", "data", "message"),
    [
        (["a"] * 30, {}, r"the labels \['a'\]; a classifier needs two"),
        ([f"{n / 7:.3f}" for n in range(60)], {}, "numbers to predict are no classes"),
        ([f"tag {n}" for n in range(30)], {}, "30 of its 30 labels, such as 'tag 0', have one row"),
        (["a", "b"] * 3, {}, r"data.train has only 6, .* 1e-09 \(data.validation_fraction\)"),
        (["a", "b"] * 9, {"validation_fraction": 0.6, "test_fraction": 0.4}, "add up to 1, which"),
    ],
)
def test_data_that_cannot_be_split_say_why(
    tmp_path: Path, labels: list[str], data: dict[str, Any], message: str
) -> None:
    rows = [{"text": f"text {n}", "label": label} for n, label in enumerate(labels)]
    source = write_jsonl(tmp_path / "rows.jsonl", rows)

    with pytest.raises(ValueError, match=message):
        load(tmp_path, source, validation=None, test=None, **data)


def test_label_of_test_that_is_written_differently_is_named(tmp_path: Path) -> None:
    """As pandas does to a column of numbers with a gap."""
    train = write_jsonl(tmp_path / "a.jsonl", [{"text": "x", "label": n} for n in (0, 1)])
    test = write_jsonl(tmp_path / "b.jsonl", [{"text": "x", "label": n} for n in (0.0, 1.0)])

    with pytest.raises(ValueError, match=r"no row of data.train has \(it has '0'\)"):
        load(tmp_path, train, test=str(test))


def test_texts_of_a_file_without_header_are_shortened_in_the_message(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("3,Markets," + "word " * 1000 + "\n4,Sport,more\n")

    with pytest.raises(ValueError, match="first line is taken for the header") as failure:
        load(tmp_path, tmp_path / "a.csv")

    assert len(str(failure.value)) < 600


@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [
        ("a.csv", "text, lang;label\na, b;c\n", "set data.delimiter=';' if it is the delimiter"),
        ("a.csv", "Text,label\na,b\n", "'Text' is not 'text'"),
        ("a.csv", "te\u200bxt,label\na,b\n", r"'te\\u200bxt' is not 'text'"),
        ("a.csv", "__label__x hello\n__label__y bye\n", "it looks like a file of fastText"),
        ("a.jsonl", '{"data": {"text": "a"}, "id": 1}\n', "a value within the objects in `data`"),
    ],
)
def test_missing_column_is_named_with_what_the_file_may_be(
    tmp_path: Path, name: str, content: str, hint: str
) -> None:
    (tmp_path / name).write_text(content)

    with pytest.raises(ValueError, match=f"has no column .*{hint}"):
        load(tmp_path, tmp_path / name)


def test_slice_value_that_is_not_unicode_is_named_by_row(tmp_path: Path) -> None:
    rows = [{"text": "x", "label": "a", "channel": "\ud83d"}, {"text": "y", "label": "b"}]
    source = write_jsonl(tmp_path / "a.jsonl", rows)
    values = {
        "output_dir": str(tmp_path / "run"),
        "data": {"train": str(source), "validation": str(source), "test": str(source)},
        "evaluation": {"slice_columns": "channel"},
        "model": {"base": "x"},
    }

    with pytest.raises(ValueError, match="row 1: column `channel`: not valid Unicode"):
        load_data(RunConfig.model_validate(values))


def test_shards_of_a_directory_are_one_source(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for name in ("b", "a"):
        write_jsonl(shards / f"{name}.jsonl", [{"text": f"{name}{n}", "label": n} for n in (0, 1)])

    data = load(tmp_path, shards)

    assert data.train.texts == ["a0", "a1", "b0", "b1"]
    assert data.notes[:1] == (f"`{shards}`: 2 files, from `a.jsonl` to `b.jsonl`",)
