"""The model card: what it states of bundles with and without an evaluation."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from serve.bundle.seal import open_bundle
from train.config.sections import PublishSection
from train.publish.card import adapter_card, model_card, weak_labels


def test_weak_labels_are_those_with_the_lowest_f1() -> None:
    f1s = {"b": 0.5, "a": 0.9, "c": 0.1}
    values = [{"label": label, "f1": {"value": value}} for label, value in f1s.items()]

    assert weak_labels({"per_label": values}) == [("c", 0.1), ("b", 0.5), ("a", 0.9)]
    assert weak_labels({}) == []


@pytest.mark.parametrize("kind", ["multi", "pair"])
def test_card_of_an_unscored_bundle_says_so_and_asks_as_its_task_does(
    bundles: Callable[[str], Path], kind: str
) -> None:
    manifest = open_bundle(bundles(kind)).manifest

    text = model_card(
        manifest,
        PublishSection(base_model="owner/base"),
        target="hub:me/topics",
        tag="v1",
        report=None,
        plots=[],
    )

    assert "Not evaluated on test rows." in text
    assert "model-index" not in text
    assert "base_model: owner/base" in text
    asked = {"multi": 'classify("a text", top_k=None)', "pair": '"text_pair": "second"'}[kind]
    assert asked in text
    assert 'pipeline("text-classification", "me/topics", revision="v1")' in text


HOSTILE = [
    "a`b\n\n## Evil heading\n[x](javascript:alert(1))",
    "<img src=x onerror=alert(1)>`<b>",
    "``` | --- | ```\n```",
    "a | b `c` \\|",
    "\r\n---\nlicense: evil\n---\n# x",
    "\u2028# x\u2029\x85\x0b\x0c# y",
    "\u202eevil",
    "![x](http://192.0.2.1/x.png) https://evil.example",
    "\ttab  ",
    "`",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_label_column_and_source_are_shown_and_do_nothing(
    bundles: Callable[[str], Path], text: str
) -> None:
    manifest = open_bundle(bundles("pair")).manifest
    hostile = manifest.model_copy(
        update={
            "labels": (text, *manifest.labels[1:]),
            "text_columns": (text, "other"),
            "data": {"train": {"rows": text, "sha256": text}},
            "config": {"data": {"train": text, "test": text}},
            "versions": {"x": text},
            "base_model": {"base": text, "revision": text},
        }
    )
    section = PublishSection(license=text, language=[text])
    report = {"per_label": [{"label": text, "f1": {"value": 0.1}}]}
    kwargs = {"target": "hub:me/topics", "tag": "v1"}

    cards = [
        model_card(hostile, section, report=report, plots=[], **kwargs),
        adapter_card(hostile, section, base=text, place="hub:me/topics-adapter", **kwargs),
    ]

    for card in cards:
        _, front, body = re.split(r"(?m)^---$\n?", card, maxsplit=2)
        assert yaml.safe_load(front)["license"] == text
        page = MarkdownIt("commonmark").enable("table").enable("strikethrough").render(body)
        page = re.sub(r"(?s)<pre>.*?</pre>", "", page)
        assert not re.search(r"(?i)<(img|b|del|a|hr)[ >]|<h\d>(x|y|evil)", page), page
        assert not re.search(r"[\u2028\u2029\u202e\x85\x0b\x0c]", body)
        assert page.count("<table>") == 0 or "<td>train</td>" in page
        rows = [row for row in page.split("<tr>") if "<td>train</td>" in row]
        assert [row.count("<td") for row in rows] == [4] * len(rows)
