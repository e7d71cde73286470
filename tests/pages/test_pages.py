"""Every page in a real browser: nothing is wider than the screen, and nothing is requested."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Browser, open_browser
from page_samples import SAMPLES

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

MEASURE = """(() => {
  document.querySelectorAll("details").forEach(e => e.open = true);
  const wide = [...document.querySelectorAll("body *")].filter(e =>
    !e.closest("svg, .table, pre") && e.getBoundingClientRect().right > innerWidth + 1);
  const levels = [...document.querySelectorAll("h1, h2, h3")].map(e => +e.tagName[1]);
  return {
    width: document.documentElement.scrollWidth,
    screen: innerWidth,
    outside: wide.map(e => e.outerHTML.slice(0, 200)),
    skipped: levels.some((level, n) => level > (levels[n - 1] ?? 0) + 1),
    unnamed: document.querySelectorAll(
      "[role=img]:not(:has(title)), [role=img]:not(:has(desc)), table:not(:has(caption))").length,
    twice: (ids => ids.length - new Set(ids).size)(
      [...document.querySelectorAll("[id]")].map(e => e.id)),
    verdict: document.querySelector("header .verdict").getBoundingClientRect().bottom,
  };
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.mark.parametrize("name", SAMPLES)
def test_page_fits_every_screen_and_asks_for_nothing(
    name: str, browser: Browser, tmp_path: Path
) -> None:
    file = tmp_path / "page.html"
    file.write_bytes(SAMPLES[name]())

    for width, dark in ((1280, False), (390, True), (390, False), (1280, True)):
        view = browser.view(file, width=width, dark=dark, expression=MEASURE)

        found: dict[str, Any] = view.values
        assert found["screen"] == width
        assert found["width"] <= width
        assert found["outside"] == []
        assert not found["skipped"]
        assert width < 600 or found["verdict"] < 600
        assert found["unnamed"] == found["twice"] == 0
        assert view.messages == []
        assert view.requests == []


def test_the_browser_would_notice_a_page_that_is_too_wide(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(
        "<!doctype html><meta name=viewport content='width=device-width'>"
        "<img src='http://127.0.0.1:9/x.png'><header><p class=verdict style='width: 900px'>x</p>"
    )

    view = browser.view(file, width=390, expression=MEASURE)

    assert view.values["width"] >= 900
    assert view.requests == ["http://127.0.0.1:9/x.png"]
    assert view.messages
