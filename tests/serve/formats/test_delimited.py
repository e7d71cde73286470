"""CSV and TSV: wrong quoting is refused where it begins, dialects are detected without doubt."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from serve.formats.options import ReadOptions
from serve.tables import DEFAULTS, read_rows, survey

TRAINING = ReadOptions(key="data.")


def read(
    path: Path, content: str | bytes, options: ReadOptions = DEFAULTS
) -> tuple[list[dict[str, Any]], list[str]]:
    """Write and read a file; return its rows and the notes."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    notes: list[str] = []
    return list(read_rows(path, options, notes.append)), notes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('text,id\n"not closed,1\nb,2\nc,3\n', "line 2: a quote mark that is not closed"),
        ('text,id\na,1\n5" pipe,2\nc,3\n', "line 3: a quote mark in a field that is not in quotes"),
        ('text,id\n"one" more,1\n', "line 2: text after the closing quote mark"),
        ('text,id\n"say \\"hi\\" now",1\n', "line 2: a quote mark that is escaped by a backslash"),
        ('text,id\n"a\nb",1\n"c\nd"x,2\ne,3\n', "line 4: text after the closing quote mark"),
        ('text,id\na,"open\nb,1\nc"d,2\n', "line 2: text after the closing quote mark"),
        ('text\nfirst\n"stray\nthird\nfourth\n', "line 3: a quote mark that is not closed"),
        ("text,id\na,1\nb\n", "line 3: 1 values for 2 columns; quote values that contain a line"),
        ("text,id\na,1\n\nb, c,2\n", "line 4: 3 values for 2 columns"),
        ("text,id\na\rb,1\n", "line 2: a carriage return outside quotes"),
        ("text,id\ra,1\rb\nc,2\r", "line 3: a line feed outside quotes"),
        ("text,id\na,1\ntext,id\nb,2\n", "line 3 repeats the header"),
        ("\ufefftext,id\na,1\n\ufefftext,id\nb,2\n", "line 3 repeats the header"),
        ("text,id\n1,a,2\n2,b,3\n", r"line 2: 3 values .* set row.names = FALSE"),
        ("\0" * 5000, "the file is damaged: it begins with zeros"),
    ],
)
def test_wrong_csv_is_refused_at_the_line_where_it_begins(
    tmp_path: Path, content: str, message: str
) -> None:
    with pytest.raises(ValueError, match=rf"rows.csv`: {message}"):
        read(tmp_path / "rows.csv", content)


def test_remedy_names_the_key_if_there_is_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"set data.quoting=none if the file is not quoted"):
        read(tmp_path / "a.csv", 'text,id\n5" pipe,1\n', TRAINING)
    with pytest.raises(ValueError, match=r"write the rows as .jsonl if the file is not quoted"):
        read(tmp_path / "a.csv", 'text,id\n5" pipe,1\n')


def test_tsv_with_stray_quotes_is_read_without_quoting(tmp_path: Path) -> None:
    """A quoted field would reach from one stray mark to the next and swallow rows."""
    lines = [f'" it was number {n} , they said\t{n}' for n in range(14)]

    rows, notes = read(tmp_path / "rows.tsv", "\n".join(["text\tlabel", *lines]) + "\n")

    assert [row["text"] for row in rows] == [line.partition("\t")[0] for line in lines]
    assert notes == ["quote marks are read as text, because line 2 is not quoted as in CSV"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('text\tlabel\nfine\t1\n"starts here\t1\nlost\t0\nends here"\t0\n', 3),
        ('text\tlabel\n"Quotation"\t1\nplain\t0\n', 2),
    ],
)
def test_tsv_that_can_be_read_in_two_ways_is_refused_and_both_can_be_chosen(
    tmp_path: Path, content: str, line: int
) -> None:
    path = tmp_path / "rows.tsv"

    with pytest.raises(ValueError, match=rf"line {line}: .*set data.quoting=csv or data.quoting="):
        read(path, content, TRAINING)
    plain, _ = read(path, content, ReadOptions(quoting="none"))
    quoted, _ = read(path, content, ReadOptions(quoting="csv"))

    assert '"' in plain[line - 2]["text"]
    assert not any('"' in row["text"] for row in quoted)


