"""Markup shows every character of a value, and none of them can change the page."""

from __future__ import annotations

import re
from html import unescape

import pytest

from serve.html import STYLE, Html, embedded, page, paragraph, safe, scrolling, table


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
    assert "<td>&lt;i&gt;</td>" in table(["x"], [["<i>"]], caption="c")


def test_attributes_and_the_title_hold_text_alone() -> None:
    assert 'aria-label="&quot;a\u200b"' in scrolling("", '"a\u200b')
    assert "<title>&lt;a\u200b</title>" in page("<a\u200b", [], []).decode()


def test_tables_have_a_caption_a_scope_and_a_region_that_the_keyboard_reaches() -> None:
    markup = table(["label", "rows"], [["spam", 1]], kinds=["name", "number"], caption="Labels")

    assert '<div class="table" role="region" tabindex="0" aria-label="Labels">' in markup
    assert "<caption>Labels</caption>" in markup
    assert '<th scope="col" class="name">label</th>' in markup
    assert '<th scope="row" class="name">spam</th><td class="number">1</td>' in markup


def test_page_embeds_itself_without_rights() -> None:
    document = page("<t>", [], [paragraph('"quoted" & <b>')])

    markup = embedded(document)

    assert 'sandbox=""' in markup
    assert unescape(markup.partition('srcdoc="')[2].partition('" sandbox')[0]).encode() == document


def colours(scheme: str) -> dict[str, tuple[float, float, float]]:
    """The colours of a scheme by name, each channel from 0 to 1."""
    light, _, dark = STYLE.partition("@media screen and (prefers-color-scheme: dark)")
    found = {}
    for block in [light, dark.partition("} }")[0]][: 1 + (scheme == "dark")]:
        for name, value in re.findall(r"--([\w-]+): (#\w+|[\d ]+);", block):
            if value.startswith("#"):
                digits = value[1:] if len(value) == 7 else "".join(2 * c for c in value[1:])
                found[name] = tuple(int(digits[n : n + 2], 16) / 255 for n in (0, 2, 4))
            else:
                found[name] = tuple(int(channel) / 255 for channel in value.split())
    return found


def contrast(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """WCAG 2.2: relative luminance and contrast ratio."""

    def luminance(colour: tuple[float, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_of_wcag_aa(scheme: str) -> None:
    found = colours(scheme)

    for text in ("text", "quiet", "series", "accent", "good", "bad"):
        for background in ("page", "panel"):
            assert contrast(found[text], found[background]) >= 4.5, (text, background)
    for background in ("worse", "better"):
        assert contrast(found["text"], found[background]) >= 4.5
        assert contrast(found["quiet"], found[background]) >= 4.5
    for shade in ("series-rgb", "accent-rgb"):
        darkest = [0.45 * a + 0.55 * b for a, b in zip(found[shade], found["page"], strict=True)]
        assert contrast(found["text"], tuple(darkest)) >= 4.5
