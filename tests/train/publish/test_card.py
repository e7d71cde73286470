"""The model card: what it states of bundles with and without an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from serve.bundle.seal import open_bundle
from train.config.sections import PublishSection
from train.publish.card import model_card, weak_labels


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