def test_quoted_tsv_is_read_as_csv_and_said(tmp_path: Path) -> None:
    """Excel quotes a field with a comma; a field with a tab and a line break needs quotes."""
    content = 'text\tlabel\n"hello, you"\ta\n"two\ttabs\tand\nbreak"\tb\nplain\tc\n'

    rows, notes = read(tmp_path / "rows.tsv", content, TRAINING)

    assert [row["text"] for row in rows] == ["hello, you", "two\ttabs\tand\nbreak", "plain"]
    assert notes == ["quoted as in CSV (line 2); set data.quoting=none keeps the quote marks"]


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("a.csv", "text;label\nhello, world;a\nbye;b\n", "separated by `;`"),
        ("a.csv", "text\tlabel\nhello, world\ta\nbye\tb\n", "separated by tab"),
        ("a.csv", "text|label\nhello, world|a\nbye|b\n", "separated by `|`"),
        ("a.tsv", 'text,label\n"hello, world",a\nbye,b\n', "separated by `,`"),
        ("a.csv", "sep=;\ntext;label\nhello, world;a\nbye;b\n", None),
        ("a.csv", '"sep=;"\r\ntext;label\r\nhello, world;a\r\nbye;b\r\n', None),
        (
            "a.csv",
            '\ufeff\ufefftext,label\n"hello, world",a\nbye,b\n',
            "order mark within the file",
        ),
        ("a.csv", '\n  \ntext,label\n"hello, world",a\nbye,b\n', None),
        ("a.csv", 'text\u00a0,label\n"hello, world",a\nbye,b\n', None),
        ("A.CSV", 'text, label\n"hello, world", a\nbye, b\n', None),
        ("a.csv", 'text,label,,\n"hello, world",a,,\nbye,b,,\n', None),
        ("a.csv", 'text,label\n"hello, world",a,\nbye,b,\n', "more values than columns"),
        ("a.csv", 'text, label\r\n"hello, world" , "a"\r\nbye, b\r\n', "blanks around quoted"),
        ("a.csv", 'text,label\n"hello, world",a\n\nbye,b\n\n', "empty lines are skipped (line 3)"),
    ],
)
def test_common_forms_are_read_and_what_was_detected_is_said(
    tmp_path: Path, name: str, content: str, note: str | None
) -> None:
    rows, notes = read(tmp_path / name, content)

    assert [row["text"] for row in rows] == ["hello, world", "bye"]
    assert [row["label"].strip() for row in rows] == ["a", "b"]
    assert (note or "nothing") in (notes[0] if notes else "nothing")


def test_carriage_returns_end_lines_though_a_text_has_a_line_feed(tmp_path: Path) -> None:
    """As Excel for Mac writes a cell with two lines."""
    rows, _ = read(tmp_path / "a.csv", 'text,label\r"one\ntwo",a\rbye,b\r')

    assert rows == [{"text": "one\ntwo", "label": "a"}, {"text": "bye", "label": "b"}]


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("a.csv", '"text","label"\n"a",\\N\n', r"mean a missing value, is read as text (line 2)"),
        ("a.tsv", "text\tlabel\na\t\\N\n", r"mean a missing value, is read as text (line 2)"),
        ("a.tsv", "text\tlabel\na\\nb\t1\n", r"backslash escapes such as `\n` and `\t` are read"),
        ("a.csv", "text,label\na,1\n\ufeffb,2\n", "a byte order mark within the file"),
        ("a.csv", "text\na\ntext\n", "a row is the same as the header (line 3)"),
    ],
)
def test_what_other_programs_mean_otherwise_is_said(
    tmp_path: Path, name: str, content: str, note: str
) -> None:
    _, notes = read(tmp_path / name, content)

    assert note in "; ".join(notes)


def test_header_with_another_delimiter_is_named_if_rows_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"contains `;`, set data.delimiter=';' if that is the"):
        read(tmp_path / "a.csv", "text;label\nhello, world;a;b\nbye;b\n", TRAINING)


def test_unused_columns_may_appear_twice(tmp_path: Path) -> None:
    content = "id,text,id\n1,a,2\n"

    rows, _ = read(tmp_path / "a.csv", content, ReadOptions(used=frozenset({"text"})))

    assert rows == [{"text": "a"}]
    with pytest.raises(ValueError, match="two columns `id`"):
        read(tmp_path / "a.csv", content)


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_mark_tells_the_encoding(tmp_path: Path, codec: str) -> None:
    rows, notes = read(tmp_path / "a.csv", "text,label\r\nécole,a\r\n".encode(codec))

    assert rows == [{"text": "école", "label": "a"}]
    assert bool(notes) is (codec != "utf-8-sig")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text\n" * 20_000 + b"caf\xe9\n", r"line 20001: .*byte 100003 is 0xe9.*`café`"),
        ("text,label\nhello,a\n".encode("utf-16-le"), "set data.encoding=utf-16-le"),
        (gzip.compress(b"text\na\n", mtime=0), "looks like gzip; give it a name that ends in .gz"),
        ("テキスト,ラベル\n".encode("utf-16-le"), "UTF-16 without a byte order mark, set data.enc"),
        ("こんにちは\n".encode("cp932"), r"line 1: .*Excel also writes cp932 in Japan"),
        ("text\na\n".encode("utf-16")[:-1], "line 3: .*is damaged or incomplete"),
        (b"PK\x03\x04\x14\x00", "Excel workbook"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"<!DOCTYPE html>\n<html>", "HTML"),
    ],
)
def test_file_that_is_no_utf8_text_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.csv", content, TRAINING)


def test_encoding_can_be_named(tmp_path: Path) -> None:
    rows, _ = read(tmp_path / "a.csv", b"text\ncaf\xe9\n", ReadOptions(encoding="cp1252"))

    assert rows == [{"text": "café"}]


