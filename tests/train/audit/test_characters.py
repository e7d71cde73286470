"""Broken characters are found, and languages that are written otherwise are not blamed."""

# ruff: noqa: RUF001
from __future__ import annotations

from collections import Counter

import pytest

from train.audit.characters import character_problems, dominant_scripts, foreign_share, scripts_of


def broken(text: str) -> str:
    """Bytes of UTF-8 read as Windows-1252."""
    return text.encode("utf-8").decode("cp1252")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("caf\ufffd", "replacement character"),
        (broken("café"), "read in a wrong encoding: 'Ã©' was 'é'"),
        (broken("it’s late"), "was '’'"),
        (broken("naïve – yes"), "was 'ï'"),
        ("great ðŸ˜€", "was '😀'"),
        (broken("привет".replace("р", "п")), "read in a wrong encoding"),
        ("a\x00b", "control character U+0000"),
        ("a\x9cb", "control character U+009C"),
        ("pay\u202enow", "invisible character U+202E"),
        ("zero\u200bwidth", "invisible character U+200B"),
    ],
)
def test_broken_characters_are_named(text: str, problem: str) -> None:
    assert any(problem in found for found in character_problems(text)), character_problems(text)


@pytest.mark.parametrize(
    "text",
    [
        "plain text\nwith\ta tab",
        "Größe, „Spaß“ und weiß…",
        "NÃO, MAÇÃ; ESPAÑA",
        "« Ça va »",
        "می‌خواهم",
        "👨‍👩‍👧 family",
        "Привет “мир”",
        "日本語",
        "£5 – €6",
    ],
)
def test_whole_texts_of_many_languages_are_left_alone(text: str) -> None:
    assert character_problems(text) == []


def test_text_in_another_script_than_the_data_set_is_foreign() -> None:
    texts = ["where is my parcel?"] * 40 + ["ça va très bien"] * 5 + ["где моя посылка?"]
    dominant = dominant_scripts(map(scripts_of, texts))

    assert dominant == {"LATIN"}
    assert foreign_share(scripts_of(texts[-1]), dominant) == 1
    assert foreign_share(scripts_of("мой order 12345 is late"), dominant) == pytest.approx(3 / 14)
    assert foreign_share(scripts_of("да"), dominant) == 0  # too few letters to say
    assert foreign_share(Counter(), dominant) == 0


def test_mixed_data_set_has_several_scripts_of_its_own() -> None:
    assert dominant_scripts(map(scripts_of, ["日本語のテキスト", "abc"])) >= {"HIRAGANA", "LATIN"}
