"""Broken characters are found, and no correct text of any language is reported."""

# ruff: noqa: RUF001
from __future__ import annotations

from collections import Counter

import pytest

from train.audit.characters import (
    character_problems,
    dominant_scripts,
    foreign_fraction,
    scripts_of,
)


def broken(text: str, encoding: str = "cp1252") -> str:
    """Encode as UTF-8 and decode with the wrong encoding."""
    return text.encode("utf-8").decode(encoding)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("caf\ufffd", "replacement character"),
        (broken("café"), "decoded with the wrong encoding, should be 'café'"),
        (broken("it’s late"), "should be 'it’s late'"),
        (broken("naïve – yes"), "should be 'naïve – yes'"),
        ("great ðŸ˜€", "should be '😀'"),
        (broken("привет".replace("р", "п")), "should be 'ппивет'"),
        (broken("my café", "latin-1"), "should be 'café'"),
        (broken("где мой заказ?", "cp1251"), "should be 'где мой заказ?'"),
        (broken("zażółć gęślą", "cp1250"), "should be 'zażółć gęślą'"),
        (broken("größer", "mac_roman"), "should be 'größer'"),
        (broken(broken("café")), "should be 'café'"),
        (broken("日本語", "latin-1"), "should be '日本語'"),
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
        "Où est-il ? Œuvre n° 5 – 20 °C, ± 5 %",
        "Zażółć gęślą jaźń – „tak”",
        "Příliš žluťoučký kůň úpěl ďábelské ódy",
        "Tôi muốn trả lại đơn hàng này",
        "İstanbul’da ığdır",
        "ΚΑΛΗΜΕΡΑ, πού είναι το δέμα μου;",
        "Где моя посылка? «Она должна была прийти вчера» – №5",
        "مرحبا، أين طردي؟",
        "שלום, איפה החבילה?",
        "मेरा पार्सल कहाँ है?",
        "พัสดุของฉันอยู่ที่ไหน",
        "내 소포는 어디에 있나요?",
    ],
)
def test_whole_texts_of_many_languages_are_left_alone(text: str) -> None:
    assert character_problems(text) == []


def test_long_repaired_text_is_shown_from_its_first_changed_word() -> None:
    (problem,) = character_problems("fine " * 200 + broken("café ") * 200)

    assert problem.partition("should be ")[2].startswith("'café café")
    assert len(problem) < 200


def test_text_in_another_script_than_the_data_set_is_foreign() -> None:
    texts = ["where is my parcel?"] * 40 + ["ça va très bien"] * 5 + ["где моя посылка?"]
    dominant = dominant_scripts(map(scripts_of, texts))

    assert dominant == {"LATIN"}
    assert foreign_fraction(scripts_of(texts[-1]), dominant) == 1
    assert foreign_fraction(scripts_of("мой order 12345 is late"), dominant) == pytest.approx(
        3 / 14
    )
    assert foreign_fraction(scripts_of("да"), dominant) == 0  # too few letters to say
    assert foreign_fraction(Counter(), dominant) == 0


def test_mixed_data_set_has_several_scripts_of_its_own() -> None:
    assert dominant_scripts(map(scripts_of, ["日本語のテキスト", "abc"])) >= {"HIRAGANA", "LATIN"}
