"""Markup shows every character of a value, and none of them can change the page."""

from __future__ import annotations

import pytest

from serve.html import Html, image, page, paragraph, safe, table


@pytest.mark.parametrize(
    ("text", "code"),
    [("a\u200bb", "U+200B"), ("a\u202eb", "U+202E"), ("a\x1bb", "U+001B"), ("a\ufeff", "U+FEFF")],
)
def test_hidden_characters_are_spelled_out(text: str, code: str) -> None:
    markup = safe(text)

    assert code in markup
    assert text[1] not in markup


@pytest.mark.parametrize("text", ["two\nlines\tand a tab", "می‌خواهم", "👨‍👩‍👧", "Größe"])
def test_visible_characters_and_joiners_are_kept(text: str) -> None:
    assert safe(text) == text


def test_values_are_escaped_once_and_markup_not_at_all() -> None:
    assert safe("<b>") == "&lt;b&gt;"
    assert safe(Html("<b>")) == "<b>"
    assert paragraph("see `a<b`, ", Html("`x`")) == "<p>see <code>a&lt;b</code>, `x`</p>"
    assert "<td>&lt;i&gt;</td>" in table(["x"], [["<i>"]])


def test_attributes_and_the_title_hold_text_alone() -> None:
    assert 'alt="&quot;a\u200b"' in image(b"", '"a\u200b')
    assert "<title>&lt;a\u200b</title>" in page("<a\u200b", [], []).decode()


def test_page_is_readable_on_a_phone_and_in_dark_mode() -> None:
    markup = page("t", [], [table(["x"], [[1]])]).decode()

    assert '<meta name="viewport" content="width=device-width' in markup
    assert "prefers-color-scheme: dark" in markup
    assert '<div class="table"><table>' in markup