def test_named_encoding_that_the_bytes_contradict_is_refused_or_said(tmp_path: Path) -> None:
    named = ReadOptions(encoding="cp1252", key="data.")

    for codec in ("utf-8-sig", "utf-16"):
        with pytest.raises(ValueError, match=r"mark of UTF-\d+, but data.encoding=cp1252; remove"):
            read(tmp_path / "a.csv", "text\ncafé\n".encode(codec), named)
    _, notes = read(tmp_path / "a.csv", "text\ncafé\n", named)
    assert notes == ["read as cp1252, as data.encoding says, but it is valid UTF-8"]
    assert read(tmp_path / "a.csv", b"text\ncaf\xe9\n", named) == ([{"text": "café"}], [])


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("a.xlsx", "export the sheet as CSV"),
        ("a.feather", "write it as Parquet"),
        ("a.parquet.gz", "decompress it first"),
        ("a.txt", "rename it to the format that it has"),
        ("a.sqlite", "sql:sqlite:///FILE#TABLE"),
        ("a.dta", "write the rows as .jsonl or .csv"),
    ],
)
def test_unknown_suffix_is_refused_with_what_to_do(tmp_path: Path, name: str, advice: str) -> None:
    with pytest.raises(ValueError, match=f"unknown format, .*{advice}"):
        read(tmp_path / name, "x")


def test_damaged_gzip_is_an_error_and_no_shorter_file(tmp_path: Path) -> None:
    whole = gzip.compress(b"text\n" + b"".join(b"row %d\n" % n for n in range(50_000)))

    with pytest.raises(ValueError, match="gzip file is incomplete or damaged"):
        read(tmp_path / "a.csv.gz", whole[:-100])


def test_line_that_never_ends_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    """As a compressed file of few bytes can hold."""
    options = ReadOptions(max_row_bytes=1_000_000, key="data.")

    with pytest.raises(ValueError, match=r"a line is longer than 1 MB; set data.max_row_mb=2"):
        read(tmp_path / "a.csv.gz", gzip.compress(b"text\n" + b"a" * 3_000_000), options)
    with pytest.raises(ValueError, match=r"line 2: a row is longer .* is a quote mark not closed"):
        read(tmp_path / "b.csv", b'text\n"' + b"a\n" * 600_000, options)


def test_header_alone_gives_its_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,id\n")

    assert survey(tmp_path / "a.csv", output=tmp_path / "b.csv") == (0, ["text", "id"])


def test_directory_and_pattern_are_read_in_the_order_of_names(tmp_path: Path) -> None:
    for number in (2, 10, 1):
        (tmp_path / f"part-{number:02}.csv").write_text(f"text,label\n{number},a\n")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "notes.txt").touch()

    rows, notes = [*read_rows(tmp_path)], list[str]()
    assert [row["text"] for row in rows] == ["1", "2", "10"]
    assert list(read_rows(tmp_path / "part-*.csv", say=notes.append)) == rows
    assert notes == ["3 files, from `part-01.csv` to `part-10.csv`"]

    (tmp_path / "part-11.csv").write_text("text,topic\n11,a\n")
    with pytest.raises(ValueError, match=r"part-11.csv`: the columns are `text`, `topic`, but"):
        list(read_rows(tmp_path))


def test_file_of_a_directory_is_never_left_out_in_silence(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n1,a\n")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"text,label\n1,a\n", mtime=0))
    (tmp_path / "_b.csv").write_text("text,label\n2,a\n")
    notes = list[str]()

    assert len(list(read_rows(tmp_path, say=notes.append))) == 2
    assert notes[:2] == [
        "left out `_b.csv`, because of the first character",
        "`a.csv`, `a.csv.gz` differ in the suffix only; are they copies?",
    ]
    (tmp_path / "c.csv").symlink_to(tmp_path / "gone.csv")
    for source in (tmp_path, tmp_path / "*.csv"):
        with pytest.raises(ValueError, match=r"`c.csv` is a link to a file that is not there"):
            list(read_rows(source))


def test_directories_that_a_pattern_matches_are_said(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n1,a\n")
    (tmp_path / "more").mkdir()
    notes = list[str]()

    list(read_rows(tmp_path / "*", say=notes.append))

    assert notes == ["left out the directories `more`"]


def test_file_without_a_header_gets_the_names_of_the_options(tmp_path: Path) -> None:
    options = ReadOptions(column_names=("label", "text"), delimiter=";", key="data.")
    path = tmp_path / "rows.csv"
    path.write_text("3;a text, with a comma\n4;another\n")

    assert list(read_rows(path, options)) == [
        {"label": "3", "text": "a text, with a comma"},
        {"label": "4", "text": "another"},
    ]
    path.write_text("3;a;b\n")
    with pytest.raises(ValueError, match="line 1: 3 values for 2 columns"):
        list(read_rows(path, options))
    path = path.rename(tmp_path / "rows.jsonl")
    with pytest.raises(ValueError, match=r"data\.column_names is for CSV and TSV files"):
        list(read_rows(path, options))
