"""Classifying whole files: every format, errors per row, resuming."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from processes import run
from rows import make_rows, write_jsonl

from serve.inference.predictor import Predictor
from serve.predict_file import predict_file
from serve.tables import read_rows

Bundles = Callable[[str], Path]

ROWS = make_rows(30, seed=7)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        return write_jsonl(path, rows)
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
        return path
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return path


def predict(bundle: Path, source: Path, output: Path, *options: str) -> Any:
    return run(
        *("-m", "serve", "predict", "--bundle", bundle),
        *("--input", source, "--output", output, *options),
    )


@pytest.mark.parametrize("source", [".jsonl", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("output", [".jsonl", ".csv", ".parquet"])
def test_every_format_in_and_out(
    bundles: Bundles, tmp_path: Path, source: str, output: str
) -> None:
    predictor = Predictor.load(bundles("single"), device="cpu")
    expected_NC = predictor.predict([row["text"] for row in ROWS])
    target = tmp_path / f"out{output}"

    counts = predict_file(
        predictor, write(tmp_path / f"in{source}", ROWS), target, text_columns=("text",)
    )

    written = list(read_rows(target))
    assert counts == {"rows": 30, "resumed": 0, "failed": 0}
    assert [row["text"] for row in written] == [row["text"] for row in ROWS]
    assert [row["label"] for row in written] == [row["label"] for row in ROWS]
    labels = predictor.bundle.manifest.labels
    assert [row["predicted_label"] for row in written] == [
        labels[c] for c in expected_NC.argmax(axis=1)
    ]
    assert [float(row["predicted_score"]) for row in written] == pytest.approx(
        expected_NC.max(axis=1).tolist(), abs=1e-5
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"in{source}", target.name])


def test_how_the_input_was_read_is_said_once(
    bundles: Bundles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictor = Predictor.load(bundles("single"), device="cpu")
    (tmp_path / "in.csv").write_text("text;id\nlost, my card;1\nbye;2\n")

    predict_file(predictor, tmp_path / "in.csv", tmp_path / "out.csv", text_columns=("text",))

    assert capsys.readouterr().err.count("note: the values are separated by `;`") == 1


def test_rows_that_cannot_be_classified_have_an_error(bundles: Bundles, tmp_path: Path) -> None:
    rows = [{"id": 1, "text": "my parcel"}, {"id": 2, "text": " "}, {"id": 3, "text": None}]
    source = write_jsonl(tmp_path / "in.jsonl", rows)

    predictor = Predictor.load(bundles("single"), device="cpu")

    counts = predict_file(predictor, source, tmp_path / "out.jsonl", text_columns=("text",))

    written = list(read_rows(tmp_path / "out.jsonl"))
    assert counts == {"rows": 3, "resumed": 0, "failed": 2}
    assert written[0]["predicted_label"] is not None
    assert written[0]["predicted_error"] is None
    assert [row["predicted_label"] for row in written[1:]] == [None, None]
    assert written[1]["predicted_error"] == "the text is empty"
    assert written[2]["predicted_error"] == "expected a string, got NoneType"


def test_block_without_a_usable_row_is_not_an_error(bundles: Bundles, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": ""}, {"text": "a \ud83d"}])
    predictor = Predictor.load(bundles("single"), device="cpu")

    for suffix in (".jsonl", ".csv", ".parquet"):
        output = tmp_path / f"out{suffix}"
        counts = predict_file(predictor, source, output, text_columns=("text",))
        assert counts == {"rows": 2, "resumed": 0, "failed": 2}
        assert "lone surrogate" in list(read_rows(output))[1]["predicted_error"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_columns_that_appear_late_are_kept(bundles: Bundles, tmp_path: Path, suffix: str) -> None:
    rows = [{"text": "a"}, {"text": "b", "id": 7}, {"text": " "}]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    predictor = Predictor.load(bundles("single"), device="cpu")
    output = tmp_path / f"out{suffix}"

    predict_file(predictor, source, output, text_columns=("text",))

    written = list(read_rows(output))
    assert [str(row["id"] or "") for row in written] == ["", "7", ""]
    assert [row["predicted_error"] or "" for row in written] == ["", "", "the text is empty"]


def test_rows_that_parquet_cannot_hold_are_refused_before_the_work(
    bundles: Bundles, tmp_path: Path
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": "a", "n": 1}, {"text": "b", "n": "x"}])
    predictor = Predictor.load(bundles("single"), device="cpu")

    with pytest.raises(ValueError, match=r"cannot store these rows .* write .jsonl instead"):
        predict_file(predictor, source, tmp_path / "out.parquet", text_columns=("text",))

    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_multi_label_and_pair_models(bundles: Bundles, tmp_path: Path) -> None:
    multi = write_jsonl(tmp_path / "multi.jsonl", [{"text": "parcel courier invoice charge"}])
    pair = write_jsonl(tmp_path / "pair.jsonl", [{"left": "parcel", "right": "courier"}])

    predictor = Predictor.load(bundles("multi"), device="cpu")
    predict_file(predictor, multi, tmp_path / "a.jsonl", text_columns=("text",))
    second = predict(bundles("pair"), pair, tmp_path / "b.csv", "--text-columns", "left,right")

    assert second.returncode == 0, second.stderr
    assert "wrote 1 rows to" in second.stdout
    row = next(read_rows(tmp_path / "a.jsonl"))
    assert len(row["predicted_labels"]) == len(row["predicted_scores"])
    manifest = predictor.bundle.manifest
    least = dict(zip(manifest.labels, manifest.calibration.thresholds, strict=True))
    given = dict(zip(row["predicted_labels"], row["predicted_scores"], strict=True))
    assert all(score >= least[label] for label, score in given.items())
    assert next(read_rows(tmp_path / "b.csv"))["predicted_label"]


@pytest.mark.parametrize("source", ["in.jsonl", "in.csv", "in.parquet"])
@pytest.mark.parametrize("output", ["out.jsonl", "out.csv", "out.parquet"])
def test_file_without_rows_gives_one_without_rows(
    bundles: Bundles, tmp_path: Path, source: str, output: str
) -> None:
    (tmp_path / "in.jsonl").touch()
    (tmp_path / "in.csv").write_text("text\n")
    parquet.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "in.parquet")
    predictor = Predictor.load(bundles("single"), device="cpu")

    counts = predict_file(predictor, tmp_path / source, tmp_path / output, text_columns=("text",))

    assert counts == {"rows": 0, "resumed": 0, "failed": 0}
    assert list(read_rows(tmp_path / output)) == []
    if output == "out.csv":
        header = (tmp_path / output).read_text()
        assert header == "text,predicted_label,predicted_score,predicted_error\n"


def test_shards_have_one_schema_whether_rows_failed_or_not(
    bundles: Bundles, tmp_path: Path
) -> None:
    shards = {"good": ["a parcel"], "bad": [" "], "both": ["a parcel", " "]}
    predictor = Predictor.load(bundles("single"), device="cpu")

    for name, texts in shards.items():
        source = write_jsonl(tmp_path / f"{name}.jsonl", [{"text": text} for text in texts])
        for suffix in (".parquet", ".out.jsonl"):
            predict_file(predictor, source, tmp_path / f"{name}{suffix}", text_columns=("text",))

    schemas = [parquet.read_schema(tmp_path / f"{name}.parquet") for name in shards]
    assert schemas[0] == schemas[1] == schemas[2]
    assert [str(field.type) for field in schemas[0]] == ["string", "string", "double", "string"]
    keys = [list(row) for name in shards for row in read_rows(tmp_path / f"{name}.out.jsonl")]
    assert keys == [schemas[0].names] * 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "no input file at"),
        ("in.xlsx", "x", "unknown format"),
        ("in.jsonl", '{"text": "a"}\n{broken\n', "line 2: not valid JSON"),
        ("in.jsonl", '{"body": "a"}\n', "has no column `text`, only body"),
        (
            "in.jsonl",
            '{"text": "a", "predicted_label": 1}\n',
            "already has a column `predicted_label`",
        ),
        ("in.csv", "text,n\na,1\nb\n", "line 3: 1 values for 2 columns"),
    ],
)
def test_input_that_cannot_be_read_is_named(
    bundles: Bundles, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    predictor = Predictor.load(bundles("single"), device="cpu")

    with pytest.raises(ValueError, match=message):
        predict_file(predictor, tmp_path / name, tmp_path / "out.jsonl", text_columns=("text",))

    assert not (tmp_path / "out.jsonl").exists()


def test_csv_values_are_not_converted(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text('\ufefftext,n\n"NA",007\n"a ""b"", c",\n' + "x" * 200_000 + ",1\n")

    rows = list(read_rows(path))

    assert rows[0] == {"text": "NA", "n": "007"}
    assert rows[1] == {"text": 'a "b", c', "n": ""}
    assert len(rows[2]["text"]) == 200_000
